"""Where the chips of a scene lie: on a grid of the Earth, so that the same place has the same name at every date.

Grids: ``utm``, squares counted from the origin of the scene's own CRS (nothing is resampled); ``majortom``, the cells
of Major TOM (Francis and Czerkawski 2024, arXiv 2402.12095); ``quadkey``, web map tiles; ``pixels``, the image's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import InputError, SceneError
from sattxt.scenes.handles import rasterio_module
from sattxt.scenes.raster import METRES_A_DEGREE, Scene

_EQUATOR_KM = 6378.137  # radius, as Major TOM has it
_MERCATOR = 20037508.342789244  # half the width of the web map, in metres
_OVERLAP = 0.5  # of a chip that lies in the scene, at least
_HILBERT_BITS = 16
_FARTHEST = 85.0  # degrees north or south, for which chips still narrow
_DEEPEST = 24  # zoom


@dataclass(frozen=True)
class Warp:
    """The pixels that chips of a scene are read from where they are not its own: the web map at one zoom."""

    crs: Any
    transform: Any
    width: int
    height: int


@dataclass(frozen=True)
class Chips:
    """N chips of a scene, along a Hilbert curve over the Earth; ``chips[a:b]`` and an index array give some of them.

    cell: N names on the grid. pixel_bbox: (N, 4) int32 first column and row, and one beyond the last of each, in the
    scene's pixels (with ``warp`` in its); up to half of a chip may lie beyond the scene.
    corners: (N, 5, 2) float64 closed rings of longitude and latitude (OGC:CRS84), from the chip's upper left down its
    left side; NaN without georeference. Over the antimeridian they jump from 180 to -180.
    hilbert: (N,) int64, place of the chip's middle on the curve; 0 without georeference.
    """

    cell: list[str]
    pixel_bbox: NDArray[np.int32]
    corners: NDArray[np.float64]
    hilbert: NDArray[np.int64]
    warp: Warp | None = None

    def __len__(self) -> int:
        return len(self.cell)

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> Chips:
        rows = np.arange(len(self.cell))[chosen]
        cell = [self.cell[row] for row in rows]
        return Chips(cell, self.pixel_bbox[rows], self.corners[rows], self.hilbert[rows], self.warp)


def plan_chips(scene: Scene, grid: str, chip: int, stride: int, *, grid_km: float = 10.0) -> Chips:
    """The chips of a scene, of ``chip`` pixels a side, ``stride`` pixels apart.

    Args:
        grid: ``"utm"`` (``majortom`` for scenes in degrees, whose pixels are no squares of the ground), ``"majortom"``,
            ``"quadkey"`` or ``"pixels"``. Of a Major TOM cell that is wider than a chip, chips fill it evenly.
        grid_km: side of a Major TOM cell in km.

    Raises:
        SceneError: the scene has no georeference (and the grid is not ``"pixels"``), or is smaller than a chip.
        InputError: no such grid.
    """
    if grid not in _GRIDS:
        raise InputError(f"grid={grid!r}: pass one of {', '.join(map(repr, _GRIDS))}")
    if min(scene.width, scene.height) < chip:
        raise SceneError(
            f"{scene.source}: is {scene.width} x {scene.height} pixels, smaller than a chip of {chip}; pass a smaller "
            "chip="
        )
    if grid != "pixels" and scene.crs is None:
        raise SceneError(
            f"{scene.source}: has no georeference; pass crs= and bounds= with it, or make a store with grid='pixels'"
        )
    if grid == "utm" and scene.crs.is_geographic:
        grid = "majortom"
    cells, corners, warp = _GRIDS[grid](scene, chip, stride, grid_km)
    boxes = np.concatenate([corners, corners + chip], axis=1).astype(np.int32).reshape(-1, 4)
    rings, places = _locate(scene, boxes, warp)
    order = np.argsort(places, kind="stable")
    return Chips([cells[row] for row in order], boxes[order], rings[order], places[order], warp)


_Found = tuple[list[str], NDArray[np.int64], Warp | None]


def _pixels(scene: Scene, chip: int, stride: int, _: float) -> _Found:
    """``r512_c1024``: first row and column; the last ones end at the scene's ends."""
    rows, columns = (_starts(side, chip, stride) for side in (scene.height, scene.width))
    found = [(column, row) for row in rows for column in columns]
    return [f"r{row}_c{column}" for column, row in found], np.array(found), None


def _starts(length: int, chip: int, stride: int) -> list[int]:
    starts = list(range(0, length - chip + 1, stride))
    return starts if starts[-1] == length - chip else [*starts, length - chip]


