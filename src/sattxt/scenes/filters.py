"""Which chips of a store count: those in a box or polygon, and in a period."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import InputError, import_extra
from sattxt.io import first_line
from sattxt.scenes.parts import SIDES

Box = tuple[float, float, float, float]
#: What a filter reads of a table; ``geometry`` for polygons only.
COLUMNS = ("geometry", "bbox", "start_datetime", "end_datetime")


@dataclass(frozen=True)
class Filter:
    """Conditions that all must hold; ``None`` asks for nothing.

    bbox: west, south, east, north in degrees; west > east crosses the antimeridian. area: a shapely geometry in
    longitude and latitude. Chips that touch them count. after, before: chips whose period reaches into [after, before).
    """

    bbox: Box | None = None
    area: Any = None
    after: datetime | None = None
    before: datetime | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in (self.bbox, self.area, self.after, self.before))

    @property
    def box(self) -> Box | None:
        """The bbox, or else that of the area."""
        if self.bbox is not None or self.area is None:
            return self.bbox
        west, south, east, north = (float(side) for side in self.area.bounds)
        return west, south, east, north

    def spans(self) -> list[tuple[float, float]]:
        """West and east of the box for each way to count longitudes that chips may have (see :func:`unwrapped`)."""
        if self.box is None:
            return []
        west, _, east, _ = self.box
        if west > east:
            return [(west, east + 360), (west - 360, east)]
        return [(west, east), (west + 360, east + 360)]

    def mask(self, table: Any, *, with_area: bool = True) -> NDArray[np.bool_]:
        """(N,) which rows of a table with ``COLUMNS`` count."""
        kept = np.ones(table.num_rows, dtype=bool)
        if self.after is not None:
            kept &= _moments(table["end_datetime"]) >= np.datetime64(_naive(self.after))  # False where unknown
        if self.before is not None:
            kept &= _moments(table["start_datetime"]) < np.datetime64(_naive(self.before))
        if self.box is not None and kept.any():
            kept &= self._in_box(unwrapped(table))
        if self.area is not None and with_area and kept.any():
            rows = np.flatnonzero(kept)
            kept[rows[~self.touches(table["geometry"].take(rows))]] = False
        return kept

    def touches(self, geometry: Any) -> NDArray[np.bool_]:
        """(N,) which WKB geometries of a column meet the area."""
        shapely = import_extra("shapely", "geo", "shapely", "a polygon")
        shapely.prepare(self.area)
        shapes = shapely.from_wkb(geometry.to_numpy(zero_copy_only=False))
        return np.asarray(shapely.intersects(self.area, shapes))

    def may_hold(self, bounds: Box | None, start: datetime | None, end: datetime | None) -> bool:
        """Whether chips of an item with these bounds and this period can count."""
        if self.after is not None and (end is None or end < self.after):
            return False
        if self.before is not None and (start is None or start >= self.before):
            return False
        if self.box is None:
            return True
        if bounds is None:
            return False
        wide = np.array([[*bounds], [bounds[0] + 360, bounds[1], bounds[2] + 360, bounds[3]]])
        return bool(self._in_box(wide).any())

    def where(self, widest: float = 360, highest: float = 180, east: float = 720) -> str:
        """The same but for the area, as SQL over the index's columns (see ``sattxt.scenes.index``).

        Args:
            widest, highest: that a chip of the index is, in degrees. east: how far east one reaches. They bound each
                column on both sides, so that an index of it finds few rows.
        """
        parts = []
        if self.box is not None:
            _, south, _, north = self.box
            sides = [
                f"(xmin BETWEEN {w - widest!r} AND {e!r} AND xmax BETWEEN {w!r} AND {e + widest!r})"
                for w, e in self.spans()
                if w <= east
            ]
            parts.append(f"({' OR '.join(sides)})" if sides else "false")
            if south > -90 or north < 90:
                parts.append(f"ymin BETWEEN {south - highest!r} AND {north!r}")
                parts.append(f"ymax BETWEEN {south!r} AND {north + highest!r}")
        if self.after is not None:
            parts.append(f"end_datetime >= timestamp '{_naive(self.after).isoformat(' ')}'")
        if self.before is not None:
            parts.append(f"start_datetime < timestamp '{_naive(self.before).isoformat(' ')}'")
        return " AND ".join(parts)

    def alone(self) -> dict[str, Filter]:
        """The conditions one by one, by what a user would call them."""
        period = " ".join(
            f"{name} {moment:%Y-%m-%d}"
            for name, moment in (("after", self.after), ("before", self.before))
            if moment is not None
        )
        found = {
            "the bbox": Filter(bbox=self.bbox),
            "the polygon": Filter(area=self.area),
            f"the period ({period})": Filter(after=self.after, before=self.before),
        }
        return {name: each for name, each in found.items() if each}

    def _in_box(self, bounds: NDArray[np.float64]) -> NDArray[np.bool_]:
        _, south, _, north = self.box or (0, 0, 0, 0)
        meets = np.zeros(len(bounds), dtype=bool)
        with np.errstate(invalid="ignore"):  # chips without georeference
            for west, east in self.spans():
                meets |= (bounds[:, 0] <= east) & (bounds[:, 2] >= west)
            return meets & (bounds[:, 1] <= north) & (bounds[:, 3] >= south)


class FilterOptions(TypedDict, total=False):
    """Which chips count, as keyword arguments; all conditions must hold.

    bbox: west, south, east, north in degrees; west > east crosses the antimeridian. Chips that touch it count.
    within: polygons in longitude and latitude: a ``.geojson`` or ``.gpkg`` file, a GeoJSON object, a shapely geometry.
        Chips that touch them count.
    after, before: ``"2024"``, ``"2024-05"``, ``"2024-05-17"``, a date or a moment: from the start of the one to the
        start of the other. Chips without a date do not count.
    """

    bbox: Sequence[float] | None
    within: Any
    after: str | date | None
    before: str | date | None


def make_filter(
    bbox: Any = None, within: Any = None, after: str | date | None = None, before: str | date | None = None
) -> Filter:
    """A checked filter of the arguments of :class:`FilterOptions`.

    Raises:
        InputError: an argument means nothing, or a file cannot be read.
    """
    chosen = Filter(
        None if bbox is None else _parse_box(bbox),
        None if within is None else read_area(within),
        None if after is None else parse_moment("after", after),
        None if before is None else parse_moment("before", before),
    )
    if chosen.after is not None and chosen.before is not None and chosen.after >= chosen.before:
        raise InputError(f"after={after!r} is not before before={before!r}; pass an earlier after=")
    return chosen


def unwrapped(table: Any) -> NDArray[np.float64]:
    """(N, 4) west, south, east, north of a table's chips; a chip over the antimeridian has its east beyond 180."""
    bbox = table["bbox"].combine_chunks()
    sides = [bbox.field(side).to_numpy(zero_copy_only=False) for side in SIDES]
    bounds = np.stack(sides, axis=1).astype(np.float64)
    if bbox.null_count:
        bounds[~bbox.is_valid().to_numpy(zero_copy_only=False)] = np.nan
    around = np.flatnonzero((bounds[:, 0] == -180) & (bounds[:, 2] == 180))
    if len(around):
        shapely = import_extra("shapely", "geo", "shapely", "a store")
        for row in around:
            pieces = shapely.bounds(shapely.get_parts(shapely.from_wkb(table["geometry"][int(row)].as_py())))
            if len(pieces) > 1:
                bounds[row, [0, 2]] = pieces[:, 0].max(), pieces[:, 2].min() + 360
    return bounds


