"""How much zero-shot accuracy depends on the words: a list of phrasings a class, one of them at a time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from sattxt.data.dataset import Samples
from sattxt.errors import LabelError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.labels import ClassPrompts, _entry, read_names
from sattxt.evaluation.metrics import Confusion, Figure, balanced_accuracy, confusion_matrix
from sattxt.evaluation.result import Result, percent
from sattxt.evaluation.zero_shot import per_class_rows

DRAWS = 100
SEED = 0


def phrasings(
    embedder: Embedder, data: Samples, file: Path, templates: tuple[str, ...], *, draws: int = DRAWS
) -> Result:
    """Zero-shot accuracy over assignments of one phrasing to each class.

    An assignment takes one phrase for every class. Measured are, for P phrases in the shortest list, the P assignments
    of the first phrases, the second ones and so on, and ``draws`` random ones (fixed seed). ``top1`` is the mean over
    all of them; ``top1_std``, ``top1_min`` and ``top1_max`` say how far they lie apart, ``top1_first`` is the accuracy
    with the first phrase of every class, ``top1_averaged`` with each class's phrases averaged into one vector. The
    table gives every phrase the accuracy on its class, averaged over the assignments that use it.

    Args:
        file: ``.json`` object of class to list of phrases. templates: each phrase is put into these and averaged.

    Raises:
        LabelError: a class has no entry.
    """
    found = read_names(file)
    phrases = [_entry(found, key, str(file)) for key in data.classes]
    if len(phrases) < 2:
        raise LabelError(f"{file}: at least two classes are needed, {data.store.path} has {len(phrases)}")
    encoder = embedder.encoder
    data = embedder.readable(data)
    texts = [(phrase,) for group in phrases for phrase in group]
    prompts = ClassPrompts(
        tuple(t for (t,) in texts),
        tuple(t for (t,) in texts),
        tuple(tuple(template.replace("{}", t) for template in templates) for (t,) in texts),
        templates,
        file.name,
    )
    vectors = prompts.vectors(encoder)
    starts = np.cumsum([0, *[len(group) for group in phrases]])
    images, targets = embedder(data), data.targets
    scores = images @ vectors.T
    choices = _assignments([len(group) for group in phrases], draws)
    hits = np.zeros(len(targets))
    tops = []
    used, right = np.zeros(len(vectors)), np.zeros(len(vectors))
    of_class = np.bincount(targets, minlength=len(phrases))
    matrix = np.zeros((len(phrases), len(phrases)), dtype=np.int64)
    for choice in choices:
        columns = starts[:-1] + choice
        predicted = scores[:, columns].argmax(axis=1)
        correct = predicted == targets
        hits += correct
        tops.append(percent(correct))
        matrix += confusion_matrix(targets, predicted, len(phrases))
        used[columns] += 1
        right[columns] += np.bincount(targets[correct], minlength=len(phrases)) / np.maximum(of_class, 1)
    first = scores[:, starts[:-1]].argmax(axis=1) == targets
    means = np.stack([vectors[a:b].mean(axis=0) for a, b in pairwise(starts)])
    averaged = (images @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(axis=1) == targets
    settings = prompts.describe() | {"assignments": len(choices), "seed": SEED}
    result = Result("zero-shot", encoder.describe(), data.describe(), settings, skipped=embedder.skipped)
    result.ids = [sample.id for sample in data.samples]
    result.figures = {
        "top1": float(np.mean(tops)),
        "top1_std": float(np.std(tops)),
        "top1_min": float(np.min(tops)),
        "top1_max": float(np.max(tops)),
        "top1_first": percent(first),
        "top1_averaged": percent(averaged),
        "balanced_accuracy": 100 * balanced_accuracy(matrix),
    }
    classes = ClassPrompts(data.classes, data.classes, prompts.prompts, templates, file.name)
    result.tables["per_class"] = per_class_rows(Confusion(matrix), classes)
    result.tables["per_phrase"] = [
        {"class": key, "phrase": phrase, "accuracy": 100 * right[i] / used[i] if used[i] else None}
        for start, key, group in zip(starts, data.classes, phrases, strict=False)
        for i, phrase in enumerate(group, start)
    ]
    result.samples["top1"] = Figure.mean(hits / len(choices))
    result.samples["top1_first"] = Figure.mean(first)
    result.samples["top1_averaged"] = Figure.mean(averaged)
    result.notes.append(
        "top1 is a mean over assignments of one phrase to each class; per-class counts add up all of them"
    )
    return result


def _assignments(sizes: list[int], draws: int) -> list[np.ndarray]:
    generator = np.random.default_rng(SEED)
    aligned = [np.full(len(sizes), i) for i in range(min(sizes))]
    return aligned + [generator.integers(0, sizes) for _ in range(draws)]
