"""Figures as reported here that scikit-learn does not have; those that it has are asked of it where they are needed.

Most are given sample by sample or class by class, for intervals and tables. Shares are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import import_extra

Array = NDArray[Any]


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
    pairs = zip(truth.T, scores.T, strict=True)
    return np.array([one(labels, column) if labels.any() else np.nan for labels, column in pairs])


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
    curve = sklearn("metrics").precision_recall_curve
    precision, recall, thresholds = curve(truth.ravel(), scores.ravel())
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
