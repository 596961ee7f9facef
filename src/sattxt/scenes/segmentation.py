"""Open-vocabulary segmentation of a scene of any size: read and scored strip by strip."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sattxt.errors import InputError, SceneError
from sattxt.io import disk_errors
from sattxt.scenes.chips import settle_stretch, to_picture
from sattxt.scenes.maps import SceneSegmentation, preview_step
from sattxt.scenes.open import open_scenes
from sattxt.scenes.outlines import NODATA
from sattxt.scenes.raster import Mask, Scene
from sattxt.segment import score_strips
from sattxt.vision.encode import DEFAULT_BATCH

if TYPE_CHECKING:
    from sattxt.classify.classifier import LabelInput
    from sattxt.model import SatTxt

_STRIP = 1 << 21  # pixels that are read at once


def segment_scene(
    model: SatTxt,
    source: Any,
    labels: LabelInput | None = None,
    *,
    label_set: str | None = None,
    templates: str | Sequence[str] | None = None,
    instruction: str | None = None,
    window: int | None = None,
    gsd: float | None = None,
    overlap: float = 0.5,
    stretch: Any = None,
    bands: Sequence[int | str] | None = None,
    offset: float | Literal["auto"] | None = "auto",
    crs: Any = None,
    bounds: Sequence[float] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> SceneSegmentation:
    """Segment a scene of any size: :meth:`SatTxt.segment` in strips, which gives the same labels.

    What is held grows with the scene's width, not its height. Pixels without data stay so; a window that has some is
    filled with the mean of its others. Clouds are segmented like all else: name them among the labels.

    Args:
        source: a :class:`Scene`, or what :func:`open_scenes` takes and is one scene.
        labels, label_set, templates, instruction: as in :meth:`SatTxt.classifier`; 255 labels at most.
        window, gsd, overlap: as in :meth:`SatTxt.segment`; metres a pixel are the scene's own where it tells them.
        stretch: as in :class:`~sattxt.ImageOptions`; ``"percentile"`` is that of the whole scene.
        bands, offset, crs, bounds: as in :func:`open_scenes`.
        batch_size: windows encoded together. progress: show a bar on stderr.

    Raises:
        SceneError: the scene cannot be read or understood without a guess, or there are several.
        LabelError, InputError: an argument means nothing. DiskFullError: no space for temporary files.
    """
    classifier = model.classifier(labels, label_set=label_set, templates=templates, instruction=instruction)
    if len(classifier.labels) > NODATA:
        raise InputError(f"{len(classifier.labels)} labels: a map holds {NODATA} at most; pass fewer")
    scene = source if isinstance(source, Scene) else _open_one(source, bands, offset, crs, bounds)
    scene.check_offset()
    if gsd is None and not math.isnan(scene.gsd):
        gsd = scene.gsd
    rows = _Rows(scene, stretch)
    scale, width = model.config.logit_scale, scene.width
    numbers, probs = _Filed(np.uint8, width), _Filed(np.float16, width)
    strips = score_strips(
        rows.crop,
        (scene.height, width),
        classifier.weights,
        model.vision.tokens,
        model.config.image,
        window=window,
        gsd=gsd,
        overlap=overlap,
        batch_size=batch_size or DEFAULT_BATCH,
        progress=progress,
    )
    for _, scores in strips:
        valid = rows.take_valid(scores.shape[1])
        best, index = scores.max(dim=0)
        prob = 1 / torch.exp(scale * (scores - best)).sum(dim=0)
        numbers.add(np.where(valid, index.numpy(), NODATA))
        probs.add(np.where(valid, prob.numpy(), np.nan))
    return SceneSegmentation(
        classifier.labels,
        numbers.finish(),
        probs.finish(),
        np.concatenate(rows.picture),
        scene.crs,
        scene.transform,
        scene.gsd,
        scene.source,
        scene.start,
        model.config.name,
    )


def _open_one(source: Any, bands: Any, offset: Any, crs: Any, bounds: Any) -> Scene:
    found = open_scenes(source, bands=bands, offset=offset, crs=crs, bounds=bounds)
    if len(found) > 1:
        names = ", ".join(scene.id for scene in found[:3])
        raise SceneError(f"{source}: holds {len(found)} scenes ({names}, ...); pass one of them")
    return found[0]


class _Rows:
    """The scene's rows that windows look at, in 0..255, read on as they are asked for. picture: every n-th pixel."""

    def __init__(self, scene: Scene, stretch: Any) -> None:
        self._scene, self._options = scene, settle_stretch(scene, stretch)
        fitting = max(1, _STRIP // scene.width)
        block = scene.block[0]
        self._step = fitting // block * block or fitting
        self._top, self._bottom = 0, 0  # rows that are held
        self._rgb: NDArray[Any] = np.zeros((0, scene.width, 3), np.uint8)
        self._valid: Mask = np.zeros((0, scene.width), bool)
        self._untaken: Mask = self._valid
        self._every = preview_step((scene.height, scene.width))
        self.picture: list[NDArray[np.uint8]] = []

    def crop(self, y: int, x: int, side: int) -> NDArray[Any] | None:
        """A window's pixels, those without data filled with the mean of the others; ``None`` where all are without."""
        while self._bottom < y + side:
            self._read(y)
        window = slice(y - self._top, y - self._top + side), slice(x, x + side)
        pixels, valid = self._rgb[window], self._valid[window]
        if valid.all():
            return pixels
        if not valid.any():
            return None
        mean = pixels[valid].mean(axis=0)
        if pixels.dtype == np.uint8:
            mean = mean.round()
        return np.where(valid[..., None], pixels, mean.astype(pixels.dtype))

    def take_valid(self, rows: int) -> Mask:
        """Where the next rows have data, from the top down; each row once."""
        taken, self._untaken = self._untaken[:rows], self._untaken[rows:]
        return taken

    def _read(self, keep: int) -> None:
        """Read on, and let go of rows above ``keep``."""
        from rasterio.windows import Window

        rows = min(self._step, self._scene.height - self._bottom)
        values, valid, _ = self._scene.read(Window(0, self._bottom, self._scene.width, rows))
        rgb = to_picture(self._scene, values, valid, self._options)
        if rgb is None:
            rgb = np.zeros((rows, self._scene.width, 3), np.uint8)
        first = -self._bottom % self._every
        self.picture.append(np.rint(rgb[first :: self._every, :: self._every]).astype(np.uint8))
        gone = keep - self._top
        self._rgb = np.concatenate([self._rgb[gone:], rgb])
        self._valid = np.concatenate([self._valid[gone:], valid])
        self._untaken = np.concatenate([self._untaken, valid])
        self._top, self._bottom = keep, self._bottom + rows


class _Filed:
    """Rows of an array that are written to a temporary file, which is gone with the array."""

    def __init__(self, dtype: Any, width: int) -> None:
        self._dtype, self._width, self._rows = np.dtype(dtype), width, 0
        with self._errors():
            self._file = tempfile.TemporaryFile(prefix="sattxt-")  # noqa: SIM115  # open as long as the array

    def add(self, rows: NDArray[Any]) -> None:
        with self._errors():
            self._file.write(np.ascontiguousarray(rows, self._dtype).data)
            self._file.flush()
        self._rows += len(rows)

    def finish(self) -> NDArray[Any]:
        return np.memmap(self._file, self._dtype, mode="c", shape=(self._rows, self._width))

    @staticmethod
    def _errors() -> AbstractContextManager[None]:
        return disk_errors(Path(tempfile.gettempdir()) / "a temporary file")
