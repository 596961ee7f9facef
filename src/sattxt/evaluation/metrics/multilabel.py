"""Figures of multi-label classification: (N, K) scores against (N, K) indicators."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def average_precision(scores: Array, relevant: Array) -> float:
    """Area under the precision-recall steps of (N,) scores; samples of equal score enter together. NaN if none is
    relevant.
    """
    total = int(relevant.sum())
    if total == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(relevant[order])
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    precision = hits[ends] / (ends + 1)
    gained = np.diff(hits[ends], prepend=0)
    return float((precision * gained).sum() / total)


def mean_average_precision(scores: Array, relevant: Array, average: Literal["macro", "micro"] = "macro") -> float:
    """mAP: "macro" averages over the classes that occur, "micro" ranks all (sample, class) pairs together."""
    if average == "micro":
        return average_precision(scores.ravel(), relevant.ravel())
    seen = relevant.any(axis=0)
    return float(np.mean([average_precision(scores[:, k], relevant[:, k]) for k in np.flatnonzero(seen)]))


def f1_scores(predicted: Array, relevant: Array) -> dict[str, float]:
    """F1 "micro" (all pairs) and "macro" (mean over the classes that occur or are predicted; 0 where undefined)."""
    right = (predicted & relevant).sum(axis=0)
    total = predicted.sum(axis=0) + relevant.sum(axis=0)
    met = total > 0
    per_class = np.divide(2 * right, total, out=np.zeros(len(total)), where=met)
    micro = 2 * right.sum() / total.sum() if total.sum() else 0.0
    return {"micro": float(micro), "macro": float(per_class[met].mean()) if met.any() else 0.0}


def best_threshold(scores: Array, relevant: Array) -> float:
    """The score from which a label is said to apply that maximises micro F1 over all pairs.

    It lies halfway to the next lower score, so that rounding does not matter.
    """
    flat, truth = scores.ravel(), relevant.ravel()
    order = np.argsort(-flat, kind="stable")
    ranked, hits = flat[order], np.cumsum(truth[order])
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    f1 = 2 * hits[ends] / (ends + 1 + truth.sum())
    best = int(f1.argmax())
    lower = ranked[ends[best] + 1] if ends[best] + 1 < len(ranked) else ranked[ends[best]]
    return float((ranked[ends[best]] + lower) / 2)


def label_ranking_precision(scores: Array, relevant: Array) -> NDArray[np.float64]:
    """(N,) label ranking average precision of each sample: over its labels, the share of true ones among those that
    score at least as high. 1 for a sample without labels.
    """
    result = np.ones(len(scores))
    for i, (row, truth) in enumerate(zip(scores, relevant, strict=True)):
        own = row[truth]
        if len(own):
            above = row[None, :] >= own[:, None]
            result[i] = float(((above & truth).sum(axis=1) / above.sum(axis=1)).mean())
    return result
