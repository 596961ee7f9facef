"""Figures of single-label classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def top_k_hits(scores: Array, targets: Array, k: int) -> NDArray[np.bool_]:
    """(N,) whether the target is among the ``k`` highest of (N, K) scores; of equal scores the first class wins."""
    own = scores[np.arange(len(targets)), targets][:, None]
    earlier = np.arange(scores.shape[1])[None, :] < targets[:, None]
    rank = (scores > own).sum(axis=1) + ((scores == own) & earlier).sum(axis=1)
    return np.asarray(rank < k)


def confusion_matrix(targets: Array, predicted: Array, classes: int) -> NDArray[np.int64]:
    """(K, K) counts: rows are true classes, columns predicted ones."""
    return np.bincount(targets * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def balanced_accuracy(matrix: Array) -> float:
    """Mean over the classes that occur of the share of their samples that was recognised."""
    counts = matrix.sum(axis=1)
    seen = counts > 0
    return float((np.diag(matrix)[seen] / counts[seen]).mean())


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix and what follows from it, class by class. Undefined ratios are 0."""

    matrix: NDArray[np.int64]

    @property
    def n(self) -> NDArray[np.int64]:
        """(K,) samples of each class."""
        return np.asarray(self.matrix.sum(axis=1))

    @property
    def recall(self) -> NDArray[np.float64]:
        """(K,) share of a class's samples that was recognised: its accuracy."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(axis=1))

    @property
    def precision(self) -> NDArray[np.float64]:
        """(K,) share of the answers of a class that was right."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(axis=0))

    @property
    def f1(self) -> NDArray[np.float64]:
        """(K,) harmonic mean of precision and recall."""
        return _ratio(2 * np.diag(self.matrix), self.matrix.sum(axis=0) + self.matrix.sum(axis=1))


def softmax(logits: Array) -> Array:
    """Along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def expected_calibration_error(probs: Array, targets: Array, bins: int = 15) -> float:
    """Mean gap of confidence and accuracy over ``bins`` equal ranges of confidence (Guo et al. 2017), in [0, 1]."""
    confidence = probs.max(axis=1)
    correct = probs.argmax(axis=1) == targets
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    gap = np.bincount(which, confidence, bins) - np.bincount(which, correct, bins)
    return float(np.abs(gap[count > 0]).sum() / len(targets))


def _ratio(above: Array, below: Array) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros(len(below)), where=below > 0)
