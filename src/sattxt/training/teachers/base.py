"""What a multispectral teacher is: bands in, tokens out, nothing trained.

Bands go by their Sentinel-2 names (``B02``, ``B8A``, ...; :func:`canonical` says which other spellings are
understood) and hold reflectance x 10,000, without the +1000 that newer processing baselines add.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.errors import InputError
from sattxt.images.bands import canonical

#: Either name to (N, H, W), coarser bands at their own resolution, or one (N, C, H, W) array with its names beside it.
Bands: TypeAlias = Mapping[str, Tensor] | Tensor | np.ndarray


class TeacherTokens(NamedTuple):
    """What a teacher sees in N tiles.

    tokens: (N, T, width) in the teacher's own order. pooled: (N, width), their mean. patches: (N, width, rows, cols),
    the tokens of each place averaged over its spectral groups; ``None`` where tokens do not belong to places.
    """

    tokens: Tensor
    pooled: Tensor
    patches: Tensor | None


class Teacher(nn.Module, ABC):
    """A frozen encoder of multispectral tiles: never in training mode, never a gradient.

    Args:
        name: for messages and checkpoints.
        bands: Sentinel-2 names of the bands it looks at.
        width: of its tokens.
        mean, std: one value a channel, of reflectance x 10,000.
    """

    def __init__(
        self, name: str, bands: Sequence[str], width: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.name, self.bands, self.width = name, tuple(bands), width
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode whatever ``mode`` says: a teacher inside a larger module is not trained with it."""
        super().train(False)
        return self

    def check(self, available: Sequence[str], where: str) -> None:
        """Raise InputError, naming ``where`` and the missing bands, unless it can work with the bands ``available``."""
        known = {canonical(band) for band in available}
        missing = [band for band in self.bands if band not in known]
        if missing:
            raise InputError(
                f"{where}: {self.name} needs the bands {', '.join(missing)}, which it lacks (it has "
                f"{', '.join(sorted(known)) or 'none'}); pass data that holds them, or another teacher"
            )

    @abstractmethod
    def normalise(self, bands: Bands, names: Sequence[str] | None = None) -> Tensor:
        """(N, C, H, W) float32, as the network expects it. Arguments: as :func:`band_stack` takes them."""

    @abstractmethod
    def encode(self, bands: Bands, names: Sequence[str] | None = None) -> TeacherTokens:
        """Everything it sees, in one pass and without gradient. Arguments: as :func:`band_stack` takes them."""


class CallableTeacher(Teacher):
    """Any function as a teacher.

    Args:
        function: takes (N, C, H, W) float32, bands in the order of ``bands``, and returns (N, width), or (N, T, width)
            tokens, or a (N, width, rows, cols) feature map. A module is put in eval mode and frozen.
        bands: Sentinel-2 names; all of them are needed.
        width: of what it returns.
        mean, std: a value each band in reflectance x 10,000; the function is given ``(x - mean) / std``.

    Raises:
        InputError: the lists differ in length; later, the function returns another shape than promised.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        bands: Sequence[str],
        width: int,
        *,
        name: str = "callable",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        mean, std = mean or [0.0] * len(bands), std or [1.0] * len(bands)
        if not len(mean) == len(std) == len(bands) > 0:
            raise InputError(f"{name}: {len(bands)} bands, {len(mean)} means, {len(std)} stds; pass one each a band")
        super().__init__(name, [canonical(band) for band in bands], width, mean, std)
        self.function = function
        self.eval().requires_grad_(False)

    def normalise(self, bands: Bands, names: Sequence[str] | None = None) -> Tensor:
        """(N, C, H, W) float32, ``(x - mean) / std``, in the order of :attr:`bands`."""
        stack = band_stack(bands, names)
        self.check(tuple(stack), "bands")
        return (torch.stack([stack[band] for band in self.bands], dim=1).to(self.mean) - self.mean) / self.std

    @torch.no_grad()
    def encode(self, bands: Bands, names: Sequence[str] | None = None) -> TeacherTokens:
        """Run the function once."""
        pixels = self.normalise(bands, names)
        out: Any = self.function(pixels)
        shape = tuple(out.shape) if isinstance(out, Tensor) else ()
        if len(shape) not in (2, 3, 4) or (shape[0], shape[1 if len(shape) == 4 else -1]) != (len(pixels), self.width):
            raise InputError(
                f"{self.name}: returned {shape or type(out).__name__} for {len(pixels)} tiles; return "
                f"(N, {self.width}), (N, T, {self.width}) or (N, {self.width}, rows, cols)"
            )
        out = out.float()
        if out.ndim == 4:
            return TeacherTokens(out.flatten(2).transpose(1, 2), out.mean(dim=(2, 3)), out)
        tokens = out.view(len(out), -1, self.width)
        return TeacherTokens(tokens, tokens.mean(dim=1), None)


class TeacherBlock(nn.Module):
    """The pre-norm transformer block of both published teachers, with their tensors' names.

    Args:
        hidden: width inside the MLP. bias: whether q, k and v have one. eps: of the LayerNorms.
    """

    def __init__(self, dim: int, heads: int, hidden: int, *, bias: bool, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = nn.ModuleDict({name: nn.Linear(dim, dim, bias=bias) for name in "qkv"})
        self.attn["proj"] = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})

    def forward(self, x: Tensor) -> Tensor:
        """x + attention(norm(x)), then x + mlp(norm(x)): (N, T, dim) to the same."""
        y = self.norm1(x)
        q, k, v = (self.attn[name](y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in "qkv")
        x = x + self.attn["proj"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return out


def band_stack(bands: Bands, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Canonical band name to (N, H, W) float32, all of the finest band's size (coarser ones resampled bilinearly).

    Args:
        bands: a mapping from name to (N, H, W), or one (N, C, H, W) array or tensor.
        names: the C names of an array's bands; not for a mapping, which has its own.

    Raises:
        InputError: names are missing or of another number than the bands, a band is named twice, shapes do not fit,
            or a value is NaN or infinite.
    """
    if isinstance(bands, Mapping):
        if names is not None:
            raise InputError("names: a mapping has its bands' names already; pass names only with an array")
        pairs = [(canonical(name), torch.as_tensor(values)) for name, values in bands.items()]
    else:
        array = torch.as_tensor(bands)
        if array.ndim != 4:
            raise InputError(f"bands has shape {tuple(array.shape)}; pass (N, bands, height, width)")
        if names is None or len(names) != array.shape[1]:
            given = "no names" if names is None else f"{len(names)} names"
            raise InputError(f"{given} for {array.shape[1]} bands; pass names=('B02', ...), one a band")
        pairs = [(canonical(name), array[:, i]) for i, name in enumerate(names)]
    out: dict[str, Tensor] = {}
    for name, values in pairs:
        if name in out:
            raise InputError(f"band {name} is given twice")
        if values.ndim != 3 or len(values) != len(pairs[0][1]):
            raise InputError(f"band {name} has shape {tuple(values.shape)}; pass (N, H, W), N the same for all bands")
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise InputError(f"band {name} holds NaN or infinity; fill or leave out these tiles")
        out[name] = values.to(torch.float32)
    if not out:
        raise InputError("bands is empty; pass at least one band")
    size = max((values.shape[-2:] for values in out.values()), key=math.prod)
    for name, values in out.items():
        if values.shape[-2:] != size:
            out[name] = F.interpolate(values[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return out
