"""Rows of a store read part by part, and the best of them: exact, in the memory of one part."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import import_extra
from sattxt.scenes.filters import COLUMNS, Filter
from sattxt.scenes.parts import read_part
from sattxt.vision.embeddings import FloatArray

if TYPE_CHECKING:
    from sattxt.scenes.files import Files
    from sattxt.scenes.records import ItemRecord

#: By how much scores of one row may differ with the rows that are multiplied beside it; what is nearer is kept until
#: the scores that decide are summed alike.
_SLACK = 1e-5


def read_blocks(
    files: Files,
    items: Sequence[ItemRecord],
    chosen: Filter,
    columns: Sequence[str] | None = None,
    *,
    units: Collection[str] | None = None,
    embeddings: bool = True,
) -> Iterator[tuple[Any, FloatArray]]:
    """The rows that a filter leaves, part by part: a ``pyarrow.Table`` of ``columns``, and (N, D) float32 embeddings.

    Args:
        units: of these units only. embeddings: ``False`` reads none: (N, 0).

    Raises:
        StoreError: a part is missing or damaged.
    """
    names = None if columns is None else list(dict.fromkeys([*columns, *(COLUMNS if chosen else ())]))
    for item in items:
        if not chosen.may_hold(item.bounds, item.start, item.end):
            continue
        for part in item.parts:
            if part.rows == 0 or (units is not None and part.unit not in units):
                continue
            table, vectors = read_part(files.open(part.name), names, embeddings=embeddings)
            if chosen:
                kept = np.flatnonzero(chosen.mask(table))
                table, vectors = table.take(kept), vectors[kept]
            if table.num_rows:
                yield table if columns is None else table.select(list(columns)), vectors


class Best:
    """The ``k`` rows that match a query best, of blocks that are added in any order.

    Ties go to the lower id, so that the answer depends on the rows alone, not on how they came in blocks.

    Args:
        query: (D,). one_per_cell: of the rows of a grid cell, at several dates, only the best.
    """

    def __init__(self, query: FloatArray, k: int, *, one_per_cell: bool = False) -> None:
        self._query = query
        self._k = k
        self._one_per_cell = one_per_cell
        self._kept: list[tuple[Any, FloatArray, FloatArray]] = []

    def add(self, table: Any, embeddings: FloatArray) -> None:
        """Consider a table's rows (with ``id`` and ``grid_cell``) and their (N, D) embeddings."""
        self._kept.append((table, embeddings, embeddings @ self._query))
        self._drop(sum(len(scores) for *_, scores in self._kept))

    def _drop(self, rows: int) -> None:
        """Forget rows that can no longer be among the best."""
        if rows <= 4 * self._k:
            return
        scores = np.concatenate([scores for *_, scores in self._kept])
        if self._one_per_cell:
            cells = np.concatenate([table["grid_cell"].to_numpy() for table, *_ in self._kept])
            _, cell = np.unique(cells, return_inverse=True)
            tops = np.full(cell.max() + 1, -np.inf, np.float32)
            np.maximum.at(tops, cell, scores)
            wanted = (scores >= tops[cell] - _SLACK) & (tops[cell] >= _kth(tops, self._k) - _SLACK)
        else:
            wanted = scores >= _kth(scores, self._k) - _SLACK
        start, kept = 0, []
        for table, embeddings, own in self._kept:
            rows_left = np.flatnonzero(wanted[start : start + len(own)])
            start += len(own)
            if len(rows_left):
                kept.append((table.take(rows_left), embeddings[rows_left], own[rows_left]))
        self._kept = kept

    def rows(self) -> tuple[Any, FloatArray, FloatArray]:
        """The best rows as a table, best first; their embeddings (n, D); and scores (n,), dot products with the query.

        The table is ``None`` where there are no rows.
        """
        if not self._kept:
            return None, np.zeros((0, len(self._query)), np.float32), np.zeros(0, np.float32)
        arrow = import_extra("pyarrow", "geo", "pyarrow", "a store")
        table = arrow.concat_tables([table for table, *_ in self._kept])
        embeddings = np.concatenate([embeddings for _, embeddings, _ in self._kept])
        scores = exact_scores(embeddings, self._query)
        order = np.lexsort((table["id"].to_numpy(), -scores))
        if self._one_per_cell:
            _, first = np.unique(table["grid_cell"].to_numpy()[order], return_index=True)
            order = order[np.sort(first)]
        order = order[: self._k]
        return table.take(order), embeddings[order], scores[order]


def exact_scores(embeddings: FloatArray, query: FloatArray) -> FloatArray:
    """(N, D) and (D,) to (N,) dot products, each the same whatever rows are beside it."""
    sums = embeddings.astype(np.float64) @ query.astype(np.float64)
    return np.round(sums, 7).astype(np.float32)


def _kth(scores: NDArray[np.float32], k: int) -> float:
    """The ``k``-th largest, or the least where there are fewer."""
    return float(np.partition(scores, -k)[-k]) if len(scores) > k else float(scores.min())
