"""What both published teachers are made of: the pre-norm transformer block, and strict loading of its weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.errors import WeightsError


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim, bias=bias)
        self.k = nn.Linear(dim, dim, bias=bias)
        self.v = nn.Linear(dim, dim, bias=bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], self.heads, -1).transpose(1, 2)

        y = F.scaled_dot_product_attention(split(self.q(x)), split(self.k(x)), split(self.v(x)))
        out: Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return out


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class TeacherBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): (N, T, dim) to the same.

    Args:
        hidden: width inside the MLP. bias: whether q, k and v have one. eps: of the LayerNorms.
    """

    def __init__(self, dim: int, heads: int, hidden: int, *, bias: bool, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = _Attention(dim, heads, bias)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = _Mlp(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, dim)."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def load_exactly(module: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Load ``state``: every tensor is there, known, finite and of the right shape, or WeightsError names one."""
    expected = module.state_dict()
    for problem, names in (
        ("lacks", expected.keys() - state.keys()),
        ("has the unknown", state.keys() - expected.keys()),
    ):
        if names:
            raise WeightsError(f"{source}: {problem} tensor {sorted(names)[0]!r}; not the weights of this teacher")
    for name, values in state.items():
        if values.shape != expected[name].shape:
            raise WeightsError(
                f"{source}: tensor {name!r} is {tuple(values.shape)}, {tuple(expected[name].shape)} is expected"
            )
        if not bool(torch.isfinite(values).all()):
            raise WeightsError(f"{source}: tensor {name!r} holds NaN or infinity")
    module.load_state_dict(state)
