"""Zero-shot classification: every image against every class, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from sattxt.classify.results import FloatArray
from sattxt.data.dataset import Samples
from sattxt.errors import InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.labels import ClassPrompts
from sattxt.evaluation.metrics import (
    Confusion,
    Figure,
    average_precision,
    balanced_accuracy,
    best_threshold,
    confusion_matrix,
    expected_calibration_error,
    f1_scores,
    label_ranking_precision,
    mean_average_precision,
    softmax,
    top_k_hits,
)
from sattxt.evaluation.result import Result, percent

TOP = 5
_LEAST = 1e-30  # a probability whose logarithm is taken

CENTRED = (
    "transductive: each label's scores had their mean over all evaluated tiles subtracted, which uses these tiles, "
    "unlabelled, and assumes that the classes are about equally frequent among them"
)

TOGETHER = (
    "transductive: the evaluated tiles were classified together, unlabelled, each by its text scores and by the tiles "
    "that are like it (sattxt.classify.transduction)"
)


def zero_shot(
    embedder: Embedder,
    data: Samples,
    classes: ClassPrompts,
    tuning: Samples | None = None,
    *,
    centre_scores: bool = False,
    together: bool = False,
) -> Result:
    """Score every image against every class.

    Single-label data: top-1, top-5, balanced accuracy, expected calibration error (of the softmax over the scaled
    cosines), per-class figures and the confusion matrix. Multi-label data: see :func:`multi_label_figures`.

    Args:
        tuning: of multi-label data, the split on which the threshold is chosen; without one it is chosen on one half
            of the samples and applied to the other, both ways.
        centre_scores: see :func:`centred`; the result says ``"transductive": true`` among its settings.
        together: the tiles tell of one another, see :func:`sattxt.classify.transduction.transduce`; said likewise.

    Raises:
        InputError: ``centre_scores`` or ``together`` with multi-label data, with fewer tiles than classes, or both.
    """
    if centre_scores and together:
        raise InputError("centre_scores and together exclude each other; pass one")
    if (centre_scores or together) and data.multi_label:
        what = "centred scores are" if centre_scores else "tiles classified together are"
        raise InputError(f"{data.store.path}: {what} for data with one label a tile; leave it out")
    encoder = embedder.encoder
    data = embedder.readable(data)
    tuning = None if tuning is None else embedder.readable(tuning)
    weights = classes.vectors(encoder)
    images = embedder(data)
    scores = images @ weights.T
    scale = encoder.logit_scale
    if centre_scores:
        scores = centred(scores)
    elif together:
        from sattxt.classify.transduction import transduce  # here: `sattxt eval --help` needs no torch

        scores, scale = np.log(transduce(images, weights, scale).clip(_LEAST)), 1.0
    result = Result("zero-shot", encoder.describe(), data.describe(), classes.describe(), skipped=embedder.skipped)
    result.ids = [sample.id for sample in data.samples]
    if centre_scores:
        result.settings |= {"centre_scores": True, "transductive": True}
        result.notes.append(CENTRED)
    elif together:
        result.settings |= {"together": True, "transductive": True}
        result.notes.append(TOGETHER)
    if data.multi_label:
        tuned = None if tuning is None else (embedder(tuning) @ weights.T, tuning.indicators)
        multi_label_figures(result, scores, data, classes, tuned)
    else:
        single_label_figures(result, scores, data, classes, scale)
    return result


def centred(scores: FloatArray) -> FloatArray:
    """(N, K) scores less each label's mean over the N tiles.

    A label that is near to everything (or to nothing) in a data set no longer wins (or loses) everywhere. That is right
    where classes are about equally frequent among the tiles, and wrong where they are not.

    Raises:
        InputError: there are fewer tiles than labels, whose means would say nothing.
    """
    count, labels = scores.shape
    if count < labels:
        raise InputError(f"centred scores: {count} tiles for {labels} classes; pass at least as many tiles as classes")
    return scores - scores.mean(axis=0, dtype=np.float64).astype(scores.dtype)


def single_label_figures(
    result: Result, scores: FloatArray, data: Samples, classes: ClassPrompts, logit_scale: float
) -> None:
    """Fill in a result from (N, K) scores of single-label data."""
    targets, count = data.targets, len(data.classes)
    predicted = scores.argmax(axis=1)
    hits, matrix = predicted == targets, confusion_matrix(targets, predicted, count)
    result.figures["top1"] = percent(hits)
    if count > TOP:
        result.figures["top5"] = percent(top_k_hits(scores, targets, TOP))
    result.figures["balanced_accuracy"] = 100 * balanced_accuracy(matrix)
    result.figures["ece"] = expected_calibration_error(softmax(logit_scale * scores.astype(np.float64)), targets)
    result.tables["per_class"] = per_class_rows(Confusion(matrix), classes)
    result.tables["confusion"] = matrix.tolist()
    result.samples["top1"] = Figure.mean(hits)
    if count > TOP:
        result.samples["top5"] = Figure.mean(top_k_hits(scores, targets, TOP))
    result.samples["balanced_accuracy"] = Figure.group_mean(hits, targets, count)


def per_class_rows(confusion: Confusion, classes: ClassPrompts) -> list[dict[str, Any]]:
    """One row a class: its samples, its accuracy (recall), precision and F1, in percent."""
    columns = zip(
        classes.keys, classes.names, confusion.n, confusion.recall, confusion.precision, confusion.f1, strict=True
    )
    return [
        {
            "class": key,
            "name": name,
            "n": int(n),
            "accuracy": 100 * float(recall) if n else None,
            "precision": 100 * float(precision),
            "f1": 100 * float(f1),
        }
        for key, name, n, recall, precision, f1 in columns
    ]


def multi_label_figures(
    result: Result,
    scores: FloatArray,
    data: Samples,
    classes: ClassPrompts,
    tuned: tuple[FloatArray, Any] | None,
) -> None:
    """Fill in a result from (N, K) scores of multi-label data.

    mAP macro and micro, label ranking precision, and micro and macro F1 at one threshold for all classes.
    ``binary_accuracy`` is what some papers call accuracy on BigEarthNet: the mean over classes and images of whether
    "the score is above the image's mean over the other classes" agrees with the truth; ``always_negative`` is what
    answering no throughout would score by it.
    """
    truth = data.indicators
    if tuned is not None:
        threshold = best_threshold(*tuned)
        predicted = scores >= threshold
        result.settings["threshold"] = {"value": round(threshold, 4), "chosen_on": "another split"}
    else:
        predicted = np.zeros_like(truth)
        half = np.arange(len(truth)) % 2 == 0
        for part in (half, ~half):
            if part.any():
                predicted[part] = (
                    scores[part] >= best_threshold(scores[~part], truth[~part]) if (~part).any() else False
                )
        result.settings["threshold"] = {"chosen_on": "the other half of the samples, both ways"}
    f1 = f1_scores(predicted, truth)
    ranking = label_ranking_precision(scores, truth)
    count = truth.shape[1]
    others = (scores.sum(axis=1, keepdims=True) - scores) / max(count - 1, 1)
    result.figures |= {
        "map_macro": 100 * mean_average_precision(scores, truth),
        "map_micro": 100 * mean_average_precision(scores, truth, "micro"),
        "f1_micro": 100 * f1["micro"],
        "f1_macro": 100 * f1["macro"],
        "label_ranking_precision": percent(ranking),
        "binary_accuracy": percent((scores > others) == truth),
        "always_negative": percent(~truth),
    }
    result.tables["per_class"] = [
        {
            "class": key,
            "name": name,
            "n": int(truth[:, k].sum()),
            "ap": 100 * average_precision(scores[:, k], truth[:, k]),
            "f1": 100 * f1_scores(predicted[:, [k]], truth[:, [k]])["micro"],
        }
        for k, (key, name) in enumerate(zip(classes.keys, classes.names, strict=True))
    ]
    above = 2.0 * (predicted & truth).sum(axis=1, keepdims=True)
    below = (predicted.sum(axis=1) + truth.sum(axis=1))[:, None].astype(float)
    result.samples["label_ranking_precision"] = Figure.mean(ranking)
    result.samples["f1_micro"] = Figure(above, below)
