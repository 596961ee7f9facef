"""What a multispectral teacher is: bands in, tokens out, nothing trained.

Bands go by their Sentinel-2 names (``B02``, ``B8A``, ...; :func:`canonical` says which other spellings are
understood) and hold reflectance x 10,000, without the +1000 that newer processing baselines add.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.errors import InputError
from sattxt.images.bands import canonical


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

    def stack(self, values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Band name to (N, H, W) float32, where the network is.

        Args:
            values: (N, C, H, W). names: of the C bands, in any spelling that :func:`canonical` knows.

        Raises:
            InputError: there are not as many names as bands, a band is named twice, a value is NaN or infinite, or the
                teacher cannot work with these bands.
        """
        if values.ndim != 4 or len(names) != values.shape[1]:
            raise InputError(
                f"values has shape {tuple(values.shape)}, there are {len(names)} names; pass (N, bands, height, width) "
                "and one name a band"
            )
        found = {canonical(name): values[:, i].to(self.mean) for i, name in enumerate(names)}
        if len(found) < len(names):
            raise InputError(f"names: a band is given twice among {', '.join(names)}")
        bad = [name for name, band in found.items() if not bool(torch.isfinite(band).all())]
        if bad:
            raise InputError(f"band {bad[0]} holds NaN or infinity; fill or leave out these tiles")
        self.check(tuple(found), "bands")
        return found

    @abstractmethod
    def normalise(self, values: Tensor, names: Sequence[str]) -> Tensor:
        """(N, C, H, W) float32, as the network expects it. Arguments and errors: as :meth:`stack`."""

    @abstractmethod
    def encode(self, values: Tensor, names: Sequence[str]) -> TeacherTokens:
        """Everything it sees, in one pass and without gradient. Arguments and errors: as :meth:`stack`."""


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

    def normalise(self, values: Tensor, names: Sequence[str]) -> Tensor:
        """(N, C, H, W) float32, ``(x - mean) / std``, in the order of :attr:`bands`."""
        stack = self.stack(values, names)
        return (torch.stack([stack[band] for band in self.bands], dim=1) - self.mean) / self.std

    @torch.no_grad()
    def encode(self, values: Tensor, names: Sequence[str]) -> TeacherTokens:
        """Run the function once."""
        pixels = self.normalise(values, names)
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
