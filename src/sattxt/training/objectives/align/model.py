"""What stage 2 trains: the vision tower, the text head and the temperature."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.config import VisionConfig
from sattxt.errors import InputError
from sattxt.text.tower import TextHead
from sattxt.vision.tower import VisionTower


class AlignModel(nn.Module):
    """Everything that is trained: vision tower, text head, log temperature."""

    def __init__(self, vision: VisionConfig | VisionTower, text_hidden: int, initial_scale: float) -> None:
        super().__init__()
        self.vision = vision if isinstance(vision, VisionTower) else VisionTower(vision)
        self.text = TextHead(text_hidden, 2 * self.vision.config.head.dim)
        # One value, but not 0-d: FSDP takes no scalar parameters.
        self.log_scale = nn.Parameter(torch.tensor([math.log(initial_scale)]))

    def image(self, pixel_values: Tensor) -> Tensor:
        """(N, D) float32, L2-normalised."""
        return F.normalize(self.vision(pixel_values).embedding.float(), dim=-1)

    def texts(self, pooled: Tensor) -> Tensor:
        """(M, D) float32, L2-normalised."""
        return F.normalize(self.text(pooled), dim=-1)


@torch.no_grad()
def make_isometric(head: TextHead, pooled: Tensor) -> None:
    """Set ``head`` to a centring of the frozen vectors followed by a random matrix with orthonormal columns.

    An isometry keeps all distances. A head trained on a few thousand phrases bends the frozen encoder's idea of which
    texts are alike, and words that were not among them suffer.

    Args:
        head: changed in place.
        pooled: (T, hidden) frozen vectors of the texts at hand; their mean becomes the origin.

    Raises:
        InputError: the shared space is narrower than the frozen encoder.
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
    torch.nn.init.orthogonal_(head.proj.weight)
