"""A store for publishing: few large files, each a stretch of the Hilbert curve, with a STAC Collection beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sattxt.errors import InputError, import_extra
from sattxt.io import atomic_write, write_directory
from sattxt.scenes.filters import Filter
from sattxt.scenes.parts import read_part, write_part
from sattxt.scenes.records import PARQUET, emb_fields, write_collection
from sattxt.scenes.scan import read_blocks
from sattxt.vision.embeddings import FloatArray

if TYPE_CHECKING:
    from sattxt.scenes.store import Store

Names = Literal["sattxt", "majortom"]
#: Bytes of embeddings in a file, one row group.
FILE_BYTES = 128 * 2**20
_LEVEL = 15  # of zstd: written once, read often


def export_store(store: Store, out: Path, *, names: Names, overwrite: bool, progress: bool) -> list[Path]:
    """Write the files; arguments and errors as in :meth:`Store.export`."""
    from tqdm import tqdm

    if names not in ("sattxt", "majortom"):
        raise InputError(f"names={names!r}: pass 'sattxt' or 'majortom'")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise InputError(f"{out}: is there already; pass another folder, or overwrite=True")
    items = store.items
    places = {
        part.unit: read_part(store.files.open(part.name), ["hilbert"], embeddings=False)[0]["hilbert"].to_numpy()
        for item in items
        for part in item.parts
        if part.rows
    }
    curve = np.sort(np.concatenate([np.zeros(0, np.int64), *places.values()]))
    spans = {unit: (int(found.min()), int(found.max())) for unit, found in places.items()}
    width = store.settings.dimensions * (1 if store.settings.stored == "int8" else 2)
    rows = max(1, FILE_BYTES // width)
    starts = [int(curve[0]), *sorted({int(p) for p in curve[rows::rows]} - {int(curve[0])})] if len(curve) else []
    written = []
    with (
        write_directory(out) as folder,
        tqdm(total=len(curve), unit=" rows", disable=None if progress else True, leave=False) as bar,
    ):
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], 2**62], strict=True)):
            units = {unit for unit, (first, last) in spans.items() if first < stop and last >= start}
            table, vectors = _stretch(store, units, start, stop)
            name = f"embeddings-{number:05}.parquet"
            _write(store, table, vectors, folder / name, names)
            written.append(out / name)
            bar.update(table.num_rows)
        collection = json.loads(write_collection(store.settings, items))
        collection["links"] = [link for link in collection["links"] if link["rel"] in ("root", "emb:model")] + [
            {"rel": "emb:source-data", "href": "./", "title": "column source of each row"}
        ]
        collection["assets"] = {
            path.stem: {"href": f"./{path.name}", "type": PARQUET, "roles": ["data"]} for path in written
        }
        with atomic_write(folder / "collection.json") as file:
            file.write((json.dumps(collection, indent=1) + "\n").encode())
        with atomic_write(folder / "model.json") as file:
            file.write(store.files.read("model.json"))
    return [*written, out / "collection.json", out / "model.json"]


def _stretch(store: Store, units: set[str], start: int, stop: int) -> tuple[Any, FloatArray]:
    """The rows of a stretch of the curve, in order of place and then of id."""
    arrow = import_extra("pyarrow", "geo", "pyarrow", "a store")
    tables, vectors = [], []
    for table, embeddings in read_blocks(store.files, store.items, Filter(), units=units):
        place = table["hilbert"].to_numpy()
        rows = np.flatnonzero((place >= start) & (place < stop))
        if len(rows):
            tables.append(table.take(rows))
            vectors.append(embeddings[rows])
    whole = arrow.concat_tables(tables)
    order = np.lexsort((whole["id"].to_numpy(), whole["hilbert"].to_numpy()))
    return whole.take(order), np.concatenate(vectors)[order]


def _write(store: Store, table: Any, vectors: FloatArray, path: Path, names: Names) -> None:
    settings = store.settings
    links = [{"rel": "emb:model", "href": "./model.json"}, {"rel": "emb:source-data", "href": "./"}]
    content = write_part(
        _as_majortom(table) if names == "majortom" else table,
        vectors,
        stored=settings.stored,
        unit=path.stem,
        store=settings.key,
        emb={**emb_fields(settings), "links": links},
        level=_LEVEL,
    )
    with atomic_write(path) as file:
        file.write(content)


def _as_majortom(table: Any) -> Any:
    """A table with the columns of Major TOM's embeddings in the place of ours, ``geometry`` and ``bbox`` excepted."""
    shapely = import_extra("shapely", "geo", "shapely", "a store")
    arrow = import_extra("pyarrow", "geo", "pyarrow", "a store")
    centres = shapely.centroid(shapely.from_wkb(table["geometry"].to_numpy()))
    cells = [re.fullmatch(r"(\d+)([UD])_(\d+)([LR])", cell) for cell in table["grid_cell"].to_pylist()]
    numbers = [
        (None, None) if cell is None else (_signed(cell[1], cell[2] == "U"), _signed(cell[3], cell[4] == "R"))
        for cell in cells
    ]
    moments = [None if at is None else f"{at:%Y%m%dT%H%M%S}" for at in table["start_datetime"].to_pylist()]
    columns = {
        "unique_id": table["id"],
        "grid_cell": table["grid_cell"],
        "grid_row_u": arrow.array([row for row, _ in numbers], arrow.int16()),
        "grid_col_r": arrow.array([column for _, column in numbers], arrow.int16()),
        "product_id": table["item_id"],
        "timestamp": arrow.array(moments, arrow.string()),
        "centre_lat": arrow.array(shapely.get_y(centres)),
        "centre_lon": arrow.array(shapely.get_x(centres)),
        "geometry": table["geometry"],
        "bbox": table["bbox"],
        "utm_crs": table["crs"],
        "pixel_bbox": table["pixel_bbox"],
    }
    return arrow.table(columns)


def _signed(digits: str, positive: bool) -> int:
    return int(digits) if positive else -int(digits)
