"""Attention as the towers of this package compute it, and the transformer block of the vision head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW = 32  # tokens up to which torch's fused kernel takes longer on a CPU than its parts one by one, up to twice


def attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None, *, bias: Tensor | None = None) -> Tensor:
    """(N, heads, T, width) each to the same: softmax(q k^T / sqrt(width) + bias) v.

    Args:
        seen: bool, broadcast to (N, heads, T, T): which tokens each token looks at; ``None``: all.
        bias: broadcast to (N, heads, T, T), added to the scores, such as :func:`distance_bias`; not with ``seen``.
    """
    if q.device.type == "cpu" and (q.requires_grad or (q.dtype == torch.float32 and q.shape[-2] <= _FEW)):
        # The fused gradient takes ten times as long for as few tokens as an image has, too.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if seen is not None:
            scores = scores.masked_fill(~seen, float("-inf"))
        if bias is not None:
            scores = scores + bias
        return scores.softmax(dim=-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen if bias is None else bias.to(q.dtype))


def head_slopes(heads: int) -> Tensor:
    """(heads,) how steeply each head's attention falls with distance (ALiBi, Press et al. 2022, arXiv 2108.12409)."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    return torch.tensor(slopes + [2 ** (-4 * (2 * i - 1) / power) for i in range(1, heads - power + 1)])


def distance_bias(queries: Tensor, keys: Tensor, heads: int, scale: float = 1.0) -> Tensor:
    """(1, heads, Q, K): minus each head's slope times ``scale`` times the distance of query and key (2D-ALiBi).

    Args:
        queries, keys: (Q, 2) and (K, 2) row and column of patches, in one unit.
        scale: ground sampling distance over that of reference (Scale-ALiBi); 1: none.
    """
    # Squares one by one: torch's cdist by a matrix product is off by more than a golden output allows.
    distance = (queries[:, None] - keys[None]).square().sum(dim=-1).sqrt()
    return -head_slopes(heads).to(distance).view(1, -1, 1, 1) * scale * distance


class Attention(nn.Module):
    """Multi-head self-attention without position encoding; no bias on q, k, v."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, dim) to the same."""
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim))


class SwiGLU(nn.Module):
    """w3(silu(w1 x) * w2 x) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden)
        self.w2 = nn.Linear(dim, hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, dim) to the same."""
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class LayerScale(nn.Module):
    """A learned gain per channel on a residual branch."""

    def __init__(self, dim: int, initial: float = 0.1) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to the same."""
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block with LayerScale."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = SwiGLU(dim, hidden)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, dim) to the same."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))
