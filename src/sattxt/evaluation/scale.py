"""Accuracy as the ground sampling distance degrades, and as the model's input size changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL import Image as Pillow

from sattxt.data.dataset import Samples
from sattxt.errors import InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.encoder import Image
from sattxt.evaluation.labels import ClassPrompts
from sattxt.evaluation.metrics import Figure, interval, label_ranking_precision, mean_average_precision
from sattxt.evaluation.result import Result

FACTORS = (1, 2, 4, 8)


def degrade(image: Image, factor: float) -> Image:
    """An (H, W, 3) image with pixels ``factor`` times as large: each the mean of those it covers.

    It comes out smaller; models resize it to their input size, as they would a tile of that resolution.
    """
    if factor == 1:
        return image
    height, width = (max(1, round(side / factor)) for side in image.shape[:2])
    if image.dtype == np.uint8:
        return np.asarray(Pillow.fromarray(image).resize((width, height), Pillow.Resampling.BOX))
    planes = [Pillow.fromarray(image[..., c].astype(np.float32), mode="F") for c in range(3)]
    return np.stack([np.asarray(p.resize((width, height), Pillow.Resampling.BOX)) for p in planes], axis=-1)


def scale(
    embedder: Embedder,
    data: Samples,
    classes: ClassPrompts,
    *,
    factors: Sequence[float] = FACTORS,
    sizes: Sequence[int] = (),
    open_at: Callable[[int], Embedder] | None = None,
) -> Result:
    """Zero-shot accuracy (multi-label: macro mAP) with pixels ``factors`` times as large, and at input ``sizes``.

    Args:
        open_at: opens the model at an input size; needed for ``sizes``.

    Raises:
        InputError: a factor is below 1, or the model's input size cannot be changed.
    """
    if any(factor < 1 for factor in factors):
        raise InputError(f"factors {', '.join(f'{f:g}' for f in factors)}: pass 1 or more")
    encoder = embedder.encoder
    data = embedder.readable(data)
    weights = classes.vectors(encoder)
    result = Result("scale", encoder.describe(), data.describe(), classes.describe(), skipped=embedder.skipped)
    result.ids = [sample.id for sample in data.samples]
    name = "map_macro" if data.multi_label else "top1"
    result.settings |= {"factors": list(factors), "sizes": list(sizes), "figure": name}
    result.tables["gsd"] = []
    for factor in factors:
        plain = factor == 1
        vectors = embedder(data) if plain else embedder(data, partial(degrade, factor=factor), f"gsd/{factor:g}")
        row = _measure(result, f"{name}_x{factor:g}", vectors @ weights.T, data)
        result.tables["gsd"].append({"factor": factor, **row})
    result.tables["input_size"] = []
    for size in sizes:
        if open_at is None:
            raise InputError("the input size cannot be changed here")
        other = open_at(size)
        row = _measure(result, f"{name}_{size}px", other(data) @ weights.T, data)
        result.tables["input_size"].append({"size": size, **row})
    return result


def _measure(result: Result, name: str, scores: Image, data: Samples) -> dict[str, float | None]:
    if data.multi_label:
        value = 100 * mean_average_precision(scores, data.indicators)
        result.figures[name] = value
        result.samples[name.replace("map_macro", "lrap")] = Figure.mean(
            label_ranking_precision(scores, data.indicators)
        )
        return {"value": value, "low": None, "high": None}
    figure = Figure.mean(scores.argmax(axis=1) == data.targets)
    result.figures[name], result.samples[name] = figure.value, figure
    low, high = interval(figure)
    return {"value": figure.value, "low": low, "high": high}


__all__ = ["FACTORS", "degrade", "scale"]