def _utm(scene: Scene, chip: int, stride: int, _: float) -> _Found:
    """``32633/640/969_8482``: CRS, side in metres, and how many sides (or strides) east and north of its origin."""
    at, step = scene.transform, scene.transform.a
    if abs(at.a + at.e) > 1e-6 * abs(at.a):
        raise SceneError(f"{scene.source}: its pixels are no squares ({at.a:g} by {-at.e:g}); pass grid='majortom'")
    authority = scene.crs.to_authority()
    if authority is None:
        raise SceneError(f"{scene.source}: its CRS has no code that cells could be named by; pass grid='majortom'")
    apart = stride * step
    west, north = at.c, at.f
    east, south = west + scene.width * step, north - scene.height * step
    columns = np.arange(math.floor(west / apart - 1), math.ceil(east / apart + 1))
    rows = np.arange(math.floor(south / apart - 1), math.ceil(north / apart + 1))
    x = np.rint((columns * apart - west) / step).astype(int)
    y = np.rint((north - rows * apart) / step).astype(int) - chip
    keep_x, keep_y = _inside(x, chip, scene.width), _inside(y, chip, scene.height)
    side = f"{chip * step:.9g}" if stride == chip else f"{chip * step:.9g}-{apart:.9g}"
    name = f"{authority[1]}/{side}"
    found = [(i, j, a, b) for j, b in zip(rows[keep_y], y[keep_y], strict=True)
             for i, a in zip(columns[keep_x], x[keep_x], strict=True)]  # fmt: skip
    return [f"{name}/{i}_{j}" for i, j, _, _ in found], np.array([f[2:] for f in found]).reshape(-1, 2), None


def _inside(starts: NDArray[np.int64], chip: int, length: int) -> NDArray[np.bool_]:
    """Which chips lie in the scene by half at least, along one axis."""
    return np.asarray(np.minimum(starts + chip, length) - np.maximum(starts, 0) >= math.sqrt(_OVERLAP) * chip)


def _majortom(scene: Scene, chip: int, stride: int, grid_km: float) -> _Found:
    """``433D_629L``: Major TOM's cell, whose chip lies in its middle; ``433D_629L_3_1``: row and column in the cell,
    from its south west.
    """
    west, south, east, north = _bounds(scene)
    height = 180 / math.ceil(math.pi * _EQUATOR_KM / grid_km)
    cells: list[str] = []
    points = []
    for row in range(math.floor(south / height), math.floor(north / height) + 1):
        parts = _parts(scene, stride, grid_km, (row + 0.5) * height)
        inside = (np.arange(parts) + 0.5) / parts
        circle = 2 * math.pi * _EQUATOR_KM * math.cos(math.radians(row * height))
        around = max(1, math.ceil(circle / grid_km))
        width = 360 / around
        columns = range(math.floor(west / width), math.floor(east / width) + 1)
        for column in columns:
            name = f"{abs(row)}{'U' if row >= 0 else 'D'}_{_column(column, around)}"
            of_cell = [f"{name}_{down}_{along}" for down in range(parts) for along in range(parts)]
            cells += of_cell if parts > 1 else [name]
        latitudes = np.tile(np.repeat((row + inside) * height, parts), len(columns))
        longitudes = (np.array(columns)[:, None] + np.tile(inside, parts)).ravel() * width
        points.append(np.stack([longitudes, latitudes]))
    longitudes, latitudes = np.concatenate(points, axis=1)
    starts = _starts_around(scene, longitudes, latitudes, chip)
    keep = _inside(starts[:, 0], chip, scene.width) & _inside(starts[:, 1], chip, scene.height)
    return [cells[row] for row in np.flatnonzero(keep)], starts[keep], None


def _parts(scene: Scene, stride: int, grid_km: float, latitude: float) -> int:
    """Chips a side that fill a Major TOM cell; by its latitude where pixels are degrees, the same in every scene."""
    metres = scene.gsd
    if scene.crs.is_geographic:
        shrunk = math.cos(math.radians(min(abs(latitude), _FARTHEST)))
        metres = math.sqrt(abs(scene.transform.a * scene.transform.e) * shrunk) * METRES_A_DEGREE
    side = metres * stride / 1000
    if side > 2 * grid_km:
        raise SceneError(
            f"{scene.source}: a chip is {side:.0f} km wide, a cell of the grid {grid_km:g} km; pass "
            f"grid_km={math.ceil(side)}, or grid='pixels'"
        )
    return max(1, round(grid_km / side))


def _starts_around(
    scene: Scene, longitudes: NDArray[np.float64], latitudes: NDArray[np.float64], chip: int
) -> NDArray[np.int64]:
    """(N, 2) first columns and rows of chips around places; far outside where the scene's CRS does not reach."""
    x, y = rasterio_module().warp.transform("OGC:CRS84", scene.crs, (longitudes + 180) % 360 - 180, latitudes)
    x, y = np.asarray(x), np.asarray(y)
    if scene.crs.is_geographic:  # as far east as the scene is, which may lie over the antimeridian
        middle = scene.transform.c + scene.transform.a * scene.width / 2
        x = middle + (x - middle + 180) % 360 - 180
    columns, rows = ~scene.transform * (x, y)
    starts = np.rint(np.stack([columns, rows], axis=1) - chip / 2)
    usable = np.asarray((np.abs(starts) < 2**31 - chip).all(axis=1))  # no NaN is
    return np.where(usable[:, None], starts, -2 * chip).astype(np.int64)


