"""Checks of numbers in a recipe: out of range is an error where they are written down, not at some step of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from sattxt.errors import InputError


class Range(NamedTuple):
    """From ``low`` to ``high``, ends included unless ``above`` or ``below`` takes one out; never NaN or infinite."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies in the range."""
        high = value < self.high if self.below else value <= self.high
        return math.isfinite(value) and high and (value > self.low if self.above else value >= self.low)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        if math.isinf(self.high):
            return f"a finite number, {low}"
        return f"{low}, {'below' if self.below else 'at most'} {self.high:g}"


POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
DECAY = Range(0, 1, below=True)


def check_ranges(config: object, ranges: Mapping[str, Range]) -> None:
    """Raise InputError at the first of ``config``'s attributes (a number, several, or ``None``) out of its range."""
    for name, allowed in ranges.items():
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple | list) else (value,)
        if not all(number is None or allowed.holds(number) for number in numbers):
            raise InputError(f"{name}={value}: pass {allowed}")
