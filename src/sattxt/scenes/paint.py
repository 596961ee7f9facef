"""From chips to rasters: where a store's chips lie in the CRS of its grid, and values painted there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import InputError, import_extra
from sattxt.scenes.filters import unwrapped
from sattxt.scenes.handles import rasterio_module
from sattxt.scenes.records import file_name
from sattxt.scenes.settings import StoreSettings
from sattxt.vision.embeddings import FloatArray

#: Columns of a store that :func:`place_chips` reads.
PLACES = ("grid_cell", "item_id", "geometry", "bbox", "crs", "pixel_bbox")
_MOST = 2**27  # pixels of a raster
_SLACK = 1.07  # how much wider than its place a chip is painted: cells of Major TOM leave seams of some per cent
_MERCATOR = 20037508.342789244  # half the width of the web map, in metres


@dataclass(frozen=True)
class Places:
    """Where N chips of one raster lie.

    name: tells the raster from others. crs: of the boxes, ``None`` without georeference. boxes: (N, 4) float64 west,
    south, east and north of each chip's share of the ground, a stride wide; without georeference the image's columns
    and its rows, counted down from 0 (as a GIS shows an image without georeference).
    """

    name: str
    crs: Any
    boxes: NDArray[np.float64]


def place_chips(table: Any, settings: StoreSettings) -> Places:
    """The places of the chips of one item, a table with ``PLACES``.

    The raster's CRS is the scene's own (UTM), for Major TOM's cells EPSG:4326, for quadkeys EPSG:3857.
    """
    rasterio = rasterio_module()
    given, cells = table["crs"][0].as_py(), table["grid_cell"].to_pylist()
    if given is None:
        left, top, right, bottom = (table["pixel_bbox"].combine_chunks().flatten().to_numpy().reshape(-1, 4)).T
        name, crs, boxes = file_name(table["item_id"][0].as_py()), None, np.stack([left, -bottom, right, -top], axis=1)
    elif settings.grid == "quadkey":
        name, crs, boxes = "3857", rasterio.crs.CRS.from_epsg(3857), _web_tiles(cells)
    elif settings.grid == "utm" and "/" in cells[0]:
        crs, boxes = rasterio.crs.CRS.from_user_input(given), _squares(cells)
        name = str(crs.to_epsg() or "crs")
    else:
        own = rasterio.crs.CRS.from_user_input(given)
        crs = own if settings.grid == "pixels" else rasterio.crs.CRS.from_epsg(4326)
        name, boxes = str(crs.to_epsg() or "crs"), _bounds(table, crs)
    return Places(name, crs, _shrink(boxes.astype(np.float64), settings.stride / settings.chip))


def _squares(cells: Sequence[str]) -> NDArray[np.float64]:
    """Boxes of cells ``32633/640/969_8482`` or ``32633/640-320/969_8482``, on the lattice itself."""
    side, _, apart = cells[0].split("/")[1].partition("-")
    corners = np.array([cell.rpartition("/")[2].split("_") for cell in cells], np.float64) * float(apart or side)
    return np.concatenate([corners, corners + float(side)], axis=1)


def _web_tiles(cells: Sequence[str]) -> NDArray[np.float64]:
    """Boxes of web map tiles ``z/x/y`` in metres of EPSG:3857."""
    zoom, x, y = np.array([cell.split("/") for cell in cells], np.float64).T
    side = 2 * _MERCATOR / 2**zoom
    west, north = x * side - _MERCATOR, _MERCATOR - y * side
    return np.stack([west, north - side, west + side, north], axis=1)


def _bounds(table: Any, crs: Any) -> NDArray[np.float64]:
    """Boxes of the chips' footprints in a CRS."""
    if crs.is_geographic:
        return unwrapped(table)
    shapely = import_extra("shapely", "geo", "shapely", "a store")
    points, of = shapely.get_coordinates(shapely.from_wkb(table["geometry"].to_numpy()), return_index=True)
    x, y = (np.asarray(v) for v in rasterio_module().warp.transform("OGC:CRS84", crs, points[:, 0], points[:, 1]))
    first = np.flatnonzero(np.diff(of, prepend=-1))
    least, most = np.minimum.reduceat, np.maximum.reduceat
    return np.stack([least(x, first), least(y, first), most(x, first), most(y, first)], axis=1)


def bring_together(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes in degrees, those west of the Greenwich meridian beyond 180 where that brings them nearer to the others."""
    eastern = boxes.copy()
    eastern[boxes[:, 2] < 0] += [360, 0, 360, 0]
    return eastern if np.ptp(eastern[:, [0, 2]]) < np.ptp(boxes[:, [0, 2]]) else boxes


def _shrink(boxes: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * share
    return np.concatenate([middle - half, middle + half], axis=1)


def paint(boxes: NDArray[np.float64], values: FloatArray) -> tuple[FloatArray, Any]:
    """A north-up raster of boxes that lie on one lattice or nearly: pixels are as large as the smallest box.

    Args:
        boxes: (N, 4) west, south, east, north. values: (N,).

    Returns:
        (H, W) float32: of each pixel the mean of the boxes over its middle, NaN where there is none; and its transform.

    Raises:
        InputError: the boxes lie too far apart for one raster.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    smallest = int(sides.prod(axis=1).argmin())
    step = sides[smallest]
    edge = boxes[smallest, :2]
    start = edge - np.ceil((edge - boxes[:, :2].min(axis=0)) / step - 1e-3) * step
    width, height = (int(n) for n in np.ceil((boxes[:, 2:].max(axis=0) - start) / step - 1e-3))
    if width * height > _MOST:
        raise InputError(
            f"the chips lie so far apart that a raster of them has {width} x {height} pixels; pass bbox= or within= to "
            "map one place"
        )
    wide = _shrink(boxes, _SLACK)
    first = np.ceil((wide[:, :2] - start) / step - 0.5).astype(np.int64)
    beyond = np.ceil((wide[:, 2:] - start) / step - 0.5).astype(np.int64)
    missed = first >= beyond  # narrower than a pixel
    middle = np.floor((boxes[:, :2] + boxes[:, 2:]) / 2 / step - start / step).astype(np.int64)
    first, beyond = np.where(missed, middle, first), np.where(missed, middle + 1, beyond)
    first, beyond = np.maximum(first, 0), np.minimum(beyond, [width, height])
    columns, rows = (beyond - first).T
    covered = columns * rows
    chip = np.repeat(np.arange(len(boxes)), covered)
    place = np.arange(len(chip)) - np.repeat(np.cumsum(covered) - covered, covered)
    x = first[chip, 0] + place % columns[chip]
    y = height - 1 - (first[chip, 1] + place // columns[chip])
    pixel, at = np.unique(y * width + x, return_inverse=True)
    sums, counts = np.bincount(at, values[chip], len(pixel)), np.bincount(at, minlength=len(pixel))
    raster = np.full(height * width, np.nan, np.float32)
    raster[pixel] = sums / counts
    affine = rasterio_module().Affine(step[0], 0, start[0], 0, -step[1], start[1] + height * step[1])
    return raster.reshape(height, width), affine


def fit_patches(side: int, patches: int) -> int:
    """The multiple of ``patches`` nearest to ``side``, in pixels."""
    return patches * max(1, math.floor(side / patches + 0.5))
