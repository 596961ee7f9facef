"""Figures of dense prediction and of regression."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def intersection_union(truth: Array, predicted: Array, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(K,) pixels in both and in either, class by class. Pixels whose truth is negative are ignored."""
    valid = truth >= 0
    pairs = truth[valid].astype(np.int64) * classes + predicted[valid].astype(np.int64)
    matrix = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    both = np.diag(matrix)
    return both, matrix.sum(axis=0) + matrix.sum(axis=1) - both


def mean_iou(intersection: Array, union: Array) -> float:
    """Mean over the classes with any pixel of intersection over union, (K,) or (images, K) summed first."""
    both, either = np.atleast_2d(intersection).sum(axis=0), np.atleast_2d(union).sum(axis=0)
    seen = either > 0
    return float((both[seen] / either[seen]).mean()) if seen.any() else float("nan")


def r2_score(truth: Array, predicted: Array) -> NDArray[np.float64]:
    """(T,) share of the variance of each target that is explained, of (N, T) arrays; NaN where there is no variance."""
    residual = ((truth - predicted) ** 2).sum(axis=0)
    spread = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    return np.asarray(1 - np.divide(residual, spread, out=np.full(len(spread), np.nan), where=spread > 0))
