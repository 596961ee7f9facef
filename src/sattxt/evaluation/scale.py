"""Accuracy as the ground sampling distance degrades, and as the model's input size changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

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


@dataclass(frozen=True)
class CoarseSamples(Samples):
    """The samples of ``whole``, seen with pixels ``factor`` times as large."""

    whole: Samples = field(kw_only=True)
    factor: float = field(kw_only=True)

    def image(self, index: int) -> Image:
        """(h, w, 3) pixels in 0..255 of a sample; errors as :meth:`Samples.image`."""
        return degrade(self.whole.image(index), self.factor)

    @cached_property
    def pixels_fingerprint(self) -> str:
        """Of the samples and the factor."""
        return f"{type(self.whole).__name__} {self.whole.pixels_fingerprint} x{self.factor:g}"


def degrade(image: Image, factor: float) -> Image:
    """An (H, W, 3) image with pixels ``factor`` times as large: each the mean of those it covers.

    It comes out smaller; models resize it to their input size, as they would a tile of that resolution.
    """
    size = [max(1, round(side / factor)) for side in image.shape[1::-1]]
    if image.dtype == np.uint8:
        return np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.BOX))
    planes = [Pillow.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    return np.stack([np.asarray(plane.resize(size, Pillow.Resampling.BOX)) for plane in planes], axis=-1)


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
    result = Result("scale", embedder.encoder, data, settings, embedder.skipped)
    own = {each.name: getattr(data, each.name) for each in fields(Samples)}
    rows = []
    for factor in factors:
        seen = images if factor == 1 else embedder(CoarseSamples(**own, whole=data, factor=factor))[1]
        rows.append({"factor": factor, **_measure(result, f"{name}_x{factor:g}", seen @ weights.T)})
    result.tables["gsd"] = rows
    result.tables["input_size"] = [
        {"size": size, **_measure(result, f"{name}_{size}px", open_at(size)(data)[1] @ weights.T)} for size in sizes
    ]
    return result


def _measure(result: Result, name: str, scores: Image) -> dict[str, float | None]:
    data = result.data
    if data.multi_label:
        result.figures[name] = percent(average_precisions(scores, data.indicators))
        ranking = label_ranking_precision(scores, data.indicators)
        result.samples[name.replace("map_macro", "lrap")] = Figure.mean(ranking)
        return {"value": result.figures[name], "low": None, "high": None}
    result.add(name, Figure.mean(scores.argmax(axis=1) == data.targets))
    low, high = interval(result.samples[name])
    return {"value": result.figures[name], "low": low, "high": high}
