"""The pixels of chips: whole rows of blocks are read once, and chips are cut from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import ImageError, SceneError
from sattxt.images.options import ImageOptions
from sattxt.images.stretch import SENTINEL2_RANGE, to_255
from sattxt.scenes.grids import Chips
from sattxt.scenes.raster import Mask, Pixels, Scene
from sattxt.vision.embeddings import FloatArray

ChipBatch = tuple[NDArray[np.int64], NDArray[np.uint8], FloatArray, FloatArray | None]

_STRIP = 48 << 20  # bytes of values that are held at once; where blocks are high, up to four times as many
_HIGHEST = 2048  # rows of blocks that are read whole
_VALUE_BYTES = 16  # of a pixel: three values as float32, and its masks


def read_chips(
    scene: Scene, chips: Chips, *, stretch: Any = None, min_valid: float = 0.9, max_cloud: float = 1.0
) -> Iterator[ChipBatch]:
    """Read chips, a strip of the scene at a time.

    Args:
        stretch: as in :class:`~sattxt.ImageOptions`; ``"percentile"`` is that of the whole scene.
        min_valid, max_cloud: shares of a chip; one with less data or more cloud is left out.

    Yields:
        (b,) indices into ``chips``; (b, H, W, 3) uint8, pixels without data filled with the chip's mean; (b,) share
        with data; (b,) share of clouds, ``None`` where they are not told. Each chip once, in no particular order.

    Raises:
        SceneError: a file cannot be read, or its values cannot be understood without a guess.
    """
    scene.check_offset()
    options = settle_stretch(scene, stretch)
    if chips.warp is not None:
        scene = scene.warp(chips.warp.crs, chips.warp.transform, chips.warp.width, chips.warp.height)
    for strip in _strips(scene, chips):
        yield from _cut(scene, chips, strip, options, min_valid, max_cloud)


def settle_stretch(scene: Scene, stretch: Any) -> ImageOptions:
    """Options that mean the same for every chip: a percentile stretch becomes a range."""
    if stretch == "percentile":
        seen = scene.sample
        if not len(seen):
            return ImageOptions(stretch=(0.0, 255.0))  # no chip is kept
        low, high = (float(value) for value in np.percentile(seen, (2, 98)))
        if not low < high:
            raise SceneError(f"{scene.source}: stretch='percentile' needs contrast; pass stretch=(low, high)")
        stretch = (low, high)
    return ImageOptions(stretch=stretch)


def _strips(scene: Scene, chips: Chips) -> Iterator[NDArray[np.int64]]:
    """Chips that lie together, few enough for what they cover to be held: of rows of blocks, or of a part of them."""
    if not len(chips):
        return
    side = int(chips.pixel_bbox[0, 3] - chips.pixel_bbox[0, 1])
    block_rows, block_columns = scene.block
    room = max(side, _STRIP // (_VALUE_BYTES * scene.width) - side)
    down = room // block_rows * block_rows or min(block_rows, _HIGHEST)
    most = max(2 * side, 4 * _STRIP // (_VALUE_BYTES * (down + side)))
    along = scene.width if scene.width <= most else (most - side) // block_columns * block_columns or most - side
    rows, columns = (np.maximum(chips.pixel_bbox[:, axis], 0) // step for axis, step in ((1, down), (0, along)))
    number = rows * (scene.width // along + 1) + columns
    order = np.argsort(number, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def _cut(
    scene: Scene, chips: Chips, strip: NDArray[np.int64], options: ImageOptions, min_valid: float, max_cloud: float
) -> Iterator[ChipBatch]:
    from rasterio.windows import Window

    boxes = chips.pixel_bbox[strip]
    left, top = np.maximum(boxes[:, :2].min(axis=0), 0)
    right, bottom = np.minimum(boxes[:, 2:].max(axis=0), (scene.width, scene.height))
    values, valid, cloud = scene.read(Window(int(left), int(top), int(right - left), int(bottom - top)))
    rgb = to_picture(scene, values, valid, options)
    if rgb is None:
        return
    if rgb.dtype != np.uint8:
        rgb = np.rint(rgb).astype(np.uint8)
    kept: list[int] = []
    pictures, shares, clouds = [], [], []
    for index, (x0, y0, x1, y1) in zip(strip, boxes - [left, top, left, top], strict=True):
        picture, seen = _take(rgb, valid, x0, y0, x1, y1)
        share = float(seen.mean())
        covered = None if cloud is None else float(_pad(cloud, x0, y0, x1, y1).mean())
        if share < min_valid or not share or (covered or 0.0) > max_cloud:
            continue
        if share < 1:
            picture = picture.copy()
            picture[~seen] = picture[seen].mean(axis=0).round().astype(np.uint8)
        kept.append(int(index))
        pictures.append(picture)
        shares.append(share)
        clouds.append(covered)
    if kept:
        told = None if cloud is None else np.array(clouds, np.float32)
        yield np.array(kept), np.stack(pictures), np.array(shares, np.float32), told


def to_picture(scene: Scene, values: Pixels, valid: Mask, options: ImageOptions) -> Pixels | None:
    """(H, W, 3) of a strip in 0..255, uint8 or float32; ``None`` where it has no data at all."""
    if not valid.any():
        return None
    if options.stretch is None and values.dtype == np.uint8:
        return values
    stretch = options.stretch or ("sentinel2" if scene.sentinel2 else None)
    if stretch is None:
        raise SceneError(
            f"{scene.source}: {values.dtype} values need a stretch: 'sentinel2' (reflectance x 10000), 'percentile' or "
            "(low, high)"
        )
    if stretch == "sentinel2" and scene.offset:  # floats only since it was taken off, however dark they are
        stretch = SENTINEL2_RANGE
    unit: Any = "0-10000" if stretch == "sentinel2" and values.dtype.kind == "f" else None
    try:
        return to_255(
            values, None if valid.all() else valid, ImageOptions(stretch=stretch, value_range=unit, offset=None), None,
            scene.source,
        )  # fmt: skip
    except ImageError as error:
        raise SceneError(str(error)) from error


def _take(rgb: NDArray[np.uint8], valid: Mask, x0: int, y0: int, x1: int, y1: int) -> tuple[NDArray[np.uint8], Mask]:
    return _pad(rgb, x0, y0, x1, y1), _pad(valid, x0, y0, x1, y1)


def _pad(values: NDArray[Any], x0: int, y0: int, x1: int, y1: int) -> NDArray[Any]:
    """A window of an array, zeros where it lies beyond."""
    height, width = values.shape[:2]
    inside = values[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    if inside.shape[:2] == (y1 - y0, x1 - x0):
        return inside
    out = np.zeros((y1 - y0, x1 - x0, *values.shape[2:]), values.dtype)
    row, column = max(-y0, 0), max(-x0, 0)
    out[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return out
