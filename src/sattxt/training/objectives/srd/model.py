"""Settings of stage 1, what it trains, and what it minimises: spectral representation distillation (SATtxt, 3.1).

The published loss compares distributions over the teacher's channels; beside it, a regression of the teacher's tokens
place by place, which draws more from few multispectral tiles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from sattxt.training.objectives.base import StepConfig
from sattxt.training.schema import Count, NotNegative, Share, Whole
from sattxt.vision.tower import ImageTokens, VisionTower


class SRDConfig(StepConfig):
    """Settings of a distillation run."""

    global_views: Count = 2  # large views of a tile that the student sees
    global_size: Count = 96  # their side in pixels
    global_area: tuple[float, float] = (0.5, 1.0)  # their smallest and largest share of the tile
    local_views: Whole = 4  # small views
    local_size: Count = 48
    local_area: tuple[float, float] = (0.1, 0.4)
    ms_views: Count = 2  # views that the teacher sees, with the geometry of the first global ones; at most as many
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04  # below the student's
    centre_momentum: Share = 0.9  # of the teacher's running mean
    srd_weight: NotNegative = 1.0  # of the published loss; 0 leaves it out
    patch_weight: NotNegative = 0.0  # of the regression of the teacher's tokens, place by place; 0 leaves it out
    patch_centred: bool = False  # the regression's targets without their mean, which most of a high cosine is
    teacher_cache: bool = False  # the teacher sees each whole tile once; views are cut from its map (an approximation)
    freeze_backbone: bool = True  # only the head and the linear maps are trained, as in the paper
    backbone_lr: NotNegative = 3e-4  # learning rates
    head_lr: NotNegative = 1e-3

    @model_validator(mode="after")
    def _check_together(self) -> SRDConfig:
        if not 0 < self.teacher_temperature < self.student_temperature:  # the teacher is the sharper one
            raise ValueError(
                f"teacher_temperature={self.teacher_temperature}, student_temperature={self.student_temperature}: "
                "pass 0 < teacher_temperature < student_temperature"
            )
        if self.ms_views > self.global_views:
            raise ValueError(
                f"ms_views={self.ms_views}: pass 1 to global_views={self.global_views}, whose geometry they share"
            )
        for name, (low, high) in (("global_area", self.global_area), ("local_area", self.local_area)):
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name}=({low}, {high}): pass (smallest, largest), 0 < smallest <= largest <= 1")
        if not self.srd_weight + self.patch_weight:
            raise ValueError("srd_weight and patch_weight: pass at least one above 0")
        return self


class SRDModel(nn.Module):
    """The vision tower, linear maps onto the teacher's width that are left behind afterwards, the teacher's centres.

    vision: the student. to_teacher: W_ms, from the image embedding onto the teacher's width. patch_to_teacher: its
    counterpart on patch tokens. centre, patch_centre: (width,), moving averages of the teacher's mean over places, and
    of its layer-normalised tokens.
    """

    def __init__(self, vision: VisionTower, teacher_width: int) -> None:
        super().__init__()
        self.vision = vision
        dim = self.vision.config.head.dim
        self.to_teacher = nn.Linear(2 * dim, teacher_width)
        nn.init.zeros_(self.to_teacher.weight)  # the first answer is the uniform distribution: at a temperature of 0.1,
        nn.init.zeros_(self.to_teacher.bias)  # the usual start would be sure of nonsense and take long to unlearn it
        self.patch_to_teacher = nn.Linear(dim, teacher_width)
        self.centre: Tensor
        self.patch_centre: Tensor
        self.register_buffer("centre", torch.zeros(teacher_width))
        self.register_buffer("patch_centre", torch.zeros(teacher_width))

    def logits(self, tokens: ImageTokens) -> Tensor:
        """(N, width) before the temperature."""
        out: Tensor = self.to_teacher(tokens.embedding).float()
        return out

    def patches(self, tokens: ImageTokens) -> Tensor:
        """(N, width, rows, cols): the teacher's tokens as the student predicts them."""
        patches: Tensor = self.patch_to_teacher(tokens.patches).float()
        return patches.transpose(1, 2).reshape(len(patches), -1, *tokens.grid)


def teacher_distribution(teacher: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """q = softmax((z - mu) / tau_t) over the last axis, without gradient."""
    return F.softmax((teacher.detach() - centre.detach()) / temperature, dim=-1)


def srd_loss(student: Tensor, q: Tensor, temperature: float) -> Tensor:
    """Mean over all pairs (v, u) and tiles of the cross-entropy -q_u . log p_v.

    Args:
        student: (V, N, width), the RGB views through the head and the temporary linear map.
        q: (U, N, width), :func:`teacher_distribution` of the multispectral views.
        temperature: tau_s, of the student.
    """
    log_p = F.log_softmax(student / temperature, dim=-1)
    # Each pair's term is linear in q_u and in log p_v, so the mean over pairs is that of the means.
    return -(q.mean(dim=0) * log_p.mean(dim=0)).sum(dim=-1).mean()


def patch_regression(student: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
    """(N,): 1 - cosine similarity (0 to 2) of predicted tokens to the teacher's, layer-normalised, mean over places.

    Args: as :func:`match_maps`.
    """
    predicted, target = match_maps(student, teacher, centre)
    return (1 - F.cosine_similarity(predicted, target, dim=1)).mean(dim=(1, 2))


def match_maps(student: Tensor, teacher: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """The maps that :func:`patch_regression` compares: on one grid, the teacher's layer-normalised, no gradient.

    Args:
        student: (N, width, rows, cols) and teacher: (N, width, rows', cols') of the same ground. The finer grid is
            resampled to the coarser. No gradient reaches the teacher.
        centre: (width,), taken off the layer-normalised tokens: what all places share need not be predicted; or zeros.
    """
    size = [min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    target = normalise_tokens(teacher) - centre.detach().view(1, -1, 1, 1)
    student, target = (F.interpolate(m, size, mode="bilinear", antialias=True) for m in (student, target))
    return student, target


def normalise_tokens(maps: Tensor) -> Tensor:
    """(N, width, rows, cols) with every token at mean 0 and variance 1 over the width; no gradient."""
    last = maps.detach().movedim(1, -1)
    return F.layer_norm(last, last.shape[-1:]).movedim(-1, 1)
