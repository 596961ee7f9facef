"""Zero-shot classification: every image against every class, in words; and how it depends on words and resolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from sattxt.classify.results import FITS
from sattxt.data.dataset import Samples
from sattxt.errors import InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.metrics import (
    Figure,
    average_precisions,
    best_threshold,
    class_rows,
    expected_calibration_error,
    interval,
    label_ranking_precision,
    percent,
    sklearn,
)
from sattxt.evaluation.prompts import ClassPrompts, find_texts
from sattxt.evaluation.result import Result
from sattxt.vision.embeddings import FloatArray, unit_rows

if TYPE_CHECKING:
    from sattxt.classify.fit import FitReference

TOP = 5
DRAWS = 100  # of phrases, beside those in turn
SEED = 0
FACTORS = (1, 2, 4, 8)


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
    cosines), per-class figures and the confusion matrix; for models that tell whether any label fits, the share of
    tiles that are refused, with all labels and without the right one. Multi-label data: mean average precision, F1
    and the figures of some papers, see :func:`_measure_multi_label`.

    Args:
        tuning: of multi-label data, the split on which the threshold is chosen; without one it is chosen on one half
            of the samples and applied to the other, both ways.
        centre_scores: see :func:`centred`; the result says ``"transductive": true`` among its settings.
        together: classify the tiles together, see :func:`sattxt.classify.transduction.transduce`; the result says so.

    Raises:
        InputError: ``centre_scores`` or ``together`` with multi-label data, with fewer tiles than classes, or both.
    """
    if centre_scores and together:
        raise InputError("centre_scores and together (--centre-scores, --together) exclude each other; pass one")
    if (centre_scores or together) and data.multi_label:
        raise InputError(f"{data.store.path}: centre_scores and together are for data with one label a tile")
    encoder = embedder.encoder
    weights = classes.vectors(encoder)
    data, images = embedder(data)
    scores, scale = images @ weights.T, encoder.logit_scale
    result = Result("zero-shot", embedder, data, classes.describe())
    if centre_scores:
        scores = centred(scores)
        result.settings |= {"centre_scores": True, "transductive": True}
        result.notes.append(
            "transductive: each label's scores had their mean over all evaluated tiles subtracted, which uses these "
            "tiles, unlabelled, and assumes that the classes are about equally frequent among them"
        )
    elif together:
        from sattxt.classify.transduction import transduce  # here: `sattxt eval --help` needs no torch

        scores, scale = np.log(transduce(images, weights, scale).clip(1e-30)), 1.0
        result.settings |= {"together": True, "transductive": True}
        result.notes.append(
            "transductive: the evaluated tiles were classified together, unlabelled, each by its text scores and by "
            "similar tiles (sattxt.classify.transduction)"
        )
    if not data.multi_label:
        _measure_single_label(result, scores, classes, scale)
        fit: FitReference | None = getattr(encoder, "fit", None)
        if fit is not None:
            _measure_refusal(result, images, weights, fit)
    elif tuning is None:
        _measure_multi_label(result, scores, classes, None)
    else:
        tuning, vectors = embedder(tuning)
        _measure_multi_label(result, scores, classes, best_threshold(vectors @ weights.T, tuning.indicators))
    return result


def _measure_refusal(result: Result, images: FloatArray, weights: FloatArray, fit: FitReference) -> None:
    """How often tiles are said to fit no label: with all labels, and with the tile's own taken out."""
    scores, best = images @ weights.T, fit.best_pictures(weights)
    absent = scores.copy()
    absent[np.arange(len(absent)), result.data.targets] = -np.inf
    result.add("refused_present", Figure.mean(fit.measure(images, scores, best) < FITS))
    result.add("refused_absent", Figure.mean(fit.measure(images, absent, best) < FITS))


