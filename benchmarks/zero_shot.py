"""One tile against K labels, text cached or not, against the reference's procedure with the same towers.

The reference's demo runs the image tower and the text tower again for every label, one label at a time, and takes the
cosine of the two. Its procedure is measured here on our model object: same weights, precision and machine; only the
procedure differs.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import machine, models
from benchmarks.images import tiles
from benchmarks.settings import Result, Settings
from benchmarks.timing import Case, alternate, speedup
from sattxt import SatTxt

_SUBSET = 20  # labels of the reference's loop that are measured; more are extrapolated


def run(**arguments: Any) -> dict[str, Any]:
    """All of it, as a :class:`Result` in JSON form."""
    settings = Settings(**arguments)
    machine.apply_threads(settings.threads)
    result = Result("zero-shot", settings.device)
    with models.small_model(settings) as (location, name), TemporaryDirectory(prefix="sattxt-bench-") as folder:
        cache = Path(folder) / "text.sqlite3"
        model, other = (SatTxt.from_pretrained(location, device=settings.device, text_cache=cache) for _ in range(2))
        _measure(settings, result, model, other, name)
    return result.to_dict()


def _measure(settings: Settings, result: Result, model: SatTxt, other: SatTxt, name: str) -> None:
    """``other``: the same model again, for new labels, so that ``model`` does not forget those that it has seen."""
    sync = machine.synchroniser(settings.device)
    tile = tiles(1, 64)[0]
    vector = np.asarray(model.encode_image(tile))
    fresh = itertools.count(1)
    rows: list[dict[str, Any]] = []
    shown: list[tuple[str, float]] = []
    overheads: dict[int, float] = {}
    for count in settings.pick((10, 100, 1000), (10, 100, 1000), (3, 5)):
        labels = models.labels(count)
        classifier = model.classifier(labels)
        turned = _orders(labels)
        looped = min(count, settings.pick(_SUBSET, 10, 3))
        cases = {
            "one image pass": Case(_call(model.encode_image, tile)),
            "classifier, reused": Case(_call(classifier, tile)),
            "the labels' part, seen before": Case(_labels_part(model, vector, labels)),
            "zero_shot, labels seen before": Case(_zero_shot(model, tile, partial(list, labels))),
            "zero_shot, text cached on disk": Case(_zero_shot(other, tile, partial(next, turned))),
            "zero_shot, new labels": Case(_zero_shot(other, tile, _new_labels(count, fresh))),
            "reference's procedure": Case(_procedure(model, tile, _new_labels(looped, fresh)), looped),
        }
        series = alternate(
            cases,
            rounds=settings.pick(15, 5, 1),
            min_seconds=settings.pick(0.2, 0.05, 0.0),
            budget=settings.budget,
            sync=sync,
        )
        image, reference = series["one image pass"], series["reference's procedure"]
        for case, measured in series.items():
            scale = count if case.startswith("reference") else 1
            rows.append(
                {
                    "K": count,
                    "case": case,
                    "ms": 1e3 * measured.seconds * scale,
                    "× reference's procedure": speedup(reference, measured) * count / scale,
                    "× one image pass": scale / speedup(image, measured),
                    "spread": measured.spread,
                }
            )
        for case in ("zero_shot, labels seen before", "zero_shot, text cached on disk", "zero_shot, new labels"):
            shown.append((f"K={count}: {case.partition(', ')[2]}", speedup(reference, series[case]) * count))
        part = series["the labels' part, seen before"]
        overheads[count] = statistics.median(z / i for z, i in zip(part.wall, image.wall, strict=True))
        if looped < count:
            result.notes.append(f"K={count}: the reference's procedure extrapolated from {looped} labels (linear in K)")
    result.tables[f"One tile over K labels, {name}, {str(model.dtype).removeprefix('torch.')}"] = rows
    result.panel(f"zero_shot, {settings.device}", "× the reference's procedure, same towers", shown, log=True)
    for count, ratio in overheads.items():
        result.goal(f"zero_shot over {count} cached labels, cost over one image pass", 0.02, ratio, at_least=False)
    result.notes.append(
        "the labels' part: what zero_shot does beside the image pass, finding the labels' matrix and scoring a tile's "
        "embedding against it; measured by itself, as it is less than an image pass varies by"
    )


def _orders(labels: list[str]) -> Iterator[list[str]]:
    """The same labels in ever other orders: known to the text cache, new to whatever remembers a whole list."""
    random = np.random.default_rng(0)
    while True:
        yield [labels[i] for i in random.permutation(len(labels))]


def _new_labels(count: int, series: Iterator[int]) -> Callable[[], list[str]]:
    """Gives labels that nothing has seen, so that nothing is cached for them."""
    return lambda: models.labels(count, series=next(series))


def _call(classifier: Callable[..., object], tile: np.ndarray) -> Callable[[], object]:
    return lambda: classifier(tile)


def _zero_shot(model: SatTxt, tile: np.ndarray, labels: Callable[[], list[str]]) -> Callable[[], object]:
    return lambda: model.zero_shot(tile, labels())


def _labels_part(model: SatTxt, vector: np.ndarray, labels: list[str]) -> Callable[[], object]:
    return lambda: model.classifier(list(labels))(vector)


def _procedure(model: SatTxt, tile: np.ndarray, labels: Callable[[], list[str]]) -> Callable[[], object]:
    return lambda: _reference(model, tile, labels())


@torch.inference_mode()
def _reference(model: SatTxt, tile: np.ndarray, labels: list[str]) -> list[float]:
    """For every label: image tower, text tower, cosine."""
    template = model.config.prompt_templates[0]
    encoder = models.text_encoder(model)
    scores = []
    for label in labels:
        image = models.tower(model)(model.vision.preprocess(tile).to(model.device)).embedding.float()
        pooled = torch.from_numpy(encoder.encode([template.format(label)]))
        text = model.text.head(pooled.to(model.device))
        scores.append(float(F.cosine_similarity(image, text)))
    return scores
