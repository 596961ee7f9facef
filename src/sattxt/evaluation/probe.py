"""Probing frozen features: logistic regression, nearest neighbours, and accuracy from a few samples a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.data.dataset import Dataset, Samples
from sattxt.errors import InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.linear import choose_strength, fit, neighbour_scores, quality
from sattxt.evaluation.metrics import (
    Confusion,
    Figure,
    average_precision,
    balanced_accuracy,
    confusion_matrix,
    label_ranking_precision,
    mean_average_precision,
)
from sattxt.evaluation.result import Result, percent

Array = NDArray[Any]
NEIGHBOURS = (1, 5, 10, 20)
TEMPERATURE = 0.07
SHOTS = (1, 2, 4, 8, 16)
REPEATS = 10
FEW_SHOT_STRENGTH = 0.1
_HELD_OUT = 5


def three_ways(collection: Dataset, split: str | None, limit: int | None) -> tuple[Samples, Samples, Samples, str]:
    """What to train on, choose on and measure on, and a word on where they come from.

    Measured is ``split`` (default: test, else val). Chosen is on val where that is another split; else on every fifth
    training sample of each class. Data without splits are divided: every fifth sample of each class is measured on.

    Raises:
        InputError: there is no training split beside the measured one.
    """
    note = "choices made on val"
    if set(collection.splits) == {""}:
        everything = collection.split("all", limit)
        train, test = _fifth(everything)
        note = "no splits: every fifth sample of each class measured on; "
    else:
        wanted = split or ("test" if collection.has("test") else "val")
        test = collection.split(wanted, limit)
        if not collection.has("train") or test.split == "train":
            raise InputError(f"{collection.store.path}: probing needs a training split beside {test.split!r}")
        train = collection.split("train", limit)
        if test.split != "val" and collection.has("val"):
            return train, collection.split("val", limit), test, note
        note = ""
    kept, held_out = _fifth(train)
    return (
        kept,
        held_out,
        test,
        note + "choices made on every fifth training sample of each class, then all are trained on",
    )


def probe(
    embedder: Embedder,
    collection: Dataset,
    *,
    split: str | None = None,
    limit: int | None = None,
    fraction: float = 1.0,
    shots: Sequence[int] = SHOTS,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Result:
    """How well frozen image embeddings can be classified.

    ``linear`` is logistic regression with its regularisation, ``knn`` a weighted vote of neighbours with their number
    chosen as :func:`three_ways` says. The few-shot table has the mean over ``repeats`` draws of n samples a class (the
    same draws for every model), with a 95 % t interval; the regularisation is fixed there, as there is nothing to
    choose it on. Figures are accuracy, or macro mAP of multi-label data.

    Args:
        fraction: of the training samples, evenly taken.

    Raises:
        InputError: no training split, or nothing to learn. MissingExtraError: scikit-learn is not installed.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction={fraction}: pass a share in (0, 1]")
    *parts, note = three_ways(collection, split, limit)
    train_data, held_data, test_data = (embedder.readable(part) for part in parts)
    own_split = held_data.split != train_data.split
    if fraction < 1:
        kept = np.linspace(0, len(train_data) - 1, max(1, round(fraction * len(train_data)))).round().astype(int)
        train_data = train_data.take(np.unique(kept).tolist())
    sets = [(embedder(data), _targets(data)) for data in (train_data, held_data, test_data)]
    train, held_out, test = sets
    classes = len(test_data.classes)
    strength, tried = choose_strength(train, held_out, classes)
    neighbours = max(NEIGHBOURS, key=lambda k: quality(_votes(train, held_out[0], k, classes), held_out[1]))
    full = train if own_split else tuple(np.concatenate(pair) for pair in zip(train, held_out, strict=True))
    scores = fit(full[0], full[1], classes, strength).scores(test[0])
    votes = _votes((full[0], full[1]), test[0], neighbours, classes)

    settings = {
        "train": len(full[0]),
        "strength": strength,
        "tried": {f"{s:g}": round(v, 2) for s, v in tried.items()},
        "neighbours": neighbours,
        "protocol": note,
        "seed": seed,
    }
    result = Result("probe", embedder.encoder.describe(), test_data.describe(), settings, skipped=embedder.skipped)
    result.ids = [sample.id for sample in test_data.samples]
    _measure(result, "linear", scores, test[1])
    _measure(result, "knn", votes, test[1])
    result.tables["per_class"] = _per_class(scores, test[1], test_data.classes)
    rows = []
    for n in shots:
        found = few_shot((full[0], full[1]), test, classes, n, repeats, seed)
        if found:
            rows.append({"shots": n, **found})
    result.tables["few_shot"] = rows
    return result


