"""CROMA (Fuller et al., NeurIPS 2023, arXiv 2311.00566): encoders of Sentinel-1 and Sentinel-2, frozen, as teachers.

Patches of 8 x 8 pixels go through pre-norm transformers whose only notion of place is a bias on attention that grows
with the distance of two patches (2D-ALiBi), so larger and smaller images than those of training work too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.errors import InputError, WeightsError
from sattxt.training.schema import Config
from sattxt.training.teachers.base import Teacher, two_sigma
from sattxt.training.teachers.spectralgpt import BANDS, FMOW_MEAN, FMOW_STD
from sattxt.vision.attention import attention, distance_bias
from sattxt.weights.tensors import check_tensors, read_checkpoint, require_tensor

_HEADS = 16  # of all published models
_PATCH = 8
_PARTS = ("s1_encoder", "s1_GAP_FFN", "s2_encoder", "s2_GAP_FFN", "joint_encoder")


class CromaSource(Config):
    """A CROMA checkpoint."""

    kind: Literal["croma"]
    path: str  # the published file (CROMA_base.pt, CROMA_large.pt), under the data folder or anywhere
    mean: tuple[float, ...] = FMOW_MEAN  # of the 12 bands, reflectance x 10,000; the release takes each batch's own
    std: tuple[float, ...] = FMOW_STD


class CromaFeatures(NamedTuple):
    """Tokens (N, P, width), row by row, and (N, width) of the whole image; of each sensor and of both together."""

    optical: Tensor
    optical_image: Tensor
    sar: Tensor
    sar_image: Tensor
    joint: Tensor
    joint_image: Tensor


class _Attention(nn.Module):
    """Self- or cross-attention with a norm of its own, which queries and keys share."""

    def __init__(self, width: int, *, cross: bool) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(width)
        if cross:
            self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        else:
            self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.input_norm(x)
        if context is None:
            parts = self.to_qkv(x).chunk(3, dim=-1)
        else:
            context = self.input_norm(context)
            parts = (self.to_q(x), self.to_k(context), self.to_v(context))
        q, k, v = (part.unflatten(-1, (_HEADS, -1)).transpose(1, 2) for part in parts)
        out: Tensor = self.to_out(attention(q, k, v, bias=bias).transpose(1, 2).flatten(2))
        return out


class _FeedForward(nn.Module):
    """A norm and an MLP four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(width)
        self.net = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(self.input_norm(x))
        return out


class _Layers(nn.Module):
    """Transformer layers and a final norm; with ``cross``, each asks another sensor's tokens too."""

    def __init__(self, width: int, depth: int, *, cross: bool = False) -> None:
        super().__init__()
        kinds = (False, True) if cross else (False,)
        self.layers = nn.ModuleList(
            nn.ModuleList([*(_Attention(width, cross=kind) for kind in kinds), _FeedForward(width)])
            for _ in range(depth)
        )
        self.norm_out = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor, context: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            x = x + layer[0](x, bias)
            if context is not None:
                x = x + layer[1](x, bias, context)
            x = x + layer[-1](x)
        out: Tensor = self.norm_out(x)
        return out


