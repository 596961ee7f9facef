"""Weights as int8 with one scale per row, and back: a quarter of the bytes, for the bundled text encoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sattxt.errors import WeightsError

#: A packed matrix ``name`` is int8; its row scales are stored beside it as ``name + SCALE_SUFFIX``, float32.
SCALE_SUFFIX = ".row_scale"

_LEVELS = 127
_CLIPS = tuple(1.0 - 0.01 * step for step in range(41))  # of the row's largest magnitude: 1.00 down to 0.60


def pack_int8(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Quantise every floating 2-D tensor symmetrically, one scale per row (output channel).

    A row ``w`` is stored as ``round(w / s)`` clamped to [-127, 127]; ``s`` is the one of 41 clipping points (60 % to
    100 % of the row's largest magnitude) with the least squared error. Other floating tensors are kept as float32,
    integer tensors as they are. The same input gives the same bytes.

    Raises:
        WeightsError: a tensor has NaN or infinite values, or a name ends in ``.row_scale``.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(SCALE_SUFFIX):
            raise WeightsError(f"{name}: a tensor's name must not end in {SCALE_SUFFIX!r}; pass unpacked weights")
        if not tensor.is_floating_point():
            packed[name] = tensor.detach().cpu().contiguous().clone()
            continue
        values = tensor.detach().to("cpu", torch.float32).contiguous()
        if not bool(torch.isfinite(values).all()):
            raise WeightsError(f"{name}: NaN or infinite weights cannot be packed")
        if values.ndim == 2 and values.numel():
            packed[name], packed[name + SCALE_SUFFIX] = _quantise(values)
        else:
            packed[name] = values.clone()
    return packed


def unpack_int8(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo :func:`pack_int8`: all floating tensors float32. A state without int8 matrices passes, cast to float32.

    Raises:
        WeightsError: an int8 matrix lacks its scales, or scales lack their matrix or do not fit it.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        scale = packed.get(name + SCALE_SUFFIX)
        if name.endswith(SCALE_SUFFIX):
            if name.removesuffix(SCALE_SUFFIX) not in packed:
                raise WeightsError(f"{name}: the matrix that these scales belong to is missing")
        elif scale is not None:
            if tensor.dtype != torch.int8 or tensor.ndim != 2 or scale.shape != tensor.shape[:1]:
                raise WeightsError(f"{name}: {tuple(tensor.shape)} {tensor.dtype} does not fit its row scales")
            state[name] = tensor.float() * scale.float()[:, None]
        elif tensor.dtype == torch.int8:
            raise WeightsError(f"{name}: int8 matrix without {name + SCALE_SUFFIX}")
        else:
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def _quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """(R, C) float32 to (R, C) int8 and (R,) float32 scales."""
    largest = values.abs().amax(dim=1)
    # A row of zeros, or of values too small to divide, is stored with scale 1 (as zeros).
    usable = largest / _LEVELS >= torch.finfo(torch.float32).tiny
    best_scale = torch.where(usable, largest / _LEVELS, torch.ones_like(largest))
    best_error = torch.full_like(largest, torch.inf)
    for clip in _CLIPS:
        scale = torch.where(usable, largest * clip / _LEVELS, torch.ones_like(largest))
        codes = (values / scale[:, None]).round_().clamp_(-_LEVELS, _LEVELS)
        error = (codes.mul_(scale[:, None]).sub_(values)).square_().sum(dim=1)
        better = error < best_error
        best_scale = torch.where(better, scale, best_scale)
        best_error = torch.where(better, error, best_error)
    codes = (values / best_scale[:, None]).round_().clamp_(-_LEVELS, _LEVELS)
    return codes.to(torch.int8), best_scale
