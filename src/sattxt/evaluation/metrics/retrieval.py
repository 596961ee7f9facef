"""Figures of retrieval: (Q, N) similarities of queries to a gallery."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def average_precision_at_k(
    scores: Array, relevant: Array, k: int, *, of_retrieved: bool = False
) -> NDArray[np.float64]:
    """(Q,) AP@k: the mean of the precisions at the ranks of the relevant items among the first ``k``.

    The sum is divided by min(k, all relevant items), so that 1 means that nothing better was possible; with
    ``of_retrieved`` by the number of relevant items found, as some libraries do. NaN for a query without relevant
    items; 0 where none of them is found.

    Args:
        scores: (Q, N). relevant: (Q, N) bool.
    """
    k = min(k, scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hits = np.take_along_axis(relevant, order, axis=1)
    precision = hits.cumsum(axis=1) / np.arange(1, k + 1)
    gained = (precision * hits).sum(axis=1)
    total = relevant.sum(axis=1)
    below = hits.sum(axis=1) if of_retrieved else np.minimum(total, k)
    result = np.divide(gained, below, out=np.zeros(len(gained)), where=below > 0)
    return np.where(total > 0, result, np.nan)


def recall_at_k(similarity: Array, relevant: Array, k: int) -> NDArray[np.float64]:
    """(Q,) whether one of a query's relevant items is among its first ``k``; R@k is the mean.

    Where items of equal similarity compete for the last places, it is the chance that a random order of these puts a
    relevant one there. So neither equal captions nor a model that gives one vector to everything is favoured.
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
