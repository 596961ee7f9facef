"""The index of a store: its rows in one LanceDB table, made of what the items name, and deleted without loss.

Columns as in a part, but ``bbox`` is ``xmin, ymin, xmax, ymax`` (east beyond 180 over the antimeridian), ``embedding``
is float16, and ``unit`` tells which part a row is of. The rows of a unit come and go in one commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sattxt.errors import StoreError, import_extra
from sattxt.io import disk_errors, first_line
from sattxt.scenes.filters import Filter, unwrapped
from sattxt.scenes.parts import SIDES, part_schema, read_part
from sattxt.vision.embeddings import FloatArray

if TYPE_CHECKING:
    from sattxt.scenes.files import Files
    from sattxt.scenes.records import ItemRecord, PartRecord

log = logging.getLogger(__name__)

#: Rows up to which a search looks at every one, which is quicker than the vector index and right.
EXACT = 100_000
#: Rows from which the table gets a vector index.
VECTOR_INDEX_FROM = 200_000
_TABLE = "chips"
_BATCH = 65_536  # rows in a commit


@dataclass(frozen=True)
class IndexReport:
    """What an update did: rows added and removed, and how many there are now."""

    added: int
    removed: int
    rows: int


class Index:
    """A store's table, opened for reading."""

    def __init__(self, table: Any) -> None:
        self._table = table
        found = table.search().select(["unit", *SIDES]).limit(None).to_arrow()
        counts = found["unit"].value_counts()
        #: Rows of each unit.
        self.units: Mapping[str, int] = dict(
            zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
        )
        west, south, east, north = (found[side].to_numpy() for side in SIDES)
        known = ~np.isnan(west)
        self._extent = (0.0, 0.0, 0.0)
        if known.any():
            sizes = (east - west)[known].max(), (north - south)[known].max(), east[known].max()
            self._extent = (float(sizes[0]) + 1e-6, float(sizes[1]) + 1e-6, float(sizes[2]))
        self.approximate = any(index.columns == ["embedding"] for index in table.list_indices())

    def where(self, chosen: Filter) -> str:
        """A filter but for its area, as SQL."""
        return chosen.where(*self._extent)

    def count(self, where: str) -> int:
        """Rows that SQL leaves."""
        return int(self._table.count_rows(where or None))

    def nearest(
        self, query: FloatArray, where: str, limit: int, columns: Sequence[str], *, exact: bool
    ) -> tuple[Any, FloatArray]:
        """The rows with the largest dot product: a table of ``columns``, best first, and (N, D) embeddings."""
        search = self._table.search(query, vector_column_name="embedding").distance_type("dot")
        if where:
            search = search.where(where, prefilter=True)
        search = search.bypass_vector_index() if exact else search.maximum_nprobes(0).refine_factor(20)
        found = search.limit(limit).select([*columns, "embedding", "_distance"]).to_arrow()
        return _split(found, columns)

    def inside(self, where: str, chosen: Filter, columns: Sequence[str]) -> tuple[int, Callable[[], Any]]:
        """How many rows that SQL leaves touch a filter's area, and what reads them: a table and embeddings."""
        search = self._table.search().select(["geometry"]).with_row_id(True).limit(None)
        found = (search.where(where) if where else search).to_arrow()
        rows = found["_rowid"].to_numpy()[chosen.touches(found["geometry"])].tolist()

        def read() -> tuple[Any, FloatArray]:
            return _split(self._table.take_row_ids(rows).select([*columns, "embedding"]).to_arrow(), columns)

        return len(rows), read


