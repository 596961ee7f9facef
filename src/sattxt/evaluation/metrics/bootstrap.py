"""Confidence intervals by resampling the samples, for one result and for the difference of two.

Every figure here is a mean over groups of a ratio of sums over samples, so a resample is a matrix product. That
covers accuracy (one group, denominators 1), balanced accuracy (a group a class), mean IoU (intersections over
unions), micro F1 and R2 (residual over spread).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import InputError

Array = NDArray[Any]
ROUNDS = 1000
LEVEL = 0.95
_CHUNK = 2**24


@dataclass(frozen=True)
class Figure:
    """A figure with what each sample adds to it.

    above, below: (N, G); the figure is ``scale`` times the mean over groups of sum(above) / sum(below), groups whose
    denominator is 0 left out; with ``complement``, of 1 - that ratio.
    """

    above: NDArray[np.float64]
    below: NDArray[np.float64]
    scale: float = 100.0
    complement: bool = False

    @classmethod
    def mean(cls, values: Array, scale: float = 100.0) -> Figure:
        """The mean of (N,) values; NaN values are left out."""
        known = ~np.isnan(np.asarray(values, dtype=float))
        return cls(np.where(known, values, 0.0).astype(float)[:, None], known.astype(float)[:, None], scale)

    @classmethod
    def group_mean(cls, values: Array, groups: Array, count: int, scale: float = 100.0) -> Figure:
        """The mean over groups of the mean of their values: balanced accuracy, with the true classes as groups."""
        member = (np.asarray(groups)[:, None] == np.arange(count)).astype(float)
        return cls(member * np.asarray(values, dtype=float)[:, None], member, scale)

    def __len__(self) -> int:
        return len(self.above)

    @property
    def value(self) -> float:
        """On the samples as they are."""
        return float(self._of(self.above.sum(axis=0)[None], self.below.sum(axis=0)[None])[0])

    def resampled(self, counts: Array) -> NDArray[np.float64]:
        """(B,) the figure where sample n is taken counts[b, n] times."""
        return self._of(counts @ self.above, counts @ self.below)

    def take(self, indices: Array) -> Figure:
        """The figure over some of the samples."""
        return Figure(self.above[indices], self.below[indices], self.scale, self.complement)

    def _of(self, above: Array, below: Array) -> NDArray[np.float64]:
        met = below > 0
        ratio = np.divide(above, below, out=np.zeros_like(above), where=met)
        if self.complement:
            ratio = 1 - ratio
        groups = met.sum(axis=1)
        total = np.where(met, ratio, 0).sum(axis=1)
        return self.scale * np.divide(total, groups, out=np.full(len(total), np.nan), where=groups > 0)


def interval(figure: Figure, *, rounds: int = ROUNDS, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a figure."""
    values = np.concatenate([figure.resampled(counts) for counts in _resamples(len(figure), rounds, seed)])
    return _limits(values)


@dataclass(frozen=True)
class Difference:
    """B minus A on the same samples: its value, 95 % interval, and the share of resamples on the other side of 0, twice
    (a two-sided bootstrap p value).
    """

    value: float
    low: float
    high: float
    p: float


def paired_difference(a: Figure, b: Figure, *, rounds: int = ROUNDS, seed: int = 0) -> Difference:
    """How much more ``b`` is than ``a``, both resampled alike.

    Raises:
        InputError: they are of different samples.
    """
    if len(a) != len(b):
        raise InputError(f"figures of {len(a)} and {len(b)} samples cannot be paired")
    gaps = [b.resampled(counts) - a.resampled(counts) for counts in _resamples(len(a), rounds, seed)]
    values = np.concatenate(gaps)
    low, high = _limits(values)
    value = b.value - a.value
    other = float((values <= 0).mean()) if value > 0 else float((values >= 0).mean())
    return Difference(value, low, high, min(1.0, 2 * other))


def _resamples(n: int, rounds: int, seed: int) -> Iterator[NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    step = max(1, min(rounds, _CHUNK // max(n, 1)))
    for start in range(0, rounds, step):
        size = min(step, rounds - start)
        drawn = generator.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _limits(values: Array) -> tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(values, [tail, 100 - tail]) if not np.isnan(values).all() else (np.nan, np.nan)
    return float(low), float(high)
