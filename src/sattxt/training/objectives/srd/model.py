"""What stage 1 trains: the vision tower, and linear maps onto the teacher's width that are left behind afterwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sattxt.config import VisionConfig
from sattxt.vision.tower import ImageTokens, VisionTower


class SRDModel(nn.Module):
    """Everything stage 1 trains, and the teacher's centre.

    vision: the student. to_teacher: W_ms, from the image embedding onto the teacher's width. patch_to_teacher: its
    counterpart on patch tokens (``None`` without the patch-wise regression). centre, patch_centre: (width,), moving
    averages of the teacher's pooled outputs and of its patch tokens.
    """

    def __init__(self, vision: VisionConfig | VisionTower, teacher_width: int, *, patches: bool = False) -> None:
        super().__init__()
        self.vision = vision if isinstance(vision, VisionTower) else VisionTower(vision)
        dim = self.vision.config.head.dim
        self.to_teacher = nn.Linear(2 * dim, teacher_width)
        nn.init.zeros_(self.to_teacher.weight)  # the first answer is the uniform distribution: at a temperature of 0.1,
        nn.init.zeros_(self.to_teacher.bias)  # the usual start would be sure of nonsense and take long to unlearn it
        self.patch_to_teacher = nn.Linear(dim, teacher_width) if patches else None
        self.centre: Tensor
        self.patch_centre: Tensor
        self.register_buffer("centre", torch.zeros(teacher_width))
        self.register_buffer("patch_centre", torch.zeros(teacher_width))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, width) logits before the temperature, and (N, width, rows, cols) predicted patch tokens."""
        tokens: ImageTokens = self.vision(pixel_values)
        pooled = self.to_teacher(tokens.embedding).float()
        if self.patch_to_teacher is None:
            return pooled, None
        patches = self.patch_to_teacher(tokens.patches).float().transpose(1, 2)
        return pooled, patches.reshape(len(patches), -1, *tokens.grid)
