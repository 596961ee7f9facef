"""A text head that keeps the frozen encoder's geometry.

A map trained on a few thousand phrases bends the frozen encoder's own idea of which texts are alike, and words that
were not among them suffer. An isometry keeps all distances; training then moves the images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.errors import InputError
from sattxt.text.head import TextHead


@torch.no_grad()
def make_isometric(head: TextHead, pooled: Tensor, near: TextHead | None = None) -> None:
    """Set ``head`` to a centring of the frozen vectors followed by a matrix with orthonormal columns.

    Args:
        head: changed in place.
        pooled: (T, hidden) frozen vectors of the texts at hand; their mean becomes the origin.
        near: the columns are turned as close as possible to what this head makes of ``pooled`` (orthogonal Procrustes,
            Schönemann 1966); ``None``: a random turn, from torch's generator.

    Raises:
        InputError: the shared space is narrower than the frozen encoder, or ``near`` has other sizes.
    """
    out, hidden = head.proj.weight.shape
    if out < hidden:
        raise InputError(
            f"text_start='isometric': the shared space has {out} dimensions, {hidden} are due; widen the head"
        )
    plain = F.layer_norm(pooled, (hidden,), eps=head.ln.eps)
    mean = plain.mean(dim=0)
    head.ln.weight.fill_(1.0)
    head.ln.bias.copy_(-mean)
    if near is None:
        torch.nn.init.orthogonal_(head.proj.weight)
        return
    if near.proj.weight.shape != head.proj.weight.shape:
        raise InputError(
            f"the text head to stay near is {tuple(near.proj.weight.shape)}, this one {(out, hidden)}; pass a model "
            "with the recipe's head and text encoder"
        )
    wanted = F.normalize(near(pooled), dim=-1)
    wanted = wanted - wanted.mean(dim=0)
    left, _, right = torch.linalg.svd(wanted.T @ F.normalize(plain - mean, dim=-1), full_matrices=False)
    head.proj.weight.copy_(left @ right)
