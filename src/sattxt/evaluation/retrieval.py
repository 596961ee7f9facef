"""Retrieval: class names as queries over labelled images, or captions and images as queries for each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sattxt.data.dataset import Samples
from sattxt.errors import InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.metrics import Figure, average_precision_at_k, percent, recall_at_k
from sattxt.evaluation.prompts import ClassPrompts
from sattxt.evaluation.result import Result

DEPTH = 100
RANKS = (1, 5, 10)
_ROWS = 512


def class_retrieval(embedder: Embedder, data: Samples, classes: ClassPrompts, depth: int = DEPTH) -> Result:
    """mAP@100 of class names as queries (SATtxt, section 4): AP@100 of each class that occurs, averaged.

    ``map@100`` divides a query's precisions by min(100, its relevant images), ``map@100_of_retrieved`` by the relevant
    ones among the first 100, as some libraries do; papers rarely say which. ``p@100`` is the share of relevant images
    among the first 100.
    """
    data, images = embedder(data)
    scores = classes.vectors(embedder.encoder) @ images.T
    relevant = data.indicators.T
    met = np.asarray(relevant.any(axis=1))
    standard = average_precision_at_k(scores, relevant, depth)
    first = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    precision = np.where(met, np.take_along_axis(relevant, first, axis=1).mean(axis=1), np.nan)
    name, settings = f"map@{depth}", {"queries": "classes", **classes.describe()}
    result = Result("retrieval", embedder, data, settings)
    result.add(name, Figure.mean(standard[met]))
    result.figures[f"{name}_of_retrieved"] = percent(average_precision_at_k(scores, relevant, depth, of_retrieved=True))
    result.figures[f"p@{depth}"] = percent(precision)
    result.tables["per_class"] = [
        {
            "class": key,
            "name": classes.names[k],
            "n": relevant[k].sum(),
            f"ap@{depth}": 100 * standard[k],
            f"p@{depth}": 100 * precision[k],
        }
        for k, key in enumerate(data.classes)
    ]
    result.ids = [data.classes[k] for k in np.flatnonzero(met)]
    return result


def caption_retrieval(embedder: Embedder, data: Samples) -> Result:
    """R@1, R@5, R@10 both ways and their mean; every caption is a query of its own for its own image.

    An image's query is answered by any of its captions. As in the published protocol, an equal caption of another
    image is a wrong answer (of equal ones, chance decides). ``settings`` says how many captions several images share.
    ``mean_recall_perfect`` is the upper bound that follows: what an encoder reaches that ranks a text for an image by
    the share of the text's uses that are the image's. In ``mean_recall_shared`` equal captions are right wherever they
    stand.

    Raises:
        InputError: an image has no caption.
    """
    data, images = embedder(data)
    without = sum(not sample.captions for sample in data.samples)
    if without:
        raise InputError(f"{data.store.path}: {without} images have no caption")
    owners = np.array([i for i, sample in enumerate(data.samples) for _ in sample.captions])
    texts = [caption for sample in data.samples for caption in sample.captions]
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    which = np.array([place[text] for text in texts])
    vectors = embedder.encoder.encode_texts(list(place))[which]
    own = np.arange(len(data))[:, None] == owners
    uses = np.zeros((len(data), len(place)), dtype=np.float32)
    np.add.at(uses, (owners, which), 1)
    equal = uses[:, which] > 0
    uses /= uses.sum(axis=0)
    settings = {
        "queries": "captions",
        "captions": len(texts),
        "captions_shared_between_images": int((equal.sum(axis=0) > 1).sum()),
    }
    result = Result("retrieval", embedder, data, settings)
    to_text, to_shared_text = _recalls(lambda rows: images[rows] @ vectors.T, own, equal)
    to_image, to_shared_image = _recalls(lambda rows: vectors[rows] @ images.T, own.T, equal.T)
    found = np.stack([np.bincount(owners, column, len(data)) for column in to_image.T], axis=1)
    captions = np.bincount(owners).astype(float)[:, None]
    for k, column in zip(RANKS, to_text.T, strict=True):
        result.add(f"i2t_r@{k}", Figure.mean(column))
    for k, column in zip(RANKS, found.T, strict=True):
        result.add(f"t2i_r@{k}", Figure(column[:, None], captions))
    below = np.hstack([np.ones_like(to_text), np.repeat(captions, len(RANKS), axis=1)])
    result.add("mean_recall", Figure(np.hstack([to_text, found]), below))
    (perfect_text,) = _recalls(lambda rows: uses[rows][:, which], own)
    (perfect_image,) = _recalls(lambda rows: uses.T[which[rows]], own.T)
    for name, *ways in (
        ("mean_recall_shared", to_shared_text, to_shared_image),
        ("mean_recall_perfect", perfect_text, perfect_image),
    ):
        result.figures[name] = percent(np.array([way.mean(axis=0) for way in ways]))
    return result


def _recalls(
    similarity: Callable[[slice], NDArray[np.float32]], *relevant: NDArray[np.bool_]
) -> list[NDArray[np.float64]]:
    """(Q, 3) R@1, R@5, R@10 of each query, for each idea of what is relevant to it.

    In slices of the queries, so that memory stays bounded. Similarities are rounded, so that equal captions are equal
    whatever the order of summation was.
    """
    parts = []
    for start in range(0, len(relevant[0]), _ROWS):
        rows = slice(start, start + _ROWS)
        scores = similarity(rows).round(6)
        parts.append([np.stack([recall_at_k(scores, each[rows], k) for k in RANKS], axis=1) for each in relevant])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]
