"""Change: the same grid cells in two periods, compared by words or by the embeddings alone.

What differs between two dates is mostly the light, the air and the season, which a whole scene shares. So a cell's
difference counts less the median of its pair of scenes, in units of the spread there (the median absolute deviation);
where the earlier period has three dates or more, in units of how the cell itself used to vary, which is proof against
seasons.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import InputError, import_extra
from sattxt.scenes.filters import Filter, parse_moment
from sattxt.scenes.handles import rasterio_module
from sattxt.scenes.polygons import write_polygons
from sattxt.scenes.scan import read_blocks
from sattxt.scenes.search import Rows
from sattxt.vision.embeddings import FloatArray

if TYPE_CHECKING:
    from sattxt.classify.classifier import Classifier

#: A year, a month or a day as a whole, or from the start of the first to the start of the second.
Period = str | date | Sequence[str | date]
Kind = Literal["appeared", "disappeared", "changed"]

_SURE = 3.0  # deviations from which a cell counts as changed
_DATES = 3  # of the earlier period, from which a cell is held against its own past
_FEWEST = 16  # cells of a pair of scenes, below which pairs are judged together
_TO_SIGMA = 1.4826  # of a normal distribution, from its median absolute deviation
#: The least that deviations count as: of probabilities, and of 1 - cosine, by which a little more light moves chips of
#: dark water up to twice as far.
_LEAST_PROB, _LEAST_DISTANCE = 0.05, 0.05
_COLUMNS = ("id", "grid_cell", "item_id", "start_datetime", "geometry", "pixel_bbox", "valid", "cloud")
_EQUAL_AREA = "EPSG:6933"


@dataclass(frozen=True)
class ChangedArea:
    """Neighbouring cells that changed alike.

    kind: ``"appeared"`` or ``"disappeared"`` of what the text says; ``"changed"`` without a text.
    geometry: a shapely polygon in longitude and latitude. area_m2: of it, on the ground. cells: names on the grid.
    before, after: the cells' mean probabilities; without a text ``before`` is 0 and ``after`` their mean 1 - cosine
    (with three dates or more, both from the mean of the earlier ones). z: the largest deviation, in either direction.
    start, end: days of the earliest and of the latest chip that was compared.
    """

    kind: Kind
    geometry: Any
    area_m2: float
    cells: tuple[str, ...]
    before: float
    after: float
    z: float
    start: date
    end: date

    def to_dict(self) -> dict[str, Any]:
        """Flat, without the geometry; cells are counted, days as ISO 8601."""
        row = {name: value for name, value in self.__dict__.items() if name != "geometry"}
        return row | {"cells": len(self.cells), "start": self.start.isoformat(), "end": self.end.isoformat()}


class Changes(list[ChangedArea]):
    """Changed areas, the largest deviation first: a list.

    query: the text, or ``None``. table: a ``pyarrow.Table`` of every cell that was compared: grid_cell, before_id,
    after_id, before, after, delta (less the scenes' median), z, dates (earlier chips that it was held against), kind
    (null where it did not change).
    """

    def __init__(self, areas: Iterable[ChangedArea], query: str | None, table: Any) -> None:
        super().__init__(areas)
        self.query = query
        self.table = table

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat dict an area, for ``pandas.DataFrame``."""
        return [area.to_dict() for area in self]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the areas as polygons: ``.geojson``, ``.parquet``, ``.gpkg`` or ``.fgb`` (the last two: extra ``gis``).

        Raises:
            InputError: another suffix, or a file that is there without ``overwrite``. DiskFullError: no space is left.
        """
        names = ("kind", "before", "after", "z", "area_m2", "start", "end")
        columns = {name: [getattr(area, name) for area in self] for name in names}
        columns["cells"] = [len(area.cells) for area in self]
        columns["query"] = [self.query] * len(self)
        return write_polygons(path, [area.geometry for area in self], columns, overwrite=overwrite)

    def __str__(self) -> str:
        lines = [f"{a.kind}  {len(a.cells)} cells  {a.area_m2 / 1e6:.2f} km²  z {a.z:+.1f}" for a in self[:10]]
        more = [f"... and {len(self) - 10} more"] if len(self) > 10 else []
        return "\n".join([*lines, *more, f"of {self.table.num_rows} cells compared"])

    __repr__ = __str__


@dataclass(frozen=True)
class _Chips:
    """The rows of a period. values: (N,) probabilities or (N, D) embeddings. hidden: share without data or in cloud."""

    ids: NDArray[np.object_]
    cells: NDArray[np.object_]
    items: NDArray[np.object_]
    days: NDArray[np.datetime64]
    shapes: NDArray[np.object_]
    hidden: FloatArray
    values: NDArray[Any]


@dataclass(frozen=True)
class _Compared:
    """N cells: rows of the earlier and the later period, what they are held against and by how much they differ."""

    earlier: NDArray[np.int64]
    later: NDArray[np.int64]
    before: FloatArray
    after: FloatArray
    delta: FloatArray
    z: FloatArray
    dates: NDArray[np.int64]


def find_changes(
    rows: Rows,
    classifier: Classifier | None,
    before: Period,
    after: Period,
    season: float | None,
    place: Filter,
) -> Changes:
    """Changed areas of a store; arguments and errors as in :meth:`sattxt.scenes.Store.change`.

    Args:
        classifier: of the text, for several labels; ``None``: the embeddings alone.
    """
    if season is not None and (isinstance(season, (bool, str)) or not season >= 0):
        raise InputError(f"season={season!r}: pass days, such as 45, or None for any season")
    spans = [_parse_period("before", before), _parse_period("after", after)]
    if spans[0][1] > spans[1][0]:
        raise InputError(
            f"before={before!r} does not end before after={after!r} begins; pass periods one after another"
        )
    old, new = (
        _read(rows, Filter(place.bbox, place.area, start, end), classifier, name)
        for name, (start, end) in zip(("before", "after"), spans, strict=True)
    )
    _, codes = np.unique(np.concatenate([old.cells, new.cells]), return_inverse=True)
    own, theirs = codes[: len(old.cells)], codes[len(old.cells) :]
    count = int(codes.max()) + 1
    seen = np.unique(np.stack([own, old.days.astype(np.int64)]), axis=1)[0]
    dates = np.bincount(seen, minlength=count)
    least = _LEAST_DISTANCE if classifier is None else _LEAST_PROB
    by_past = _hold_against_past(old, new, own, theirs, dates, least)
    paired = dates[own] < _DATES
    by_pair = _compare_pairs(old, new, np.where(paired, own, -1), theirs, season, least)
    columns = zip(vars(by_past).values(), vars(by_pair).values(), strict=True)
    found = _Compared(*(np.concatenate(pair) for pair in columns))
    if not len(found.z):
        common = len(np.intersect1d(own, theirs))
        why = f"{common} cells are in both periods, none within {season} days of season; pass season=None or more days"
        raise InputError(why if common else f"before={before!r} and after={after!r} have no grid cell in common")
    kinds = _judge(found, words=classifier is not None)
    query = None if classifier is None else classifier.labels[0]
    return Changes(_dissolve(old, new, found, kinds), query, _tabulate(old, new, found, kinds))


def _parse_period(name: str, value: Period) -> tuple[datetime, datetime]:
    if not isinstance(value, (str, date)):
        try:
            first, last = value
        except (TypeError, ValueError):
            raise InputError(f"{name}={value!r}: pass a period, '2019', or its ends, ('2019-05', '2019-09')") from None
        start, end = parse_moment(name, first), parse_moment(name, last)
        if start >= end:
            raise InputError(f"{name}={value!r}: its end is not after its start")
        return start, end
    start = parse_moment(name, value)
    parts = value.count("-") if isinstance(value, str) else 2
    if parts >= 2:
        return start, start + timedelta(days=1)
    following = start.replace(day=1) + timedelta(days=31 if parts else 366)
    return start, following.replace(day=1) if parts else following.replace(month=1, day=1)


def _read(rows: Rows, chosen: Filter, classifier: Classifier | None, name: str) -> _Chips:
    columns: list[list[NDArray[Any]]] = []
    for table, embeddings in read_blocks(rows.files, rows.items, chosen, _COLUMNS):
        if table["geometry"].null_count:
            raise InputError("chips without georeference cannot be compared; add the images with crs= and bounds=")
        cells, boxes = table["grid_cell"].to_numpy(), table["pixel_bbox"].combine_chunks().flatten()
        if cells[0] == f"r{boxes[1]}_c{boxes[0]}":  # of the image's own pixels: the same cell is the same footprint
            cells = table["geometry"].to_numpy()
        cloud = table["cloud"].to_numpy(zero_copy_only=False).astype(np.float32)
        hidden = np.nan_to_num(cloud, nan=1.0) + 1 - table["valid"].to_numpy()
        values = embeddings.astype(np.float16) if classifier is None else classifier.compare(embeddings)[1][:, 0]
        days = table["start_datetime"].to_numpy().astype("datetime64[D]")
        names, items, shapes = (table[column].to_numpy() for column in ("id", "item_id", "geometry"))
        columns.append([names, cells, items, days, shapes, hidden, values])
    if not columns:
        span = f"{chosen.after:%Y-%m-%d} to {chosen.before:%Y-%m-%d}"
        raise InputError(f"{name}: the store has no chips from {span} there; pass another period or place")
    return _Chips(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def _compare_pairs(
    old: _Chips, new: _Chips, own: NDArray[Any], theirs: NDArray[Any], season: float | None, least: float
) -> _Compared:
    """Each cell's clearest pair of chips within a season, held against all cells of that pair of scenes."""
    best: dict[int, tuple[float, int, int, int]] = {}
    groups = {side: _by_item(chips, codes) for side, chips, codes in (("old", old, own), ("new", new, theirs))}
    for number, (first, second) in enumerate((a, b) for a in groups["old"] for b in groups["new"]):
        gap = int(abs(_day_of_year(old.days[first[0]]) - _day_of_year(new.days[second[0]])))
        gap = min(gap, 365 - gap)
        if season is not None and gap > season:
            continue
        cells, one, other = np.intersect1d(own[first], theirs[second], return_indices=True)
        cost = old.hidden[first[one]] + new.hidden[second[other]] + 1e-6 * gap
        listed = (column.tolist() for column in (cells, cost, first[one], second[other]))
        for cell, price, a, b in zip(*listed, strict=True):
            if cell not in best or price < best[cell][0]:
                best[cell] = (price, a, b, number)
    columns = np.array([row[1:] for row in best.values()], dtype=np.int64).reshape(-1, 3)
    earlier, later, pair = columns.T
    if old.values.ndim == 1:
        before, after = old.values[earlier], new.values[later]
    else:
        after = 1 - _cosines(old.values[earlier], new.values[later])
        before = np.zeros_like(after)
    sizes = np.bincount(pair, minlength=1)
    pair = np.where(sizes[pair] < _FEWEST, -1, pair)
    delta = after - before
    delta = delta - _median_of(pair, delta)
    spread = np.maximum(_TO_SIGMA * _median_of(pair, np.abs(delta)), least)
    return _Compared(earlier, later, before, after, delta, delta / spread, np.ones(len(pair), np.int64))


def _hold_against_past(
    old: _Chips, new: _Chips, own: NDArray[Any], theirs: NDArray[Any], dates: NDArray[Any], least: float
) -> _Compared:
    """The clearest later chip of each cell with three earlier dates or more, held against these."""
    order = np.lexsort((new.hidden, theirs))
    cells, first = np.unique(theirs[order], return_index=True)
    kept = dates[cells] >= _DATES
    cells, later = cells[kept], order[first[kept]]
    past = np.flatnonzero(np.isin(own, cells))
    past = past[np.lexsort((old.hidden[past], own[past]))]
    _, start, at, counts = np.unique(own[past], return_index=True, return_inverse=True, return_counts=True)
    if old.values.ndim == 1:
        values, after = old.values[past], new.values[later]
    else:
        sums = np.zeros((len(cells), old.values.shape[1]), np.float32)
        np.add.at(sums, at, old.values[past].astype(np.float32))
        values, after = 1 - _cosines(sums[at], old.values[past]), 1 - _cosines(sums, new.values[later])
    middles = _median_of(at, values)
    spread = np.maximum(_TO_SIGMA * _median_of(at, np.abs(values - middles))[start], least)
    before = middles[start]
    delta = after - before
    _, item = np.unique(new.items[later], return_inverse=True)
    delta = delta - _median_of(item, delta)
    return _Compared(past[start], later, before, after, delta, delta / spread, counts)


def _by_item(chips: _Chips, codes: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Rows of each item, but for those with a negative code."""
    _, item = np.unique(chips.items, return_inverse=True)
    return [rows for number in range(item.max() + 1) if len(rows := np.flatnonzero((item == number) & (codes >= 0)))]


def _day_of_year(day: np.datetime64) -> int:
    return int((day - day.astype("datetime64[Y]")).astype(int))


def _cosines(a: NDArray[Any], b: NDArray[Any]) -> FloatArray:
    """(N,) cosines of rows."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def _median_of(group: NDArray[Any], values: FloatArray) -> FloatArray:
    """(N,) for each value the median of its group."""
    _, at, counts = np.unique(group, return_inverse=True, return_counts=True)
    ordered = values[np.lexsort((values, at))]
    start = np.cumsum(counts) - counts
    return np.asarray((ordered[start + (counts - 1) // 2] + ordered[start + counts // 2])[at] / 2)


def _judge(found: _Compared, *, words: bool) -> NDArray[np.object_]:
    """The kind of each cell's change, ``None`` where there is none."""
    kinds = np.full(len(found.z), None, dtype=object)
    if not words:
        kinds[found.z > _SURE] = "changed"
        return kinds
    kinds[(found.z > _SURE) & (found.before < 0.5) & (found.after >= 0.5)] = "appeared"
    kinds[(found.z < -_SURE) & (found.before >= 0.5) & (found.after < 0.5)] = "disappeared"
    return kinds


def _dissolve(old: _Chips, new: _Chips, found: _Compared, kinds: NDArray[np.object_]) -> list[ChangedArea]:
    """Cells that touch along a side and changed alike become one area."""
    shapely = import_extra("shapely", "geo", "shapely", "polygons")
    areas: list[ChangedArea] = []
    for kind in dict.fromkeys(kinds[kinds != None].tolist()):  # noqa: E711  # of an array
        rows = np.flatnonzero(kinds == kind)
        shapes = shapely.from_wkb(new.shapes[found.later[rows]])
        parts = shapely.get_parts(shapely.union_all(shapes))
        inside, holder = shapely.STRtree(parts).query(shapely.point_on_surface(shapes), predicate="within")
        for number, part in enumerate(parts):
            own = rows[inside[holder == number]]
            areas.append(
                ChangedArea(
                    kind=kind,
                    geometry=part,
                    area_m2=_measure(part),
                    cells=tuple(name.rpartition("#")[2] for name in new.ids[found.later[own]]),
                    before=float(found.before[own].mean()),
                    after=float(found.after[own].mean()),
                    z=float(found.z[own][np.abs(found.z[own]).argmax()]),
                    start=old.days[found.earlier[own]].min().item(),
                    end=new.days[found.later[own]].max().item(),
                )
            )
    return sorted(areas, key=lambda area: -abs(area.z))


def _measure(shape: Any) -> float:
    """Square metres of a polygon in longitude and latitude."""
    shapely = import_extra("shapely", "geo", "shapely", "polygons")
    moved = rasterio_module().warp.transform_geom("OGC:CRS84", _EQUAL_AREA, shapely.geometry.mapping(shape))
    return float(shapely.geometry.shape(moved).area)


def _tabulate(old: _Chips, new: _Chips, found: _Compared, kinds: NDArray[np.object_]) -> Any:
    arrow = import_extra("pyarrow", "geo", "pyarrow", "a store")
    return arrow.table(
        {
            "grid_cell": [name.rpartition("#")[2] for name in new.ids[found.later]],
            "before_id": old.ids[found.earlier].tolist(),
            "after_id": new.ids[found.later].tolist(),
            **{name: getattr(found, name).astype(np.float32) for name in ("before", "after", "delta", "z")},
            "dates": found.dates,
            "kind": arrow.array(kinds.tolist(), arrow.string()),
        }
    )