def read_area(within: Any) -> Any:
    """A shapely geometry in longitude and latitude: one that is given, or all of a file's.

    Args:
        within: a shapely geometry, a GeoJSON object, or a file: GeoJSON, or what pyogrio reads (extra ``gis``).

    Raises:
        InputError: it is none of these, or holds no polygon.
    """
    shapely = import_extra("shapely", "geo", "shapely", "a polygon")
    if isinstance(within, (str, os.PathLike)):
        area, name = _read_file(Path(within)), str(within)
    elif isinstance(within, shapely.Geometry):
        area, name = within, "within="
    elif hasattr(within, "__geo_interface__") or isinstance(within, dict):
        area, name = _of_geojson(getattr(within, "__geo_interface__", within), "within="), "within="
    else:
        raise InputError(f"within={within!r}: pass a file (.geojson, .gpkg), a GeoJSON object or a shapely geometry")
    if area.is_empty or area.area == 0:
        raise InputError(f"{name}: holds no polygon; pass polygons in longitude and latitude")
    west, south, east, north = area.bounds
    if west < -180.001 or east > 180.001 or south < -90.001 or north > 90.001:
        raise InputError(
            f"{name}: reaches from {west:g}, {south:g} to {east:g}, {north:g}, which are no degrees; pass polygons in "
            "longitude and latitude (EPSG:4326)"
        )
    return area


