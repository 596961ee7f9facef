"""Polygons and what is known of each, to files that a GIS opens: GeoJSON, GeoParquet, GeoPackage, FlatGeobuf."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import InputError, import_extra
from sattxt.io import atomic_write, check_new, to_json
from sattxt.scenes.parts import SIDES, geo_key

#: GDAL's drivers; the other suffixes are written without it.
_DRIVERS = {".gpkg": "GPKG", ".fgb": "FlatGeobuf"}
POLYGON_SUFFIXES = (".geojson", ".parquet", *_DRIVERS)
_EXTRA = ("geo", "pyarrow", "polygons")


def check_polygon_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The path, if polygons can be written there.

    Raises:
        InputError: its suffix is none of ``POLYGON_SUFFIXES``, or it is there already (without ``overwrite``).
        MissingExtraError: its format needs the extra ``gis``.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in POLYGON_SUFFIXES:
        raise InputError(f"{target}: polygons are written as {', '.join(POLYGON_SUFFIXES)}; pass one of these")
    check_new(target, overwrite=overwrite)
    if suffix in _DRIVERS:
        import_extra("pyogrio", "gis", "pyogrio", f"a {suffix} file")
    return target


def write_polygons(
    path: str | os.PathLike[str],
    geometries: Sequence[Any] | NDArray[np.object_],
    columns: Mapping[str, Sequence[Any]],
    *,
    crs: Any = None,
    overwrite: bool = False,
) -> Path:
    """Write polygons, whole or not at all; the suffix names the format.

    Args:
        geometries: N shapely polygons or multipolygons. GeoJSON and GeoParquet hold longitude and latitude (OGC:CRS84).
        columns: name to N values: texts, numbers, booleans, dates or moments; ``None`` where nothing is known.
        crs: of the geometries, for ``.gpkg`` and ``.fgb`` alone; default: longitude and latitude.

    Raises:
        InputError: the suffix is none of ``.geojson``, ``.parquet``, ``.gpkg``, ``.fgb``, or means another CRS than
            ``crs``; a file is there and ``overwrite`` was not asked for; a column is too long or short.
        MissingExtraError: ``.gpkg`` and ``.fgb`` need the extra ``gis``. DiskFullError: what was there is as it was.
    """
    target = check_polygon_file(path, overwrite=overwrite)
    suffix = target.suffix.lower()
    if crs is not None and suffix not in _DRIVERS:
        raise InputError(f"{target}: holds longitude and latitude; leave crs= out, or pass a .gpkg or .fgb file")
    if uneven := [name for name, values in columns.items() if len(values) != len(geometries)]:
        raise InputError(f"column {uneven[0]!r} has {len(columns[uneven[0]])} values for {len(geometries)} geometries")
    shapely = import_extra("shapely", "geo", "shapely", "polygons")
    shapes = shapely.orient_polygons(np.array(geometries, dtype=object))
    content: Iterable[bytes]
    if suffix in _DRIVERS:
        content = _write_ogr(target, shapely, columns, shapes, "EPSG:4326" if crs is None else crs.to_wkt())
    elif suffix == ".parquet":
        content = _write_parquet(shapely, columns, shapes)
    else:
        content = _write_geojson(shapely, columns, shapes)
    with atomic_write(target) as file:
        file.writelines(content)
    return target


def _build_table(shapely: Any, columns: Mapping[str, Sequence[Any]], shapes: Any) -> Any:
    """The columns and then ``geometry``, WKB."""
    arrow = import_extra("pyarrow", *_EXTRA)
    arrays = {}
    for name, values in columns.items():
        column = arrow.array([value.item() if isinstance(value, np.generic) else value for value in values])
        arrays[name] = column.cast(arrow.string()) if arrow.types.is_null(column.type) else column
    return arrow.table({**arrays, "geometry": arrow.array(shapely.to_wkb(shapes), arrow.binary())})


def _write_geojson(shapely: Any, columns: Mapping[str, Sequence[Any]], shapes: Any) -> Iterator[bytes]:
    rows = _build_table(shapely, columns, shapes).to_pylist()
    yield b'{"type": "FeatureCollection", "features": ['
    for number, (shape, row) in enumerate(zip(shapes, rows, strict=True)):
        properties = to_json({name: _plain(value) for name, value in row.items() if name != "geometry"})
        feature = f'"type": "Feature", "geometry": {shapely.to_geojson(shape)}, "properties": {properties}'
        yield f"{',' * (number > 0)}\n{{{feature}}}".encode()
    yield b"\n]}\n"


def _plain(value: Any) -> Any:
    if isinstance(value, (date, datetime)):
        return value.isoformat().replace("+00:00", "Z")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_parquet(shapely: Any, columns: Mapping[str, Sequence[Any]], shapes: Any) -> list[bytes]:
    arrow, parquet = import_extra("pyarrow", *_EXTRA), import_extra("pyarrow.parquet", *_EXTRA)
    bounds = [arrow.array(side) for side in shapely.bounds(shapes).reshape(-1, 4).T]
    bbox = arrow.StructArray.from_arrays(bounds, names=list(SIDES))
    table = _build_table(shapely, columns, shapes).append_column("bbox", bbox)
    table = table.replace_schema_metadata({"geo": json.dumps(geo_key(table))})
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return [sink.getvalue()]


def _write_ogr(target: Path, shapely: Any, columns: Mapping[str, Sequence[Any]], shapes: Any, crs: str) -> list[bytes]:
    pyogrio = import_extra("pyogrio", "gis", "pyogrio", f"a {target.suffix} file")
    several = any(shape.geom_type == "MultiPolygon" for shape in shapes)
    if several:  # a layer has one type
        shapes = [shape if shape.geom_type == "MultiPolygon" else shapely.multipolygons([shape]) for shape in shapes]
    sink = io.BytesIO()
    pyogrio.write_arrow(
        _build_table(shapely, columns, np.array(shapes, object)), sink, layer=target.stem, crs=crs,
        driver=_DRIVERS[target.suffix.lower()], geometry_name="geometry",
        geometry_type="MultiPolygon" if several else "Polygon",
    )  # fmt: skip
    return [sink.getvalue()]