def _split(found: Any, columns: Sequence[str]) -> tuple[Any, FloatArray]:
    column = found["embedding"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    schema = import_extra("pyarrow", "geo", "pyarrow", "a store").schema(map(part_schema().field, columns))
    return found.select(list(columns)).cast(schema), flat.reshape(len(column), column.type.list_size)


def open_index(folder: Path) -> Index | None:
    """The index in a folder; ``None`` where there is none, or lancedb is not installed.

    Raises:
        StoreError: it is damaged.
    """
    if not (folder / f"{_TABLE}.lance").is_dir():
        return None
    with suppress(ImportError):
        lancedb = import_extra("lancedb", "search", "lancedb", "the index")
        try:
            return Index(lancedb.connect(str(folder)).open_table(_TABLE))
        except Exception as error:  # lance raises RuntimeError, ValueError and OSError
            raise StoreError(
                f"{folder}: the index is damaged ({first_line(error)}); remove this folder and index again"
            ) from error
    return None


def update_index(
    folder: Path, files: Files, items: Sequence[ItemRecord], width: int, *, progress: bool = False
) -> IndexReport:
    """Add what the items name and the index lacks, delete what they no longer name; one process at a time.

    Raises:
        MissingExtraError: lancedb is not installed. StoreError: a part or the index is damaged.
        DiskFullError: no space is left; what was committed stays.
    """
    lancedb = import_extra("lancedb", "search", "lancedb", "the index")
    from filelock import FileLock

    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            database = lancedb.connect(str(folder))
            if not (folder / f"{_TABLE}.lance").is_dir():
                database.create_table(_TABLE, schema=_schema(width))
            index = open_index(folder)
            assert index is not None
            return _update(index, files, items, progress=progress)


def _update(index: Index, files: Files, items: Sequence[ItemRecord], *, progress: bool) -> IndexReport:
    from tqdm import tqdm

    table = index._table
    named = {part.unit: part for item in items for part in item.parts}
    stale = [unit for unit, rows in index.units.items() if unit not in named or named[unit].rows != rows]
    removed = sum(index.units[unit] for unit in stale)
    for start in range(0, len(stale), 1000):
        table.delete(f"unit IN ({', '.join(map(_quoted, stale[start : start + 1000]))})")
    kept = index.units.keys() - set(stale)
    missing = [part for part in named.values() if part.unit not in kept and part.rows]
    added = sum(part.rows for part in missing)
    with tqdm(total=added, unit=" rows", disable=None if progress else True, leave=False) as bar:
        for batch in _batches(files, missing):
            table.add(batch)
            bar.update(batch.num_rows)
    rows = int(table.count_rows())
    if added or removed:
        _refresh(table, rows)
    return IndexReport(added, removed, rows)


def _batches(files: Files, parts: Sequence[PartRecord]) -> Iterator[Any]:
    """Rows of whole parts, about ``_BATCH`` at a time."""
    arrow = import_extra("pyarrow", "geo", "pyarrow", "a store")
    tables: list[Any] = []
    for part in parts:
        tables.append(_rows(part, files))
        if sum(table.num_rows for table in tables) >= _BATCH:
            yield arrow.concat_tables(tables)
            tables = []
    if tables:
        yield arrow.concat_tables(tables)


def _rows(part: PartRecord, files: Files) -> Any:
    """A part's rows as the index keeps them."""
    arrow = import_extra("pyarrow", "geo", "pyarrow", "a store")
    table, embeddings = read_part(files.open(part.name))
    for name, values in zip(SIDES, unwrapped(table).T, strict=True):
        table = table.append_column(name, arrow.array(values, mask=np.isnan(values)))
    flat = arrow.array(embeddings.astype(np.float16).reshape(-1))
    table = table.append_column("unit", arrow.array([part.unit] * part.rows))
    table = table.append_column("embedding", arrow.FixedSizeListArray.from_arrays(flat, embeddings.shape[1]))
    return table.select(_schema(embeddings.shape[1]).names)


def _schema(width: int) -> Any:
    arrow = import_extra("pyarrow", "geo", "pyarrow", "a store")
    shared = [field for field in part_schema() if field.name != "bbox"]
    sides = [arrow.field(side, arrow.float64()) for side in SIDES]
    own = [arrow.field("unit", arrow.string()), arrow.field("embedding", arrow.list_(arrow.float16(), width))]
    return arrow.schema([*shared, *sides, *own])


def _refresh(table: Any, rows: int) -> None:
    """Sort new rows into the indices, or make these; a large table gets one over its vectors."""
    indices = import_extra("lancedb.index", "search", "lancedb", "the index")
    there = {name for index in table.list_indices() for name in index.columns}
    if rows:
        for name in (*SIDES, "start_datetime", "unit"):
            if name not in there:
                table.create_index(name, config=indices.BTree())
    if rows >= VECTOR_INDEX_FROM and "embedding" not in there:
        # The middles of partitions need not be found exactly: a search asks as many as it takes.
        quick = {"max_iterations": 10, "sample_rate": 64}
        config = indices.IvfRq(distance_type="dot", num_bits=1, num_partitions=rows // 4096, **quick)
        table.create_index("embedding", config=config)
    table.optimize()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