def phrasings(
    embedder: Embedder,
    data: Samples,
    words: Mapping[str, Sequence[str]],
    templates: tuple[str, ...],
    *,
    source: str = "phrases",
    draws: int = DRAWS,
) -> Result:
    """Zero-shot accuracy over assignments of one phrasing to each class.

    An assignment takes one phrase for every class. Measured are, for P phrases in the shortest list, the P assignments
    of the first phrases, the second ones and so on, and ``draws`` random ones (fixed seed). ``top1`` is the mean over
    all of them; ``top1_std``, ``top1_min`` and ``top1_max`` are their spread, ``top1_first`` is the accuracy with the
    first phrase of every class, ``top1_averaged`` with each class's phrases averaged into one vector. The table gives
    every phrase the accuracy on its class, averaged over the assignments that use it.

    Args:
        words: phrases by class; ``source`` is where they come from, for results and errors.
        templates: each phrase is put into these and averaged.

    Raises:
        LabelError: a class has no entry.
    """
    phrases = find_texts(words, data.classes, source)
    sizes = [len(group) for group in phrases.values()]
    data, images = embedder(data)
    texts = tuple(phrase for group in phrases.values() for phrase in group)
    filled = tuple(tuple(template.replace("{}", text) for template in templates) for text in texts)
    prompts = ClassPrompts(texts, filled, templates, source)
    vectors, targets = prompts.vectors(embedder.encoder), data.targets
    scores = images @ vectors.T
    starts = np.cumsum([0, *sizes])
    generator = np.random.default_rng(SEED)
    aligned = [np.full(len(sizes), i) for i in range(min(sizes))]
    chosen = starts[:-1] + np.array([*aligned, *(generator.integers(0, sizes) for _ in range(draws))])
    predicted = np.stack([scores[:, columns].argmax(axis=1) for columns in chosen])
    hits = predicted == targets
    count = np.bincount(targets, minlength=len(sizes))
    recall = np.stack([np.bincount(targets, row, len(sizes)) for row in hits]) / count.clip(1)  # (assignments, classes)
    tops = 100 * hits.mean(axis=1)
    averaged = images @ unit_rows([vectors[a:b].mean(axis=0) for a, b in pairwise(starts)]).T
    settings = prompts.describe() | {"assignments": len(chosen), "seed": SEED}
    result = Result("zero-shot", embedder, data, settings)
    result.add("top1", Figure.mean(hits.mean(axis=0)))
    result.figures |= {"top1_std": tops.std(), "top1_min": tops.min(), "top1_max": tops.max()}
    result.add("top1_first", Figure.mean(hits[0]))
    result.add("top1_averaged", Figure.mean(averaged.argmax(axis=1) == targets))
    result.figures["balanced_accuracy"] = percent(recall[:, count > 0])
    result.tables["per_class"] = class_rows(np.tile(targets, len(chosen)), predicted.ravel(), data.classes)
    rows = result.tables["per_phrase"] = []
    for k, (key, group) in enumerate(phrases.items()):
        for i, phrase in enumerate(group, starts[k]):
            used = recall[chosen[:, k] == i, k]
            rows.append({"class": key, "phrase": phrase, "accuracy": percent(used) if len(used) else None})
    result.notes.append(
        "top1 is a mean over assignments of one phrase to each class; per-class counts add up all of them"
    )
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


def _measure_single_label(result: Result, scores: FloatArray, classes: ClassPrompts, logit_scale: float) -> None:
    targets, count = result.data.targets, scores.shape[1]
    predicted = scores.argmax(axis=1)
    hits = predicted == targets
    result.add("top1", Figure.mean(hits))
    if count > TOP:
        first = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
        result.add("top5", Figure.mean((first == targets[:, None]).any(axis=1)))
    result.add("balanced_accuracy", Figure.group_mean(hits, targets, count))
    powers = np.exp(logit_scale * (scores - scores.max(axis=1, keepdims=True)).astype(np.float64))
    probs = powers / powers.sum(axis=1, keepdims=True)
    result.figures["ece"] = expected_calibration_error(probs, targets)
    result.tables["per_class"] = class_rows(targets, predicted, result.data.classes, classes.names)
    matrix = sklearn("metrics").confusion_matrix(targets, predicted, labels=range(count))
    result.tables["confusion"] = matrix.tolist()


