"""Confidence intervals by resampling the samples, of one result and of the difference of two.

Every figure here is a mean over groups of a ratio of sums over samples, so a resample is a matrix product. That
covers accuracy (one group, denominators 1), balanced accuracy (a group a class), mean IoU (intersections over
unions), micro F1 and R2 (residual over spread).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import InputError

Array = NDArray[Any]
ROUNDS = 1000
SEED = 0
_LIMITS = (2.5, 97.5)  # percentiles of a 95 % interval
_CHUNK = 2**24  # counts of resampled samples that are held at a time


@dataclass(frozen=True)
class Figure:
    """A figure with what each sample adds to it.

    above, below: (N, G); the figure is ``scale`` times the mean over groups of sum(above) / sum(below), without groups
    whose denominator is 0; with ``complement``, the mean of 1 - that ratio.
    """

    above: NDArray[np.float64]
    below: NDArray[np.float64]
    scale: float = 100.0
    complement: bool = False

    @classmethod
    def mean(cls, values: Array) -> Figure:
        """The mean of (N,) values in percent; NaN values are left out."""
        known = ~np.isnan(np.asarray(values, dtype=float))
        return cls(np.where(known, values, 0.0).astype(float)[:, None], known.astype(float)[:, None])

    @classmethod
    def group_mean(cls, values: Array, groups: Array, count: int) -> Figure:
        """The mean over groups of the mean of their values: balanced accuracy, if groups are the true classes."""
        member = (np.asarray(groups)[:, None] == np.arange(count)).astype(float)
        return cls(member * np.asarray(values, dtype=float)[:, None], member)

    @classmethod
    def from_dict(cls, packed: dict[str, Any]) -> Figure:
        """The figure that :meth:`to_dict` packed."""
        if "groups" in packed:
            return cls.group_mean(np.array(packed["values"]), np.array(packed["groups"]), packed["count"])
        above = np.array(packed["above"], dtype=float).T
        below = np.array(packed["below"], dtype=float).T if "below" in packed else np.ones_like(above)
        return cls(above, below, float(packed["scale"]), bool(packed["complement"]))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready columns. Denominators of 1 are left out; if every sample is in one group, there is one column."""
        packed: dict[str, Any] = {"scale": self.scale, "complement": self.complement}
        ones = self.below == 1
        if self.below.shape[1] > 1 and (ones.sum(axis=1) == 1).all() and (self.below[~ones] == 0).all():
            values = _columns(self.above.sum(axis=1, keepdims=True))[0]
            return packed | {"groups": ones.argmax(axis=1).tolist(), "values": values, "count": self.below.shape[1]}
        packed["above"] = _columns(self.above)
        return packed if ones.all() else packed | {"below": _columns(self.below)}

    def __len__(self) -> int:
        return len(self.above)

    @property
    def value(self) -> float:
        """The figure of the samples as they are."""
        return float(self.resampled(np.ones((1, len(self))))[0])

    def resampled(self, counts: Array) -> NDArray[np.float64]:
        """(B,) the figure where sample n is taken counts[b, n] times."""
        above, below = counts @ self.above, counts @ self.below
        met = below > 0
        ratio = np.divide(above, below, out=np.zeros_like(above), where=met)
        total = np.where(met, 1 - ratio if self.complement else ratio, 0).sum(axis=1)
        groups = met.sum(axis=1)
        return self.scale * np.divide(total, groups, out=np.full(len(total), np.nan), where=groups > 0)

    def take(self, indices: Sequence[int]) -> Figure:
        """The figure over some of the samples."""
        return Figure(self.above[list(indices)], self.below[list(indices)], self.scale, self.complement)


def interval(figure: Figure) -> tuple[float, float]:
    """95 % percentile interval of a figure."""
    return _limits(np.concatenate([figure.resampled(counts) for counts in _resamples(len(figure))]))


def paired_difference(a: Figure, b: Figure) -> dict[str, float]:
    """How much more ``b`` is than ``a``, with the same samples drawn for both.

    Returns:
        ``difference``; ``low`` and ``high``, its 95 % interval; ``p``, a two-sided bootstrap p value (twice the share
        of resamples beyond 0).

    Raises:
        InputError: they are of different samples.
    """
    if len(a) != len(b):
        raise InputError(f"figures of {len(a)} and {len(b)} samples cannot be paired")
    gaps = np.concatenate([b.resampled(counts) - a.resampled(counts) for counts in _resamples(len(a))])
    difference = b.value - a.value
    beyond = float((gaps <= 0).mean()) if difference > 0 else float((gaps >= 0).mean())
    low, high = _limits(gaps)
    return {"difference": difference, "low": low, "high": high, "p": min(1.0, 2 * beyond)}


def _resamples(n: int) -> Iterator[NDArray[np.float64]]:
    """(B, n) how often each sample is drawn; the same for every figure of as many samples."""
    generator = np.random.default_rng(SEED)
    step = max(1, min(ROUNDS, _CHUNK // max(n, 1)))
    for start in range(0, ROUNDS, step):
        size = min(step, ROUNDS - start)
        drawn = generator.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _limits(values: Array) -> tuple[float, float]:
    low, high = (np.nan, np.nan) if np.isnan(values).all() else np.nanpercentile(values, _LIMITS)
    return float(low), float(high)


def _columns(matrix: Array) -> list[list[float]]:
    return [[int(v) if v.is_integer() else float(f"{v:.9g}") for v in column] for column in matrix.T.tolist()]
