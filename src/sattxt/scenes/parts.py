"""One part of a store: a unit's chips, their places and embeddings, as a GeoParquet 1.1 file.

Keys of the file: ``geo`` (GeoParquet 1.1.0 with a bbox covering), ``emb`` (the fields of STAC's embeddings extension
v0.0.1) and ``sattxt`` (which unit of which store it is).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import sattxt
from sattxt.errors import StoreError, import_extra
from sattxt.io import first_line
from sattxt.vision.embeddings import FloatArray

#: How embeddings are stored: 16-bit floats, or 8-bit integers with one scale a file.
StoredType = Literal["float16", "int8"]

ROW_GROUP = 65_536
SIDES = ("xmin", "ymin", "xmax", "ymax")
_EXTRA = ("geo", "pyarrow", "a store")


@dataclass(frozen=True)
class PartFacts:
    """What a part says of itself.

    unit, store: keys of the unit and the store it belongs to. rows: chips in it. stored: of the embeddings, which are
    ``scale`` times what the file holds. bounds: west, south, east, north in degrees; ``None`` without georeference.
    """

    unit: str
    store: str
    rows: int
    dimensions: int
    stored: StoredType
    scale: float
    bounds: tuple[float, float, float, float] | None


def build_table(
    *,
    item_id: str,
    source: str,
    start: datetime | None,
    end: datetime | None,
    crs: str | None,
    gsd: float | None,
    cells: Sequence[str],
    pixel_bbox: NDArray[np.int32],
    corners: NDArray[np.float64],
    hilbert: NDArray[np.int64],
    valid: FloatArray,
    cloud: FloatArray | None,
) -> Any:
    """The columns of N chips of one item but for their embeddings, as a ``pyarrow.Table`` in the order given.

    Args:
        start, end: in UTC. crs: of the pixels, ``EPSG:32633`` say. gsd: metres a pixel.
        pixel_bbox: (N, 4) first column, first row, and one beyond the last of each, in the scene's pixels.
        corners: (N, 5, 2) rings of longitude and latitude; NaN without georeference.
        valid, cloud: (N,) shares in [0, 1].
    """
    arrow, count = import_extra("pyarrow", *_EXTRA), len(cells)
    shapes, boxes = footprints(corners)
    empty = np.isnan(boxes).any(axis=1)
    bbox = arrow.StructArray.from_arrays(
        [arrow.array(column) for column in boxes.T],
        names=list(SIDES),
        mask=arrow.array(empty),
    )
    columns = {
        "id": [f"{item_id}#{cell}" for cell in cells],
        "grid_cell": list(cells),
        "item_id": [item_id] * count,
        "source": [source] * count,
        "start_datetime": [start] * count,
        "end_datetime": [end] * count,
        "geometry": arrow.array(shapes, arrow.binary(), mask=empty),
        "bbox": bbox,
        "crs": [crs] * count,
        "pixel_bbox": list(np.asarray(pixel_bbox, dtype=np.int32)),
        "gsd": [gsd] * count,
        "valid": valid,
        "cloud": [None] * count if cloud is None else cloud,
        "hilbert": hilbert,
    }
    return arrow.table(columns, schema=part_schema())


@cache
def part_schema() -> Any:
    """The columns of a part but for ``embedding``, a fixed-size list of D 16-bit floats or 8-bit integers."""
    arrow = import_extra("pyarrow", *_EXTRA)
    text, moment, double = arrow.string(), arrow.timestamp("us", "UTC"), arrow.float64()
    types = {
        **dict.fromkeys(("id", "grid_cell", "item_id", "source"), text),
        **dict.fromkeys(("start_datetime", "end_datetime"), moment),
        "geometry": arrow.binary(),
        "bbox": arrow.struct([(side, double) for side in SIDES]),
        "crs": text,
        "pixel_bbox": arrow.list_(arrow.int32(), 4),
        **dict.fromkeys(("gsd", "valid", "cloud"), arrow.float32()),
        "hilbert": arrow.int64(),
    }
    return arrow.schema(list(types.items()))


def footprints(corners: NDArray[np.float64]) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    """WKB of rings (N, 5, 2) of longitude and latitude, and (N, 4) their west, south, east, north.

    A ring over the antimeridian becomes two polygons within -180..180, as GeoJSON asks.
    """
    shapely = import_extra("shapely", "geo", "shapely", "a store")
    rings = np.array(corners, dtype=np.float64).reshape(-1, 5, 2)
    known = ~np.isnan(rings).any(axis=(1, 2))
    rings[~known] = 0
    east = rings[..., 0] - rings[:, :1, 0]
    wraps = (np.abs(east).max(axis=1) < 360 - 1e-6)[:, None]  # what goes around the Earth is left as it is
    rings[..., 0] = rings[:, :1, 0] + np.where(wraps, (east + 180) % 360 - 180, east)
    shapes = shapely.orient_polygons(shapely.polygons(rings))
    for place in np.flatnonzero((np.abs(rings[..., 0]) > 180).any(axis=1)):
        shapes[place] = join_worlds(shapes[place])
    boxes = shapely.bounds(shapes)
    boxes[~known] = np.nan
    return shapely.to_wkb(shapes), boxes


def join_worlds(shape: Any) -> Any:
    """A shape that goes on beyond 180 degrees, cut along the antimeridian and brought to -180..180."""
    shapely = import_extra("shapely", "geo", "shapely", "polygons")
    sides = [
        shapely.transform(shapely.intersection(shape, shapely.box(west, -90, west + 360, 90)), shift)
        for west, shift in _WORLDS.items()
    ]
    return shapely.union_all([side for side in sides if side.area > 0])


#: Where copies of the Earth begin in degrees east, and what brings them to -180..180.
_WORLDS = {-540: lambda xy: xy - [-360, 0], -180: lambda xy: xy, 180: lambda xy: xy - [360, 0]}


def write_part(
    table: Any,
    embeddings: FloatArray,
    *,
    stored: StoredType,
    unit: str,
    store: str,
    emb: Mapping[str, Any],
    level: int = 3,
) -> bytes:
    """A part's bytes. Equal rows give equal bytes.

    Args:
        table: as :func:`build_table` makes it. embeddings: (N, D) unit vectors of its rows.
        unit, store: keys, as in :class:`PartFacts`. emb: fields of the embeddings extension, but for its quantization.
        level: of zstd.
    """
    arrow, parquet = import_extra("pyarrow", *_EXTRA), import_extra("pyarrow.parquet", *_EXTRA)
    values, scale = quantize(embeddings, stored)
    column = arrow.FixedSizeListArray.from_arrays(arrow.array(values.reshape(-1)), embeddings.shape[1])
    if stored == "int8":
        quantization = {"method": "linear", "quantized_dtype": "int8", "scale": [scale], "offset": [0.0]}
        emb = {**emb, "emb:quantization": {**quantization, "original_dtype": "float32"}}
    own = {"unit": unit, "store": store, "version": sattxt.__version__}
    keys = {"geo": geo_key(table), "emb": dict(emb), "sattxt": own}
    table = table.append_column("embedding", column).replace_schema_metadata(
        {key: json.dumps(value, sort_keys=True) for key, value in keys.items()}
    )
    dense = "embedding.list.element"
    texts = [field.name for field in table.schema if field.type == arrow.string()]
    sink = io.BytesIO()
    parquet.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        compression="zstd",
        compression_level=level,
        # Parquet keeps int8 as int32. DuckDB 2.0 reads no 16-bit floats with BYTE_STREAM_SPLIT, an eighth smaller.
        use_dictionary=[*texts, dense] if stored == "int8" else texts,
        write_page_checksum=True,
    )
    return sink.getvalue()


def quantize(embeddings: FloatArray, stored: StoredType) -> tuple[NDArray[Any], float]:
    """(N, D) float32 as they are stored, and what to multiply these with."""
    if stored == "float16":
        return embeddings.astype(np.float16), 1.0
    scale = float(np.abs(embeddings).max(initial=0)) / 127 or 1.0
    return np.rint(embeddings / scale).astype(np.int8), scale


def read_facts(part: Path | bytes) -> PartFacts:
    """What a part says of itself; only its footer is read.

    Raises:
        StoreError: it is damaged, or no part of a store.
    """
    return _facts(_open(part), part)


def read_part(
    part: Path | bytes, columns: Sequence[str] | None = None, *, embeddings: bool = True, verify: bool = False
) -> tuple[Any, FloatArray]:
    """A part's rows as a ``pyarrow.Table`` without embeddings, and these as (N, D) float32.

    Args:
        columns: of the table; default all. ``"embedding"`` is no column of it.
        embeddings: ``False`` reads none: (N, 0).
        verify: check the checksum of every page.

    Raises:
        StoreError: it is damaged, or no part of a store.
    """
    arrow, file = import_extra("pyarrow", *_EXTRA), _open(part, verify=verify)
    facts = _facts(file, part)
    schema = part_schema()
    names = list(columns or schema.names)
    try:
        table = file.read(columns=[*names, "embedding"] if embeddings else names)
        rows = table.select(names).cast(arrow.schema([schema.field(name) for name in names]))
    except Exception as error:  # pyarrow raises OSError, ValueError and its own kinds
        raise StoreError(f"{_name(part)}: is damaged ({first_line(error)}); {_REMEDY}") from error
    if not embeddings:
        return rows, np.zeros((facts.rows, 0), np.float32)
    stored = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    flat = stored.astype(np.float32).reshape(-1, facts.dimensions)
    if facts.scale != 1:
        flat = (flat * np.float32(facts.scale)).astype(np.float16).astype(np.float32)  # as the index holds it
    return rows, flat


_REMEDY = "add its scene again"


def _open(part: Path | bytes, *, verify: bool = False) -> Any:
    parquet = import_extra("pyarrow.parquet", *_EXTRA)
    try:
        source = io.BytesIO(part) if isinstance(part, bytes) else str(part)
        return parquet.ParquetFile(source, page_checksum_verification=verify)
    except FileNotFoundError as error:
        raise StoreError(f"{_name(part)}: is missing; {_REMEDY}") from error
    except Exception as error:  # pyarrow raises OSError, ValueError and its own kinds
        raise StoreError(f"{_name(part)}: is damaged ({first_line(error)}); {_REMEDY}") from error


def _facts(file: Any, part: Path | bytes) -> PartFacts:
    keys = file.schema_arrow.metadata or {}
    try:
        own, emb = json.loads(keys[b"sattxt"]), json.loads(keys[b"emb"])
        bounds = json.loads(keys[b"geo"])["columns"]["geometry"].get("bbox")
        return PartFacts(
            unit=own["unit"],
            store=own["store"],
            rows=file.metadata.num_rows,
            dimensions=emb["emb:dimensions"],
            stored=emb["data_type"],
            scale=emb.get("emb:quantization", {}).get("scale", [1.0])[0],
            bounds=tuple(bounds) if bounds else None,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{_name(part)}: is no part of a store (no {error}); {_REMEDY}") from error


def _name(part: Path | bytes) -> str:
    return "a part" if isinstance(part, bytes) else str(part)


def geo_key(table: Any) -> dict[str, Any]:
    """GeoParquet's own metadata."""
    compute = import_extra("pyarrow.compute", *_EXTRA)
    covering = {side: ["bbox", side] for side in SIDES}
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["MultiPolygon", "Polygon"],
        "crs": _crs84(),
        "edges": "planar",
        "covering": {"bbox": covering},
    }
    west, south, east, north = (compute.struct_field(table["bbox"], side) for side in SIDES)
    bounds = [compute.min(west), compute.min(south), compute.max(east), compute.max(north)]
    bounds = [side.as_py() for side in bounds]
    if None not in bounds:
        column["bbox"] = bounds
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


@cache
def _crs84() -> dict[str, Any]:
    """OGC:CRS84 as PROJJSON."""
    crs = import_extra("rasterio.crs", "geo", "rasterio", "a store").CRS.from_string("OGC:CRS84")
    return dict(crs.to_dict(projjson=True))
