"""The outlines of a label map's areas: 4-connected, along the pixels' edges, neighbours sharing every point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import SceneError, import_extra
from sattxt.scenes.handles import rasterio_module
from sattxt.scenes.parts import join_worlds

Points = NDArray[np.float64]

#: A label map's value where nothing is known.
NODATA = 255
_STRIP = 512  # rows that are summed at once
_APART = 640.0  # metres between points of an edge at most: a straight line in one CRS is a curve in another
_MOST_APART = 64  # and pixels
_CHUNK = 1 << 17  # points that are transformed at once
_AXIS, _ECCENTRICITY = 6378137.0, 0.0818191908426215  # of WGS 84, in metres


@dataclass(frozen=True)
class Outlines:
    """N areas as closed rings, in pixels.

    values: (N,) of the label map. points: (P, 2) columns and rows of corners, ring after ring. rings: (R + 1,) where
    each begins, and P. areas: (R,) the area each ring belongs to; an area's first ring is its outer one.
    """

    values: NDArray[np.int64]
    points: NDArray[np.int64]
    rings: NDArray[np.int64]
    areas: NDArray[np.int64]


def trace_areas(label_map: NDArray[np.uint8], min_pixels: int) -> tuple[Outlines, NDArray[np.uint8]]:
    """The areas of one label each, and the map they are traced from: areas of less than ``min_pixels`` take the label
    of the largest one beside them.
    """
    import_extra("rasterio.features", "geo", "rasterio", "polygons")
    from rasterio.features import shapes, sieve

    known = label_map != NODATA
    if min_pixels > 1:
        label_map = sieve(label_map, min_pixels, mask=known, connectivity=4)
    values: list[int] = []
    rings: list[NDArray[np.int32]] = []
    areas: list[int] = []
    for shape, value in shapes(label_map, mask=known, connectivity=4):
        rings += [np.array(ring, np.int32) for ring in shape["coordinates"]]
        areas += [len(values)] * len(shape["coordinates"])
        values.append(int(value))
    points = np.concatenate([np.zeros((0, 2), np.int32), *rings]).astype(np.int64)
    starts = np.cumsum([0, *map(len, rings)])
    return Outlines(np.array(values, np.int64), points, starts, np.array(areas, np.int64)), label_map


def sum_areas(outlines: Outlines, rows: Any, height: int) -> Points:
    """(N, C) sums of C numbers over the pixels of each area, from those to the left of its edges (Green's theorem).

    Args:
        rows: first row and one beyond the last to (C, rows, W) numbers; a strip is asked for at a time.
    """
    first, last = _edges(outlines)
    of = np.repeat(np.arange(len(outlines.areas)), np.diff(outlines.rings) - 1)
    upright = outlines.points[first, 0] == outlines.points[last, 0]
    first, last, of = first[upright], last[upright], of[upright]
    column, start, stop = outlines.points[first, 0], outlines.points[first, 1], outlines.points[last, 1]
    sums = np.zeros((len(outlines.areas), 0))
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        here = (np.minimum(start, stop) < bottom) & (np.maximum(start, stop) > top)
        x, y0, y1 = column[here], *(np.clip(end[here], top, bottom) - top for end in (start, stop))
        values = np.asarray(rows(top, bottom), np.float64)
        sums = sums if sums.size else np.zeros((len(outlines.areas), len(values)))
        for number, each in enumerate(values):
            left = np.zeros((each.shape[0] + 1, each.shape[1] + 1))
            np.cumsum(np.cumsum(each, axis=0), axis=1, out=left[1:, 1:])
            sums[:, number] += np.bincount(of[here], left[y1, x] - left[y0, x], len(sums))
    turn = np.sign(np.bincount(of, column * (stop - start), len(sums)))
    hole = np.append(False, outlines.areas[1:] == outlines.areas[:-1]) if len(sums) else turn > 0
    totals = np.zeros((len(outlines.values), sums.shape[1]))
    np.add.at(totals, outlines.areas, sums * (turn * np.where(hole, -1, 1))[:, None])
    return totals


def share_points(outlines: Outlines, apart: int) -> Outlines:
    """The same outlines with a point wherever a neighbour has one, and every ``apart`` columns and rows."""
    first, last = _edges(outlines)
    points = outlines.points
    begin, end = points[first], points[last]
    axis = (begin[:, 0] == end[:, 0]).astype(np.int64)  # along which an edge runs
    place = np.arange(len(begin))
    low, high = np.minimum(begin, end)[place, axis], np.maximum(begin, end)[place, axis]
    across = begin[place, 1 - axis]

    count = np.maximum((high - 1) // apart - low // apart, 0)
    along = (np.repeat(low // apart, count) + 1 + _count_up(count)) * apart
    lattice = np.stack([along, np.repeat(across, count)], axis=1)
    upright = np.repeat(axis == 1, count)
    lattice[upright] = lattice[upright, ::-1]

    base = int(points.max(initial=0)) + 1
    nodes = np.unique(np.concatenate([points, lattice]) @ [1, base])
    x, y = nodes % base, nodes // base
    inserted = np.zeros(len(begin), np.int64)
    keys = {0: nodes, 1: np.sort(x * base + y)}
    left = np.zeros(len(begin), np.int64)
    for direction, key in keys.items():
        chosen = axis == direction
        left[chosen] = np.searchsorted(key, across[chosen] * base + low[chosen], "right")
        inserted[chosen] = np.searchsorted(key, across[chosen] * base + high[chosen], "left") - left[chosen]

    step = np.repeat(np.where((end - begin)[place, axis] > 0, 1, -1), inserted)
    number = _count_up(inserted)
    at = np.repeat(left, inserted) + np.where(step > 0, number, np.repeat(inserted, inserted) - 1 - number)
    which = np.repeat(axis, inserted)
    new = np.where(which == 0, keys[0][np.minimum(at, len(nodes) - 1)], keys[1][np.minimum(at, len(nodes) - 1)])
    fresh = np.stack([new % base, new // base], axis=1)
    fresh[which == 1] = fresh[which == 1, ::-1]

    added = np.zeros(len(points), np.int64)
    added[first] = inserted
    moved = np.arange(len(points)) + np.cumsum(added) - added
    out = np.empty((len(points) + len(fresh), 2), np.int64)
    out[moved] = points
    out[np.repeat(moved[first], inserted) + 1 + number] = fresh
    return replace(outlines, points=out, rings=np.append(moved, len(out))[outlines.rings])


def _edges(outlines: Outlines) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each edge the place of its first point and of its last one."""
    first = np.delete(np.arange(len(outlines.points)), outlines.rings[1:] - 1)
    return first, first + 1


def _count_up(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... n - 1 for every n of ``counts``."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def build_polygons(outlines: Outlines, points: Points) -> NDArray[np.object_]:
    """(N,) shapely polygons of outlines whose points lie at ``points``, (P, 2)."""
    shapely = import_extra("shapely", "geo", "shapely", "polygons")
    if not len(outlines.values):
        return np.array([], dtype=object)
    of = np.repeat(np.arange(len(outlines.areas)), np.diff(outlines.rings))
    return np.asarray(shapely.polygons(shapely.linearrings(points, indices=of), indices=outlines.areas))


def place_points(points: NDArray[np.int64], transform: Any) -> Points:
    """(P, 2) corners of pixels in the CRS that the transform leads to."""
    columns, rows = points.T
    return np.stack([transform.c + transform.a * columns, transform.f + transform.e * rows], axis=1)


def space_points(gsd: float) -> int:
    """Pixels between points of an edge that is drawn in another CRS."""
    return max(1, min(_MOST_APART, round(_APART / gsd)))


def to_degrees(outlines: Outlines, points: Points, crs: Any, source: str) -> Points:
    """(P, 2) longitude and latitude (OGC:CRS84) of an outlines' points, continued beyond 180 degrees.

    Raises:
        SceneError: an area goes around a pole.
    """
    warp, out = rasterio_module().warp, np.empty_like(points)
    for start in range(0, len(points), _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part] = np.stack(warp.transform(crs, "OGC:CRS84", *points[part].T), axis=1)
    if crs.is_geographic:
        near = points[:, 0]
    elif len(points):
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        near = warp.transform(crs, "OGC:CRS84", [middle[0]], [middle[1]])[0][0]
    else:
        return out
    out[:, 0] += 360 * np.round((near - out[:, 0]) / 360)
    first, last = _edges(outlines)
    if not crs.is_geographic and np.abs(out[first, 0] - out[last, 0]).max() > 180:
        raise SceneError(f"{source}: goes around a pole, which polygons cannot; cut the scene, or save a .tif")
    return out


def bring_within_world(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    """Polygons in degrees, cut along the antimeridian and brought to -180..180, as GeoJSON asks."""
    shapely = import_extra("shapely", "geo", "shapely", "polygons")
    west, _, east, _ = shapely.bounds(shapes).reshape(-1, 4).T
    shapes = shapes.copy()
    for number in np.flatnonzero((west < -180) | (east > 180)):
        shapes[number] = join_worlds(shapes[number])
    return shapes


def measure_ground(shapes: NDArray[np.object_]) -> Points:
    """Square metres of polygons in degrees on WGS 84's ellipsoid, edges being straight in degrees."""
    shapely = import_extra("shapely", "geo", "shapely", "polygons")

    def flatten(degrees: Points) -> Points:
        """To a cylinder of equal area (Snyder 1987, equations 3-12 and 10-15)."""
        sine, e = np.sin(np.radians(degrees[:, 1])), _ECCENTRICITY
        north = (1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e) / 2
        return np.stack([np.radians(degrees[:, 0]), north], axis=1) * _AXIS

    return np.asarray(shapely.area(shapely.transform(shapes, flatten)))
