"""Objectives of stage 1, spectral representation distillation (SATtxt, arXiv 2602.22613, section 3.1).

The published one compares distributions over the teacher's channels; beside it, a regression of the teacher's tokens
place by place, which draws more from few multispectral tiles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.errors import InputError


@torch.no_grad()
def move_centre(centre: Tensor, teacher: Tensor, momentum: float) -> None:
    """The moving average of the teacher's outputs, in place: mu <- m mu + (1 - m) mean z.

    Args:
        centre: (width,).
        teacher: (..., width); the mean is over all but the last axis.
        momentum: m, 0 to 1; 0 sets the centre to the mean.
    """
    centre.lerp_(teacher.to(centre).reshape(-1, len(centre)).mean(dim=0), 1 - momentum)


def check_temperatures(student: float, teacher: float) -> None:
    """Raise InputError unless 0 < teacher < student: the teacher is the sharper one."""
    if not 0 < teacher < student:
        raise InputError(
            f"teacher_temperature={teacher}, student_temperature={student}: pass 0 < teacher_temperature < "
            "student_temperature"
        )


def teacher_distribution(teacher: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """q = softmax((z - mu) / tau_t) over the last axis, without gradient."""
    return F.softmax((teacher.detach() - centre.detach()) / temperature, dim=-1)


def srd_loss(
    student: Tensor, teacher: Tensor, centre: Tensor, *, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Mean over all pairs (v, u) and tiles of the cross-entropy -q_u . log p_v.

    Args:
        student: (V, N, width), the RGB views through the head and the temporary linear map.
        teacher: (U, N, width), pooled outputs for the multispectral views; no gradient reaches it.
        centre: (width,), subtracted from the teacher's.
        student_temperature, teacher_temperature: tau_s and tau_t, tau_t < tau_s.

    Raises:
        InputError: temperatures or shapes do not fit.
    """
    check_temperatures(student_temperature, teacher_temperature)
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[1:] != teacher.shape[1:]:
        raise InputError(
            f"student is {tuple(student.shape)}, teacher {tuple(teacher.shape)}; pass (V, N, width) and (U, N, width)"
        )
    q = teacher_distribution(teacher, centre, teacher_temperature)
    log_p = F.log_softmax(student / student_temperature, dim=-1)
    # Each pair's term is linear in q_u and in log p_v, so the mean over pairs is that of the means.
    return -(q.mean(dim=0) * log_p.mean(dim=0)).sum(dim=-1).mean()


def patch_regression(student: Tensor, teacher: Tensor, centre: Tensor | None = None) -> Tensor:
    """Mean of 1 - cosine similarity (0 to 2) of predicted tokens to the teacher's, layer-normalised, place by place.

    Args:
        student: (N, width, rows, cols) and teacher: (N, width, rows', cols') of the same ground. The finer grid is
            resampled to the coarser. No gradient reaches the teacher.
        centre: (width,), taken off the layer-normalised tokens: what all places share need not be predicted.
    """
    predicted, target = match_maps(student, teacher, centre)
    return (1 - F.cosine_similarity(predicted, target, dim=1)).mean()


def match_maps(student: Tensor, teacher: Tensor, centre: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The maps that :func:`patch_regression` compares: on one grid, the teacher's layer-normalised, no gradient.

    Raises:
        InputError: the maps differ in tiles or width.
    """
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[:2] != teacher.shape[:2]:
        raise InputError(
            f"student is {tuple(student.shape)}, teacher {tuple(teacher.shape)}; pass (N, width, rows, cols) each"
        )
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    target = normalise_tokens(teacher)
    if centre is not None:
        target = target - centre.detach().view(1, -1, 1, 1)
    return _resample(student, size), _resample(target, size)


def normalise_tokens(maps: Tensor) -> Tensor:
    """(N, width, rows, cols) with every token at mean 0 and variance 1 over the width; no gradient."""
    last = maps.detach().permute(0, 2, 3, 1)
    return F.layer_norm(last, last.shape[-1:]).permute(0, 3, 1, 2)


def _resample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", antialias=True, align_corners=False)