def _column(column: int, around: int) -> str:
    """The name of a column of a row that has so many, counted on beyond 180 degrees or not."""
    half = around // 2
    column = (column + half) % around - half
    if column == -half and around == 2 * half and half * (360 / around) - 180 < 0:
        column = half  # of an even number, ESA's code rounds the one at 180 degrees to the east or to the west of it
    return f"{abs(column)}{'R' if column >= 0 else 'L'}"


def _quadkey(scene: Scene, chip: int, stride: int, _: float) -> _Found:
    """``z/x/y``: a web map tile, resampled to ``chip`` pixels a side, at the zoom nearest to the scene's own pixels."""
    rasterio = rasterio_module()
    if stride != chip:
        raise InputError("grid='quadkey': tiles lie side by side; leave stride out")
    mercator = rasterio.crs.CRS.from_epsg(3857)
    west, south, east, north = _bounds(scene)
    stretched = scene.gsd / math.cos(math.radians((south + north) / 2))
    zoom = min(_DEEPEST, max(0, round(math.log2(2 * _MERCATOR / (chip * stretched)))))
    left, bottom, right, top = rasterio.warp.transform_bounds("OGC:CRS84", mercator, west, south, east, north)
    tile = 2 * _MERCATOR / 2**zoom
    first_x, last_x = (math.floor((v + _MERCATOR) / tile) for v in (left, right))
    first_y, last_y = (math.floor((_MERCATOR - v) / tile) for v in (top, bottom))
    corner = rasterio.Affine(tile / chip, 0, first_x * tile - _MERCATOR, 0, -tile / chip, _MERCATOR - first_y * tile)
    columns, rows = last_x - first_x + 1, last_y - first_y + 1
    warp = Warp(mercator, corner, columns * chip, rows * chip)
    found = [(x, y) for y in range(rows) for x in range(columns)]
    cells = [f"{zoom}/{(first_x + x) % 2**zoom}/{first_y + y}" for x, y in found]
    return cells, np.array(found) * chip, warp


_GRIDS: dict[str, Callable[[Scene, int, int, float], _Found]] = {
    "utm": _utm,
    "majortom": _majortom,
    "quadkey": _quadkey,
    "pixels": _pixels,
}


def _bounds(scene: Scene) -> tuple[float, float, float, float]:
    """West, south, east and north in degrees; east is beyond 180 where the scene lies over the antimeridian."""
    rasterio = rasterio_module()
    box = rasterio.transform.array_bounds(scene.height, scene.width, scene.transform)
    west, south, east, north = rasterio.warp.transform_bounds(scene.crs, "OGC:CRS84", *box, densify_pts=21)
    return west, south, east + 360 if east < west else east, north


def _locate(scene: Scene, boxes: NDArray[np.int32], warp: Warp | None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rings of longitude and latitude of pixel boxes, and the place of their middles on a Hilbert curve."""
    crs, transform = (scene.crs, scene.transform) if warp is None else (warp.crs, warp.transform)
    if crs is None:
        return np.full((len(boxes), 5, 2), np.nan), np.zeros(len(boxes), np.int64)
    ring = boxes[:, [0, 1, 0, 3, 2, 3, 2, 1, 0, 1]].reshape(-1, 5, 2).astype(np.float64)
    middles = ring[:, :4].mean(axis=1)
    places = []
    for points in (ring.reshape(-1, 2), middles):
        x, y = transform * (points[:, 0], points[:, 1])
        longitude, latitude = rasterio_module().warp.transform(crs, "OGC:CRS84", x, y)
        around, up = (np.asarray(longitude) + 180) % 360 - 180, np.clip(latitude, -90, 90)
        places.append(np.stack([around, up], axis=1))
    return places[0].reshape(-1, 5, 2), hilbert_place(places[1])


def hilbert_place(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N,) places of (N, 2) longitudes and latitudes on a Hilbert curve over the Earth, 16 bits an axis."""
    most = (1 << _HILBERT_BITS) - 1
    x = np.clip((points[:, 0] + 180) / 360 * most, 0, most).astype(np.int64)
    y = np.clip((points[:, 1] + 90) / 180 * most, 0, most).astype(np.int64)
    place = np.zeros(len(points), np.int64)
    for bit in reversed(range(_HILBERT_BITS)):
        side = 1 << bit
        right, up = (x & side) > 0, (y & side) > 0
        place += side * side * ((3 * right) ^ up)
        mirror = right & ~up
        x, y = np.where(mirror, most - x, x), np.where(mirror, most - y, y)
        x, y = np.where(up, x, y), np.where(up, y, x)
    return place
