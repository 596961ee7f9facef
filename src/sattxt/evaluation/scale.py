"""Accuracy as the ground sampling distance degrades, and as the model's input size changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image as Pillow

from sattxt.data.dataset import Samples
from sattxt.errors import InputError
from sattxt.evaluation.bootstrap import Figure, interval
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.encoder import Image
from sattxt.evaluation.metrics import average_precisions, label_ranking_precision, percent
from sattxt.evaluation.prompts import ClassPrompts
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
    if sizes and open_at is None:
        raise InputError("the input size cannot be changed here")
    data = embedder.readable(data)
    weights = classes.vectors(embedder.encoder)
    result = Result("scale", embedder.encoder, data, classes.describe(), embedder.skipped)
    name = "map_macro" if data.multi_label else "top1"
    result.settings |= {"factors": list(factors), "sizes": list(sizes), "figure": name}
    result.tables |= {"gsd": [], "input_size": []}
    for factor in factors:
        vectors = embedder(data) if factor == 1 else embedder(data, partial(degrade, factor=factor), f"gsd/{factor:g}")
        row = _measure(result, f"{name}_x{factor:g}", vectors @ weights.T)
        result.tables["gsd"].append({"factor": factor, **row})
    for size in sizes:
        assert open_at is not None
        row = _measure(result, f"{name}_{size}px", open_at(size)(data) @ weights.T)
        result.tables["input_size"].append({"size": size, **row})
    return result


def _measure(result: Result, name: str, scores: Image) -> dict[str, Any]:
    data = result.data
    if data.multi_label:
        result.figures[name] = percent(average_precisions(scores, data.indicators))
        ranking = label_ranking_precision(scores, data.indicators)
        result.samples[name.replace("map_macro", "lrap")] = Figure.mean(ranking)
        return {"value": result.figures[name], "low": None, "high": None}
    result.add(name, Figure.mean(scores.argmax(axis=1) == data.targets))
    low, high = interval(result.samples[name])
    return {"value": result.figures[name], "low": low, "high": high}
