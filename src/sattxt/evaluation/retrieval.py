"""Retrieval: class names as queries over labelled images, or captions and images as queries for each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sattxt.data.dataset import Samples
from sattxt.errors import InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.labels import ClassPrompts
from sattxt.evaluation.metrics import Figure, average_precision_at_k, recall_at_k
from sattxt.evaluation.result import Result, percent

DEPTH = 100
RANKS = (1, 5, 10)
_ROWS = 512


def class_retrieval(embedder: Embedder, data: Samples, classes: ClassPrompts, depth: int = DEPTH) -> Result:
    """mAP@100 of class names as queries (SATtxt, section 4): AP@100 of each class that occurs, averaged.

    ``map@100`` divides a query's precisions by min(100, its relevant images), ``map@100_of_retrieved`` by the relevant
    ones among the first 100, as some libraries do; papers rarely say which. ``p@100`` is the share of relevant images
    among the first 100.
    """
    encoder = embedder.encoder
    data = embedder.readable(data)
    scores = classes.vectors(encoder) @ embedder(data).T
    relevant = data.indicators.T
    met = np.asarray(relevant.any(axis=1))
    standard = average_precision_at_k(scores, relevant, depth)
    found = average_precision_at_k(scores, relevant, depth, of_retrieved=True)
    first = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    precision = np.take_along_axis(relevant, first, axis=1).mean(axis=1)
    name = f"map@{depth}"
    settings = {"queries": "classes", **classes.describe()}
    result = Result("retrieval", encoder.describe(), data.describe(), settings, skipped=embedder.skipped)
    result.figures = {
        name: percent(standard[met]),
        f"{name}_of_retrieved": percent(found[met]),
        f"p@{depth}": percent(precision[met]),
    }
    result.tables["per_class"] = [
        {
            "class": key,
            "name": label,
            "n": int(relevant[k].sum()),
            f"ap@{depth}": 100 * float(standard[k]) if met[k] else None,
            f"p@{depth}": 100 * float(precision[k]) if met[k] else None,
        }
        for k, (key, label) in enumerate(zip(classes.keys, classes.names, strict=True))
    ]
    result.ids = [key for key, seen in zip(classes.keys, met, strict=True) if seen]
    result.samples[name] = Figure.mean(standard[met])
    return result


def caption_retrieval(embedder: Embedder, data: Samples) -> Result:
    """R@1, R@5, R@10 both ways and their mean, every caption a query of its own for its own image.

    An image's query is answered by any of its captions. As in the published protocol, an equal caption of another
    image is a wrong answer (of equal ones, chance decides); ``settings`` says how many captions are shared, and
    ``mean_recall_perfect`` what an encoder would reach that knows every image's captions, but of equal ones no more
    than chance does (it ranks a text for an image by the share of the text's uses that are the image's). In
    ``mean_recall_shared`` equal captions are right wherever they stand.

    Raises:
        InputError: the data have no captions.
    """
    data = embedder.readable(data)
    owners = np.array([i for i, s in enumerate(data.samples) for _ in s.captions], dtype=np.int64)
    texts = [caption for sample in data.samples for caption in sample.captions]
    if len(set(owners.tolist())) < len(data):
        raise InputError(f"{data.store.path}: {len(data) - len(set(owners.tolist()))} images have no caption")
    encoder = embedder.encoder
    images = embedder(data)
    unique = list(dict.fromkeys(texts))
    position = {text: i for i, text in enumerate(unique)}
    which = np.array([position[text] for text in texts])
    vectors = encoder.encode_texts(unique)[which]
    own = np.arange(len(data))[:, None] == owners[None, :]
    told = np.zeros((len(data), len(unique)), dtype=np.float32)
    np.add.at(told, (owners, which), 1)
    equal = told[:, which] > 0
    settings = {
        "queries": "captions",
        "captions": len(texts),
        "captions_shared_between_images": int((equal.sum(axis=0) > 1).sum()),
    }
    result = Result("retrieval", encoder.describe(), data.describe(), settings, skipped=embedder.skipped)
    result.ids = [sample.id for sample in data.samples]
    seen, asked = (lambda rows: images[rows] @ vectors.T), (lambda rows: vectors[rows] @ images.T)
    to_text, to_image = _recalls(seen, own), _recalls(asked, own.T)
    for way, hits in (("i2t", to_text), ("t2i", to_image)):
        for k, column in zip(RANKS, hits.T, strict=True):
            result.figures[f"{way}_r@{k}"] = percent(column)
    result.figures["mean_recall"] = float(np.mean([result.figures[name] for name in list(result.figures)]))
    told /= told.sum(axis=0)
    perfect = (lambda rows: told[rows][:, which]), (lambda rows: told.T[which[rows]])
    for name, (to_texts, to_images), right in (
        ("mean_recall_shared", (seen, asked), equal),
        ("mean_recall_perfect", perfect, own),
    ):
        ways = [_recalls(to_texts, right).mean(axis=0), _recalls(to_images, right.T).mean(axis=0)]
        result.figures[name] = percent(np.concatenate(ways))
    per_image = np.stack([np.bincount(owners, column, len(data)) for column in to_image.T], axis=1)
    captions = np.bincount(owners, minlength=len(data)).astype(float)[:, None]
    for k, text_hit, image_hits in zip(RANKS, to_text.T, per_image.T, strict=True):
        result.samples[f"i2t_r@{k}"] = Figure.mean(text_hit)
        result.samples[f"t2i_r@{k}"] = Figure(image_hits[:, None], captions)
    ones = np.ones((len(data), len(RANKS)))
    result.samples["mean_recall"] = Figure(
        np.hstack([to_text, per_image]), np.hstack([ones, np.repeat(captions, len(RANKS), axis=1)])
    )
    return result


def _recalls(similarity: Callable[[slice], NDArray[np.float32]], relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(Q, 3) R@1, R@5, R@10 of each query; in slices of the queries, so that memory stays bounded.

    Similarities are rounded, so that equal captions are equal whatever the order of summation was.
    """
    parts = []
    for start in range(0, len(relevant), _ROWS):
        rows = slice(start, start + _ROWS)
        scores = similarity(rows).round(6)
        parts.append(np.stack([recall_at_k(scores, relevant[rows], k) for k in RANKS], axis=1))
    return np.concatenate(parts)
