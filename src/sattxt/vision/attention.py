"""Attention as the towers of this package compute it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_FEW = 32  # tokens up to which torch's fused kernel takes longer on a CPU than its parts one by one, up to twice


def attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """(N, heads, T, width) each to the same: softmax(q k^T / sqrt(width)) v.

    Args:
        seen: bool, broadcast to (N, heads, T, T): which tokens each token looks at; ``None``: all.
    """
    if q.device.type == "cpu" and (q.requires_grad or (q.dtype == torch.float32 and q.shape[-2] <= _FEW)):
        # The fused gradient takes ten times as long for as few tokens as an image has, too.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if seen is not None:
            scores = scores.masked_fill(~seen, float("-inf"))
        return scores.softmax(dim=-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
