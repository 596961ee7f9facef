"""Figures as reported here, and their confidence intervals by resampling the samples.

Of metrics, what scikit-learn does not have; those that it has are asked of it where they are needed. Most are given
sample by sample or class by class, for intervals and tables. Shares are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import InputError, import_extra

Array = NDArray[Any]
ROUNDS = 1000
SEED = 0
_Z = 1.96  # standard deviations of a 95 % interval
_CHUNK = 2**24  # counts of resampled samples that are held at a time


def sklearn(module: str) -> Any:
    """A module of scikit-learn, such as ``"linear_model"``.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    return import_extra(f"sklearn.{module}", "eval", "scikit-learn", "measuring a model")


def percent(values: Array) -> float:
    """The mean of shares as a percentage; NaN values are left out."""
    return float(100 * np.nanmean(np.asarray(values, dtype=float)))


def class_rows(
    targets: Array, predicted: Array, keys: Sequence[str], names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """One row a class: its samples, its accuracy (recall), precision and F1 in percent, 0 where undefined.

    Args:
        targets, predicted: (N,) positions in ``keys``. Accuracy is ``None`` for a class without samples.
    """
    found = sklearn("metrics").precision_recall_fscore_support(
        targets, predicted, labels=range(len(keys)), zero_division=0
    )
    precision, recall, f1, count = (column.tolist() for column in found)
    return [
        {
            "class": key,
            "name": name,
            "n": n,
            "accuracy": 100 * recall[k] if n else None,
            "precision": 100 * precision[k],
            "f1": 100 * f1[k],
        }
        for k, (key, name, n) in enumerate(zip(keys, names or keys, count, strict=True))
    ]


def expected_calibration_error(probs: Array, targets: Array, bins: int = 15) -> float:
    """Mean gap of confidence and accuracy over ``bins`` equal ranges of confidence (Guo et al. 2017, section 2).

    Args:
        probs: (N, K). targets: (N,) classes.
    """
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == targets
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(which, confidence - correct)).sum() / len(targets))


def average_precisions(scores: Array, truth: Array) -> NDArray[np.float64]:
    """(K,) average precision of each class, NaN where no sample has it.

    Args:
        scores: (N, K). truth: (N, K) bool.
    """
    one = sklearn("metrics").average_precision_score
    return np.array([one(labels, s) if labels.any() else np.nan for labels, s in zip(truth.T, scores.T, strict=True)])


def label_ranking_precision(scores: Array, truth: Array) -> NDArray[np.float64]:
    """(N,) label ranking average precision of each sample, 1 for one without labels.

    Over a sample's labels, the share of true ones among those that score at least as high.

    Args:
        scores: (N, K). truth: (N, K) bool.
    """
    result = np.ones(len(scores))
    for i, (row, labels) in enumerate(zip(scores, truth, strict=True)):
        if labels.any():
            above = row[None, :] >= row[labels][:, None]
            result[i] = ((above & labels).sum(axis=1) / above.sum(axis=1)).mean()
    return result


def best_threshold(scores: Array, truth: Array) -> float:
    """The score from which a label applies that gives the best micro F1; halfway to the next lower score.

    Args:
        scores: (N, K). truth: (N, K) bool.
    """
    precision, recall, thresholds = sklearn("metrics").precision_recall_curve(truth.ravel(), scores.ravel())
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1]
    best = len(f1) - 1 - int(f1[::-1].argmax())
    return float((thresholds[best] + thresholds[max(best - 1, 0)]) / 2)


def average_precision_at_k(scores: Array, relevant: Array, k: int, *, of_retrieved: bool = False) -> Array:
    """(Q,) AP@k: the mean of the precisions at the ranks of the relevant items among the first ``k``.

    The sum is divided by min(k, all relevant items), so that 1 means that nothing better was possible; with
    ``of_retrieved`` by the number of relevant items found, as some libraries do. NaN for a query without relevant
    items; 0 where none of them is found.

    Args:
        scores: (Q, N). relevant: (Q, N) bool.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hits = np.take_along_axis(relevant, order, axis=1)
    gained = (hits * hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)).sum(axis=1)
    total = relevant.sum(axis=1)
    below = hits.sum(axis=1) if of_retrieved else np.minimum(total, k)
    return np.where(total > 0, gained / np.maximum(below, 1), np.nan)


def recall_at_k(similarity: Array, relevant: Array, k: int) -> NDArray[np.float64]:
    """(Q,) whether one of a query's relevant items is among its first ``k``; R@k is the mean.

    Where items of equal similarity compete for the last places, it is the chance that a random order of these puts a
    relevant one there. So neither equal captions nor a model that gives one vector to everything is favoured.

    Args:
        similarity: (Q, N). relevant: (Q, N) bool.
    """
    best = np.where(relevant, similarity, -np.inf).max(axis=1, keepdims=True)
    level = similarity == best
    ahead = (similarity > best).sum(axis=1)
    own, others = (level & relevant).sum(axis=1), (level & ~relevant).sum(axis=1)
    missed = np.ones(len(similarity))
    for place in range(k):
        left = np.maximum(others + own - place, 1)
        missed *= np.where(place < k - ahead, np.maximum(others - place, 0) / left, 1.0)
    return 1 - missed


@dataclass(frozen=True)
class Figure:
    """A figure with what each sample adds to it: a mean over groups of a ratio of sums over samples.

    So a resample is a matrix product. That covers accuracy (one group, denominators 1), balanced accuracy (a group a
    class), mean IoU (intersections over unions), micro F1 and R2 (residual over spread).

    above, below: (N, G); the figure is ``scale`` times the mean over groups of sum(above) / sum(below), without groups
    whose denominator is 0; with ``complement``, the mean of 1 - that ratio.
    """

    above: NDArray[np.float64]
    below: NDArray[np.float64]
    scale: float = 100.0
    complement: bool = False

    @classmethod
    def mean(cls, values: Array) -> Figure:
        """The mean of (N,) values in percent."""
        above = np.asarray(values, dtype=float)[:, None]
        return cls(above, np.ones_like(above))

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
        return replace(self, above=self.above[list(indices)], below=self.below[list(indices)])


def interval(figure: Figure) -> tuple[float, float]:
    """95 % interval of a figure: percentiles over resamples; where all samples are alike (all right, or none), of which
    resampling says nothing, Wilson's (1927) for n of n.
    """
    low, high = _limits(np.concatenate([figure.resampled(counts) for counts in _resamples(len(figure))]))
    if low == high and figure.value in (0, 100):
        doubt = 100 * _Z**2 / (len(figure) + _Z**2)
        return (100 - doubt, 100.0) if figure.value else (0.0, doubt)
    return low, high


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
    """The percentiles of a 95 % interval."""
    low, high = (np.nan, np.nan) if np.isnan(values).all() else np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def _columns(matrix: Array) -> list[list[float]]:
    return [[int(v) if v.is_integer() else float(f"{v:.9g}") for v in column] for column in matrix.T.tolist()]