def few_shot(
    train: tuple[Array, Array], test: tuple[Array, Array], classes: int, shots: int, repeats: int, seed: int
) -> dict[str, Any]:
    """Accuracy (or macro mAP) in percent from ``shots`` samples a class: mean, 95 % t interval and spread over draws.

    Empty where a class that occurs has fewer samples than ``shots``.
    """
    stats = _student()
    indicators = train[1] if train[1].ndim == 2 else np.eye(classes, dtype=bool)[train[1]]
    members = [np.flatnonzero(indicators[:, k]) for k in range(classes)]
    members = [m for m in members if len(m)]
    if min(len(m) for m in members) < shots:
        return {}
    figures = []
    for repeat in range(repeats):
        generator = np.random.default_rng([seed, shots, repeat])
        chosen = np.unique(np.concatenate([generator.choice(m, shots, replace=False) for m in members]))
        model = fit(train[0][chosen], train[1][chosen], classes, FEW_SHOT_STRENGTH)
        figures.append(100 * quality(model.scores(test[0]), test[1]))
    mean, spread = float(np.mean(figures)), float(np.std(figures, ddof=1)) if repeats > 1 else 0.0
    half = float(stats.t.ppf(0.975, repeats - 1)) * spread / repeats**0.5 if repeats > 1 else float("nan")
    return {"mean": mean, "low": mean - half, "high": mean + half, "std": spread, "draws": repeats}


def _student() -> Any:
    try:
        from scipy import stats  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        from sattxt.errors import MissingExtraError

        raise MissingExtraError("eval", "scikit-learn", "few-shot intervals") from error
    return stats


def _votes(train: tuple[Array, Array], queries: Array, k: int, classes: int) -> Array:
    return neighbour_scores(train, queries, k, classes, TEMPERATURE)


def _targets(data: Samples) -> Array:
    return data.indicators if data.multi_label else data.targets


def _measure(result: Result, name: str, scores: Array, targets: Array) -> None:
    if targets.ndim == 2:
        result.figures[f"{name}_map_macro"] = 100 * mean_average_precision(scores, targets)
        result.figures[f"{name}_map_micro"] = 100 * mean_average_precision(scores, targets, "micro")
        result.samples[f"{name}_label_ranking_precision"] = Figure.mean(label_ranking_precision(scores, targets))
        result.figures[f"{name}_label_ranking_precision"] = result.samples[f"{name}_label_ranking_precision"].value
        return
    hits = scores.argmax(axis=1) == targets
    result.figures[f"{name}_top1"] = percent(hits)
    result.samples[f"{name}_top1"] = Figure.mean(hits)
    if name == "linear":
        matrix = confusion_matrix(targets, scores.argmax(axis=1), scores.shape[1])
        result.figures["linear_balanced_accuracy"] = 100 * balanced_accuracy(matrix)


def _per_class(scores: Array, targets: Array, classes: Sequence[str]) -> list[dict[str, Any]]:
    if targets.ndim == 2:
        return [
            {"class": key, "n": int(targets[:, k].sum()), "ap": 100 * average_precision(scores[:, k], targets[:, k])}
            for k, key in enumerate(classes)
        ]
    confusion = Confusion(confusion_matrix(targets, scores.argmax(axis=1), len(classes)))
    return [
        {"class": key, "n": int(n), "accuracy": 100 * float(recall) if n else None}
        for key, n, recall in zip(classes, confusion.n, confusion.recall, strict=True)
    ]


def _fifth(data: Samples) -> tuple[Samples, Samples]:
    """Four fifths and one: every fifth sample of each (first) label goes into the second part."""
    seen: dict[int, int] = {}
    parts: tuple[list[int], list[int]] = ([], [])
    for index, sample in enumerate(data.samples):
        label = sample.labels[0] if sample.labels else -1
        parts[seen.get(label, 0) % _HELD_OUT == _HELD_OUT - 1].append(index)
        seen[label] = seen.get(label, 0) + 1
    if not all(parts):
        raise InputError(f"{data.store.path}: {len(data)} samples are too few to hold out a fifth of each class")
    return data.take(parts[0]), data.take(parts[1])