class _Encoder(nn.Module):
    """One sensor's encoder: (N, channels, H, W) to (N, P, width)."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.linear_input = nn.Linear(channels * _PATCH**2, width)
        self.transformer = _Layers(width, depth)

    def forward(self, pixels: Tensor, bias: Tensor) -> Tensor:
        patches = F.unfold(pixels, _PATCH, stride=_PATCH).transpose(1, 2)
        out: Tensor = self.transformer(self.linear_input(patches), bias)
        return out


class Croma(nn.Module):
    """The published model. Open one with :meth:`from_checkpoint`."""

    def __init__(self, width: int, depth: int, sar_depth: int, joint_depth: int) -> None:
        super().__init__()
        self.s1_encoder = _Encoder(2, width, sar_depth)
        self.s1_GAP_FFN = _pooling(width)
        self.s2_encoder = _Encoder(len(BANDS), width, depth)
        self.s2_GAP_FFN = _pooling(width)
        self.joint_encoder = _Layers(width, joint_depth, cross=True)
        self.width = width
        self.eval().requires_grad_(False)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Croma:
        """Open a published file: a dict of five state dicts.

        Raises:
            WeightsError: it is missing or damaged, or its tensors are not those of this model.
        """
        state = {name: value.float() for name, value in read_checkpoint(path).items()}
        missing = [part for part in _PARTS if not any(name.startswith(f"{part}.") for name in state)]
        if missing:
            raise WeightsError(f"{path}: holds no {missing[0]}; a CROMA release has {', '.join(_PARTS)}")
        width = require_tensor(state, "s2_encoder.linear_input.weight", 2, str(path)).shape[0]
        depths = [
            _depth(state, f"{part}.") for part in ("s2_encoder.transformer", "s1_encoder.transformer", "joint_encoder")
        ]
        model = cls(width, *depths)
        check_tensors(state, {name: value.shape for name, value in model.state_dict().items()}, path)
        model.load_state_dict(state)
        return model

    @torch.no_grad()
    def optical(self, pixels: Tensor) -> Tensor:
        """(N, P, width) tokens of Sentinel-2: (N, 12, H, W) in [0, 1], sides multiples of 8."""
        out: Tensor = self.s2_encoder(pixels, self._bias(pixels))
        return out

    @torch.no_grad()
    def sar(self, pixels: Tensor) -> Tensor:
        """(N, P, width) tokens of Sentinel-1: (N, 2, H, W) in [0, 1], sides multiples of 8."""
        out: Tensor = self.s1_encoder(pixels, self._bias(pixels))
        return out

    @torch.no_grad()
    def features(self, optical: Tensor, sar: Tensor) -> CromaFeatures:
        """All that the release gives for images of the same ground; arguments as above."""
        ours, theirs = self.optical(optical), self.sar(sar)
        joint = self.joint_encoder(theirs, self._bias(optical), ours)
        pooled = self.s2_GAP_FFN(ours.mean(dim=1)), self.s1_GAP_FFN(theirs.mean(dim=1))
        return CromaFeatures(ours, pooled[0], theirs, pooled[1], joint, joint.mean(dim=1))

    def _bias(self, pixels: Tensor) -> Tensor:
        rows, columns = (side // _PATCH for side in pixels.shape[-2:])
        if rows * _PATCH != pixels.shape[-2] or columns * _PATCH != pixels.shape[-1]:
            raise InputError(
                f"images of {pixels.shape[-2]} x {pixels.shape[-1]} pixels; pass sides that are multiples of {_PATCH}"
            )
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(pixels)
        return distance_bias(places, places, _HEADS)


def _pooling(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.split(".layers.")[1].split(".")[0] for name in state if name.startswith(f"{prefix}layers.")})


class CromaTeacher(Teacher):
    """The Sentinel-2 encoder as a teacher.

    The release scales each channel by the mean and standard deviation of the batch at hand, so that an image's tokens
    depend on its neighbours. Here both are fixed.

    Args:
        mean, std: of the 12 bands, in reflectance x 10,000.

    Raises:
        InputError: they are not 12 each.
    """

    def __init__(self, model: Croma, mean: Sequence[float] = FMOW_MEAN, std: Sequence[float] = FMOW_STD) -> None:
        if len(mean) != len(BANDS) or len(std) != len(BANDS):
            raise InputError(f"mean and std: pass {len(BANDS)} numbers each, for {', '.join(BANDS)}")
        super().__init__("croma", BANDS, model.width, *two_sigma(mean, std))
        self.model = model
        self.eval()

    @torch.no_grad()
    def encode(self, values: Tensor, names: Sequence[str]) -> Tensor:
        """See :meth:`Teacher.encode`. Tiles are resampled to the next multiple of 8 pixels where they are none."""
        pixels = (self.normalise(values, names) * 255).clamp(0, 255).floor() / 255
        size = [max(1, round(side / _PATCH)) * _PATCH for side in pixels.shape[-2:]]
        if size != list(pixels.shape[-2:]):
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        tokens = self.model.optical(pixels).transpose(1, 2)
        return tokens.reshape(*tokens.shape[:2], *(side // _PATCH for side in size))
