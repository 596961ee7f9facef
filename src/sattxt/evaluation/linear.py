"""Logistic regression on frozen features, single- or multi-label, regularised as held-out samples ask for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.evaluation.extras import sklearn
from sattxt.evaluation.metrics import mean_average_precision

Array = NDArray[Any]

#: Inverse strengths of regularisation to choose from, for features of unit variance or so.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_STEPS = 1000


@dataclass(frozen=True)
class Scaler:
    """Features as the regressions take them: centred, and divided by one number: their mean standard deviation."""

    mean: Array
    scale: float

    @classmethod
    def fit(cls, features: Array) -> Scaler:
        """From training features, (N, D)."""
        return cls(features.mean(axis=0), float(features.std(axis=0).mean()) or 1.0)

    def __call__(self, features: Array) -> Array:
        """(N, D) float32 scaled features."""
        return np.asarray((features - self.mean) / self.scale, dtype=np.float32)


@dataclass(frozen=True)
class LinearProbe:
    """K linear scores of features. multi_label: each class against the rest, else multinomial."""

    weights: Array
    bias: Array
    scaler: Scaler

    def scores(self, features: Array) -> Array:
        """(N, K), higher is more likely; only the order within a row (single-label) or column has a meaning."""
        return np.asarray(self.scaler(features) @ self.weights.T + self.bias)


def fit(features: Array, targets: Array, classes: int, strength: float) -> LinearProbe:
    """Fit a probe.

    Args:
        features: (N, D). targets: (N,) classes, or (N, K) indicators for multi-label.
        strength: inverse of the regularisation (C of scikit-learn).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    scaler = Scaler.fit(features)
    scaled = scaler(features)
    weights = np.zeros((classes, features.shape[1]), np.float32)
    bias = np.full(classes, -1e9, np.float32)
    if targets.ndim == 2:
        for k in range(classes):
            if targets[:, k].any() and not targets[:, k].all():
                model = _regression(scaled, targets[:, k], strength)
                weights[k], bias[k] = model.coef_[0], model.intercept_[0]
            else:
                bias[k] = 1e9 if targets[:, k].all() else -1e9
        return LinearProbe(weights, bias, scaler)
    met = np.unique(targets)
    if len(met) == 1:
        bias[met[0]] = 0
        return LinearProbe(weights, bias, scaler)
    model = _regression(scaled, targets, strength)
    if len(met) == 2:  # scikit-learn gives one row for two classes
        weights[met[1]], bias[met[1]], bias[met[0]] = model.coef_[0], model.intercept_[0], 0
    else:
        weights[met], bias[met] = model.coef_, model.intercept_
    return LinearProbe(weights, bias, scaler)


def choose_strength(
    train: tuple[Array, Array], held_out: tuple[Array, Array], classes: int, strengths: Sequence[float] = STRENGTHS
) -> tuple[float, dict[float, float]]:
    """The strength that does best on held-out samples (accuracy, or macro mAP), and the figure of each in percent.

    Of equal ones the most regularised is taken.
    """
    figures = {s: 100 * quality(fit(*train, classes, s).scores(held_out[0]), held_out[1]) for s in strengths}
    return max(figures, key=lambda s: figures[s]), figures


def quality(scores: Array, targets: Array) -> float:
    """Accuracy of (N, K) scores for (N,) targets, macro mAP for (N, K) indicators; in [0, 1]."""
    if targets.ndim == 2:
        return mean_average_precision(scores, targets)
    return float((scores.argmax(axis=1) == targets).mean())


def neighbour_scores(train: tuple[Array, Array], queries: Array, k: int, classes: int, temperature: float) -> Array:
    """(N, K) votes of the ``k`` nearest training samples by cosine, weighted by exp(cosine / temperature).

    Args:
        train: (M, D) unit vectors with (M,) classes or (M, K) indicators. queries: (N, D) unit vectors.
    """
    features, targets = train
    votes = targets.astype(np.float32) if targets.ndim == 2 else np.eye(classes, dtype=np.float32)[targets]
    k = min(k, len(features))
    parts = []
    for start in range(0, len(queries), 1024):
        similarity = queries[start : start + 1024] @ features.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        weight = np.exp((np.take_along_axis(similarity, nearest, axis=1) - 1) / temperature)
        parts.append((votes[nearest] * weight[..., None]).sum(axis=1) / weight.sum(axis=1, keepdims=True))
    return np.concatenate(parts)


def _regression(features: Array, targets: Array, strength: float) -> Any:
    linear_model = sklearn("linear_model", "fitting a linear probe")
    exceptions = sklearn("exceptions", "fitting a linear probe")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes")  # few samples a class are meant
        return linear_model.LogisticRegression(C=strength, max_iter=_STEPS).fit(features, targets)
