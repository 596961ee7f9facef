"""How much zero-shot accuracy depends on the words: a list of phrasings a class, one of them at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from sattxt.data.dataset import Samples
from sattxt.errors import LabelError
from sattxt.evaluation.bootstrap import Figure
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.encoder import unit
from sattxt.evaluation.metrics import class_rows, percent
from sattxt.evaluation.prompts import ClassPrompts, find_texts
from sattxt.evaluation.result import Result

DRAWS = 100
SEED = 0


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
    if len(phrases) < 2:
        raise LabelError(f"{source}: at least two classes are needed, {data.store.path} has {len(phrases)}")
    encoder, sizes = embedder.encoder, [len(group) for group in phrases.values()]
    data, images = embedder(data)
    texts = tuple(phrase for group in phrases.values() for phrase in group)
    filled = tuple(tuple(template.replace("{}", text) for template in templates) for text in texts)
    prompts = ClassPrompts(texts, texts, filled, templates, source)
    vectors, targets = prompts.vectors(encoder), data.targets
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
    averaged = images @ unit([vectors[a:b].mean(axis=0) for a, b in pairwise(starts)]).T
    settings = prompts.describe() | {"assignments": len(chosen), "seed": SEED}
    result = Result("zero-shot", encoder, data, settings, embedder.skipped)
    result.add("top1", Figure.mean(hits.mean(axis=0)))
    result.figures |= {"top1_std": tops.std(), "top1_min": tops.min(), "top1_max": tops.max()}
    result.add("top1_first", Figure.mean(hits[0]))
    result.add("top1_averaged", Figure.mean(averaged.argmax(axis=1) == targets))
    result.figures["balanced_accuracy"] = percent(recall[:, count > 0])
    everywhere = np.tile(targets, len(chosen))
    result.tables["per_class"] = class_rows(everywhere, predicted.ravel(), data.classes)
    rows = result.tables["per_phrase"] = []
    for k, (key, group) in enumerate(phrases.items()):
        for i, phrase in enumerate(group, starts[k]):
            used = recall[chosen[:, k] == i, k]
            rows.append({"class": key, "phrase": phrase, "accuracy": percent(used) if len(used) else None})
    result.notes.append(
        "top1 is a mean over assignments of one phrase to each class; per-class counts add up all of them"
    )
    return result