def _measure_multi_label(result: Result, scores: FloatArray, classes: ClassPrompts, threshold: float | None) -> None:
    """Fill in a result from (N, K) scores.

    mAP macro and micro, label ranking precision, and micro and macro F1 at one threshold for all classes.
    ``binary_accuracy`` is what some papers call accuracy on BigEarthNet: the mean over classes and images of whether
    "the score is above the image's mean over all classes" agrees with the truth; ``always_negative`` is what
    answering no throughout would score by it.
    """
    truth = result.data.indicators
    predicted = np.zeros_like(truth)
    if threshold is not None:
        predicted = scores >= threshold
        result.settings["threshold"] = {"value": threshold, "chosen_on": "another split"}
    else:
        for half in (0, 1) if len(truth) > 1 else ():
            predicted[half::2] = scores[half::2] >= best_threshold(scores[1 - half :: 2], truth[1 - half :: 2])
        result.settings["threshold"] = {"chosen_on": "the other half of the samples, both ways"}
    found = average_precisions(scores, truth)
    counted = (truth | predicted).any(axis=0)
    f1 = sklearn("metrics").f1_score(truth, predicted, average=None, zero_division=0)
    result.add_precisions(scores)
    agreed = 2.0 * (predicted & truth).sum(axis=1, keepdims=True)
    result.add(
        "f1_micro", Figure(agreed, 0.0 + predicted.sum(axis=1, keepdims=True) + truth.sum(axis=1, keepdims=True))
    )
    result.figures["f1_macro"] = percent(f1[counted])
    result.figures["binary_accuracy"] = percent((scores > scores.mean(axis=1, keepdims=True)) == truth)
    result.figures["always_negative"] = percent(~truth)
    result.tables["per_class"] = [
        {"class": key, "name": classes.names[k], "n": truth[:, k].sum(), "ap": 100 * found[k], "f1": 100 * f1[k]}
        for k, key in enumerate(result.data.classes)
    ]


def scale(
    embedder: Embedder,
    data: Samples,
    classes: ClassPrompts,
    *,
    factors: Sequence[float] = FACTORS,
    sizes: Sequence[int] = (),
    open_at: Callable[[int], Embedder],
) -> Result:
    """Zero-shot accuracy (multi-label: macro mAP) with pixels ``factors`` times as large, and at input ``sizes``.

    Args:
        open_at: opens the model at an input size.

    Raises:
        InputError: a factor is below 1, or the model's input size cannot be changed.
    """
    if any(factor < 1 for factor in factors):
        raise InputError(f"factors {', '.join(f'{f:g}' for f in factors)}: pass 1 or more")
    data, images = embedder(data)
    weights = classes.vectors(embedder.encoder)
    name = "map_macro" if data.multi_label else "top1"
    settings = {**classes.describe(), "factors": list(factors), "sizes": list(sizes), "figure": name}
    result = Result("scale", embedder, data, settings)
    seen = {factor: images if factor == 1 else embedder(data, factor)[1] for factor in factors}
    result.tables["gsd"] = [
        {"factor": factor, **_measure(result, f"{name}_x{factor:g}", vectors @ weights.T)}
        for factor, vectors in seen.items()
    ]
    result.tables["input_size"] = [
        {"size": size, **_measure(result, f"{name}_{size}px", open_at(size)(data)[1] @ weights.T)} for size in sizes
    ]
    return result


def _measure(result: Result, name: str, scores: FloatArray) -> dict[str, float | None]:
    """Report a figure of scores at some resolution; the row of the table that it is in."""
    data, low, high = result.data, None, None
    if data.multi_label:
        result.figures[name] = percent(average_precisions(scores, data.indicators))
        ranking = label_ranking_precision(scores, data.indicators)
        result.samples[name.replace("map_macro", "lrap")] = Figure.mean(ranking)
    else:
        result.add(name, Figure.mean(scores.argmax(axis=1) == data.targets))
        low, high = interval(result.samples[name])
    return {"value": result.figures[name], "low": low, "high": high}
