"""Random numbers, coordinates, colours and textures to draw one tile with; what is drawn is said in ``scenes``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sattxt.training.fields import FIELDS, RGBRange, draw_field, smooth_noise

_PAINTED: tuple[RGBRange, ...] = (
    ((140, 190), (70, 105), (55, 85)),
    ((60, 100), (95, 135), (140, 180)),
    ((45, 80), (90, 125), (75, 105)),
)


class Brush:
    """Random numbers and coordinates for one tile: ``x`` and ``y`` (size, size) from -1 to 1, ``y`` downwards."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self._generator = size, generator
        steps = (torch.arange(size) + 0.5) * (2 / size) - 1
        self.y, self.x = torch.meshgrid(steps, steps, indexing="ij")

    def between(self, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""
        return low + (high - low) * float(torch.rand((), generator=self._generator))

    def count(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(torch.randint(low, high + 1, (1,), generator=self._generator))

    def chance(self, probability: float) -> bool:
        """Whether it happens."""
        return self.between(0, 1) < probability

    def colour(self, *ranges: RGBRange) -> Tensor:
        """(3, 1, 1) within one of the ranges."""
        low, high = torch.tensor(ranges[self.count(0, len(ranges) - 1)], dtype=torch.float32).T / 255
        return (low + (high - low) * torch.rand(3, generator=self._generator))[:, None, None]

    def grey(self, low: int, high: int) -> Tensor:
        """(3, 1, 1): concrete, gravel, metal: hardly any colour, and rather warm than cold."""
        tint = torch.rand(3, generator=self._generator) * torch.tensor([0.14, 0.07, 0.10])
        return (self.between(low, high) / 255 * (0.93 + tint))[:, None, None]

    def roof(self) -> Tensor:
        """(3, 1, 1): sheet metal, tiles or paint."""
        return self.colour(*_PAINTED) if self.chance(0.35) else self.grey(90, 235)

    def shares(self, count: int) -> Tensor:
        """(count,) from 0 to 1."""
        return torch.rand(count, generator=self._generator)

    def points(self, count: int) -> Tensor:
        """(count, 2) in the tile."""
        return 2 * torch.rand(count, 2, generator=self._generator) - 1

    def noise(self, finest: int) -> Tensor:
        """(size, size) of zero mean and unit spread."""
        return smooth_noise(1, self.size, self._generator, finest)[0]

    def cover(self, *names: str) -> Tensor:
        """(3, size, size): one of these colour fields."""
        return draw_field(FIELDS[names[self.count(0, len(names) - 1)]], self.size, self._generator)

    def grain(self, strength: float = 0.08) -> Tensor:
        """(size, size) gains about 1."""
        return 1 + strength * self.noise(6)

    def turned(self, x: float, y: float, angle: float) -> tuple[Tensor, Tensor]:
        """Coordinates along and across the direction ``angle`` (radians) from a point."""
        dx, dy = self.x - x, self.y - y
        return dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)

    def somewhere(self, reach: float = 0.7) -> tuple[Tensor, Tensor]:
        """Coordinates along and across a random direction from a random point."""
        return self.turned(self.between(-reach, reach), self.between(-reach, reach), self.between(0, 2 * math.pi))