def _read_file(path: Path) -> Any:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() in (".geojson", ".json"):
        try:
            return _of_geojson(json.loads(path.read_text(encoding="utf-8-sig")), str(path))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as GeoJSON ({first_line(error)})") from error
    shapely = import_extra("shapely", "geo", "shapely", "a polygon")
    pyogrio = import_extra("pyogrio.raw", "gis", "pyogrio", f"reading {path.suffix} files")
    warp = import_extra("rasterio.warp", "geo", "rasterio", "a polygon")
    try:
        meta, _, geometry, _ = pyogrio.read(path, columns=[])
    except Exception as error:  # GDAL's errors are of many kinds
        raise InputError(f"{path}: cannot be read ({first_line(error)}); pass a .geojson or .gpkg file") from error
    area = shapely.union_all(shapely.from_wkb(geometry))
    if not meta["crs"]:
        raise InputError(f"{path}: says no CRS; write it with one, or as .geojson in longitude and latitude")
    return shapely.geometry.shape(warp.transform_geom(meta["crs"], "OGC:CRS84", shapely.geometry.mapping(area)))


def _of_geojson(data: Any, where: str) -> Any:
    shapely = import_extra("shapely", "geo", "shapely", "a polygon")
    features = data.get("features") if isinstance(data, dict) else None
    shapes = [feature.get("geometry") for feature in features] if features is not None else [data]
    if isinstance(data, dict) and data.get("type") == "Feature":
        shapes = [data.get("geometry")]
    try:
        return shapely.union_all([shapely.make_valid(shapely.geometry.shape(shape)) for shape in shapes if shape])
    except Exception as error:  # shapely raises its own kinds, AttributeError and KeyError
        raise InputError(f"{where}: is no GeoJSON with polygons ({first_line(error)})") from error


def _parse_box(bbox: Any) -> Box:
    try:
        west, south, east, north = (float(side) for side in bbox)
    except (TypeError, ValueError):
        raise InputError(f"bbox={bbox!r}: pass west, south, east, north in degrees") from None
    if not (-90 <= south <= north <= 90 and -180 <= west <= 180 and -180 <= east <= 180):
        raise InputError(
            f"bbox={bbox!r}: pass west, south, east, north in degrees, south at most north; west > east crosses the "
            "antimeridian"
        )
    return west, south, east, north


def parse_moment(name: str, value: str | date) -> datetime:
    """The start of a year, month or day, or a moment, in UTC."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, str):
        text = value.strip().replace("Z", "+00:00")
        whole = re.fullmatch(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?", text)
        try:
            if whole:
                year, month, day = (int(part or 1) for part in whole.groups())
                value = datetime(year, month, day)
            else:
                value = datetime.fromisoformat(text)
        except ValueError:
            value = ""
    if not isinstance(value, datetime):
        raise InputError(f"{name}={value!r}: pass a year, month, day or moment: 2024, 2024-05, 2024-05-17")
    return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


def _moments(column: Any) -> NDArray[np.datetime64]:
    """A column of moments in UTC; NaT where it is null."""
    return column.to_numpy().astype("datetime64[us]")


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc).replace(tzinfo=None)
