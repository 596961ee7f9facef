"""What a multispectral teacher is: bands in, a map of tokens out, nothing trained.

Bands go by their Sentinel-2 names (``B02``, ``B8A``, ...; :func:`canonical` says which other spellings are
understood) and hold reflectance x 10,000, without the +1000 that newer processing baselines add.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.errors import InputError
from sattxt.images.bands import canonical


class Teacher(nn.Module, ABC):
    """A frozen encoder of multispectral tiles: never in training mode, never a gradient.

    Args:
        name: for messages and checkpoints.
        bands: Sentinel-2 names of the bands it looks at.
        width: of its tokens.
        offset, scale: one value a band, or one for all, in reflectance x 10,000; the network is given
            ``(x - offset) / scale``.
    """

    def __init__(self, name: str, bands: Sequence[str], width: int, offset: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.name, self.bands, self.width = name, tuple(bands), width
        self.offset = nn.Buffer(offset.float().view(1, -1, 1, 1), persistent=False)
        self.scale = nn.Buffer(scale.float().view(1, -1, 1, 1), persistent=False)

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
            values: (N, C, H, W). names: of the C bands, in any spelling that :func:`canonical` knows, once each; data
                sets were asked by :meth:`check` whether they have what is needed.
        """
        return {canonical(name): values[:, i].to(self.offset) for i, name in enumerate(names)}

    def normalise(self, values: Tensor, names: Sequence[str]) -> Tensor:
        """(N, len(bands), H, W) float32, ``(x - offset) / scale``. Arguments: as :meth:`stack`."""
        stack = self.stack(values, names)
        return (torch.stack([stack[band] for band in self.bands], dim=1) - self.offset) / self.scale

    @abstractmethod
    def encode(self, values: Tensor, names: Sequence[str]) -> Tensor:
        """(N, width, rows, cols) float32, a token of each place, without gradient; their mean stands for the tile.

        Arguments: as :meth:`stack`.
        """


def two_sigma(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The offset and scale that map mean - 2 std to 0 and mean + 2 std to 1, as both published teachers have it."""
    return torch.tensor(mean) - 2 * torch.tensor(std), 4 * torch.tensor(std)


class CallableTeacher(Teacher):
    """Any function as a teacher.

    Args:
        function: from (N, C, H, W) float32, bands in the order of ``bands``, to a (N, width, rows, cols) map. A module
            is put in eval mode and frozen.
        bands: Sentinel-2 names; all of them are needed.
        width: of what it returns.
        mean, std: a value each band, or one for all, in reflectance x 10,000; the function is given
            ``(x - mean) / std``.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        bands: Sequence[str],
        width: int,
        *,
        name: str = "callable",
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__(name, [canonical(band) for band in bands], width, torch.tensor(mean), torch.tensor(std))
        self.function = function
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, values: Tensor, names: Sequence[str]) -> Tensor:
        """Run the function once."""
        return self.function(self.normalise(values, names)).float()


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
