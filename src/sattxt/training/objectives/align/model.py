"""What stage 2 trains: the vision tower, the text head and the temperature."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.config import VisionConfig
from sattxt.text.head import TextHead
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
