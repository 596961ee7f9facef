"""Search: from words, pictures and examples to a query vector, and from it to the chips that match best.

The planner counts first what the filter leaves. Up to 100,000 chips all are compared, which is quicker than the vector
index and right; above that the vector index answers, and where it finds too few all are compared after all. What the
index lacks is scanned part by part, and so is everything where there is no index: the answers are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sattxt.errors import InputError
from sattxt.images.options import check_count
from sattxt.labels.prompts import parse_templates
from sattxt.scenes.filters import Filter
from sattxt.scenes.hits import HIT_COLUMNS, Hits, make_hits
from sattxt.scenes.index import EXACT, Index, open_index
from sattxt.scenes.scan import Best, read_blocks
from sattxt.vision.embeddings import FloatArray, unit_rows

if TYPE_CHECKING:
    from sattxt.classify.classifier import Classifier
    from sattxt.images.options import ImageOptions
    from sattxt.model import SatTxt
    from sattxt.scenes.files import Files
    from sattxt.scenes.records import ItemRecord
    from sattxt.scenes.store import Store

log = logging.getLogger(__name__)

_UNLIKE = 0.25  # how much of what only the unlikes have is taken off
_MORE = 16  # candidates asked for beyond k: their order in 16 bits may be another
_ROUNDING = 2e-3  # by how much a score in 16 bits may be off
_FEW = 2048  # rows that are read one by one
_LARGEST_PROBE = 4096  # candidates up to which the vector index is asked


@dataclass(frozen=True)
class Rows:
    """The rows of a store: its parts, and the index where there is one."""

    files: Files
    items: Sequence[ItemRecord]
    index: Index | None

    def scanned(self) -> set[str]:
        """Units that the index lacks."""
        named = {part.unit: part.rows for item in self.items for part in item.parts if part.rows}
        known = self.index.units if self.index else {}
        return {unit for unit, rows in named.items() if known.get(unit) != rows}

    def sql(self, chosen: Filter) -> str:
        """The filter as SQL, without rows of the index that no item names any more."""
        named = {part.unit: part.rows for item in self.items for part in item.parts}
        known = self.index.units if self.index else {}
        stale = [f"'{unit}'" for unit, rows in known.items() if named.get(unit) != rows]
        parts = [self.index.where(chosen) if self.index else "", f"unit NOT IN ({', '.join(stale)})" if stale else ""]
        return " AND ".join(f"({part})" for part in parts if part)


def open_rows(files: Files, items: Sequence[ItemRecord], index_folder: Path) -> Rows:
    """The rows of a store, with a warning where the index lacks some of them, or many chips have none."""
    rows = Rows(files, items, open_index(index_folder))
    missing, units = len(rows.scanned()), sum(len(item.parts) for item in items)
    chips = sum(item.rows for item in items)
    if missing and rows.index is not None:
        log.warning(
            "%s: the index lacks %s of %s units, which are scanned; 'sattxt store index' adds them",
            files,
            missing,
            units,
        )
    elif rows.index is None and chips > EXACT:
        log.warning("%s: has no index, so all %s chips are scanned; 'sattxt store index' makes one", files, chips)
    return rows


def measure_fits(model: SatTxt, embeddings: FloatArray, query: FloatArray) -> Sequence[float | None]:
    """How sure it is that a query (D,) of words fits each of (N, D) embeddings, in [0, 1]; ``None``: cannot tell."""
    if model.fit is None:
        return [None] * len(embeddings)
    scores = (embeddings @ query)[:, None]
    return [float(sure) for sure in model.fit.measure(embeddings, scores, model.fit.best_pictures(query[None]))]


def search_store(
    store: Store,
    text: str | None,
    *,
    image: Any,
    like: str | Sequence[str] | None,
    unlike: str | Sequence[str] | None,
    k: int,
    one_per_cell: bool,
    templates: str | Sequence[str] | None,
    options: ImageOptions | None,
    chosen: Filter,
) -> Hits:
    """The chips of a store that match best; arguments and errors as in :meth:`sattxt.scenes.Store.search`."""
    check_count("k", k)
    if text is not None:
        check_words(text)
    likes, unlikes = check_ids("like", like), check_ids("unlike", unlike)
    rows = open_rows(store.files, store.items, store.index_folder)
    query = embed_query(
        store.model if text is not None or image is not None else None,
        text=text,
        templates=templates,
        image=image,
        options=options,
        like=find_vectors(rows, likes, "like"),
        unlike=find_vectors(rows, unlikes, "unlike"),
    )
    said = [text, None if image is None else "image", *likes, *(f"not {each}" for each in unlikes)]
    return search(
        rows,
        query,
        k,
        chosen,
        words=", ".join(each for each in said if each),
        without=[*likes, *unlikes],
        one_per_cell=one_per_cell,
        fits=None if text is None else lambda embeddings: measure_fits(store.model, embeddings, query),
    )


def check_words(text: Any) -> None:
    """Refuse a text without a word in it."""
    if not (isinstance(text, str) and text.strip()):
        raise InputError(f"text={text!r}: pass some words")


def query_classifier(model: SatTxt, text: Any, templates: str | Sequence[str] | None) -> Classifier:
    """What gives the probability of one text, contrasted with "none of these"."""
    check_words(text)
    return model.classifier([text], templates=templates, multi_label=True)


def search(
    rows: Rows,
    query: FloatArray,
    k: int,
    chosen: Filter,
    *,
    words: str,
    without: Collection[str] = (),
    one_per_cell: bool = False,
    fits: Callable[[FloatArray], Sequence[float | None]] | None = None,
) -> Hits:
    """The ``k`` chips that match a query vector best; never fewer than min(k, those that the filter leaves).

    Args:
        query: (D,) of length 1. words: what was asked. without: ids that are no answer.
        one_per_cell: of a grid cell's rows, at several dates, only the best.
        fits: from the (n, D) embeddings of the hits to how sure it is that the query fits each.
    """
    best = Best(query, k, one_per_cell=one_per_cell)
    exact, matches = True, 0
    if rows.index is not None:
        matches, exact = _ask(rows.index, best, query, k, chosen, rows.sql(chosen), without, one_per_cell)
    if missing := rows.scanned():
        for table, embeddings in read_blocks(rows.files, rows.items, chosen, HIT_COLUMNS, units=missing):
            matches += table.num_rows
            _add(best, table, embeddings, without)
    table, embeddings, scores = best.rows()
    if table is None:
        return Hits([], words, matches, exact, why_empty(rows, chosen))
    sure = [None] * len(scores) if fits is None else fits(embeddings)
    return Hits(make_hits(table, scores, sure, exact=exact), words, matches, exact)


def _ask(
    index: Index,
    best: Best,
    query: FloatArray,
    k: int,
    chosen: Filter,
    where: str,
    without: Collection[str],
    one_per_cell: bool,
) -> tuple[int, bool]:
    """Add the index's best rows; returns how many the filter leaves in it, and whether all were compared."""
    matches = index.count(where)
    if chosen.area is not None and matches:
        matches, read = index.inside(where, chosen, HIT_COLUMNS)
        if matches <= _FEW:  # quicker one by one than by looking at all of the area's box
            table, embeddings = read()
            _add(best, table, embeddings, without)
            return matches, True
    exact = matches <= EXACT or not index.approximate
    limit = min(k, matches) + len(without) + _MORE
    while matches:
        exact = exact or limit > _LARGEST_PROBE
        table, embeddings = index.nearest(query, where, limit, HIT_COLUMNS, exact=exact)
        complete = exact and table.num_rows < limit
        lowest = float(embeddings[-1] @ query) if len(embeddings) else -1.0
        if chosen.area is not None and table.num_rows:
            kept = np.flatnonzero(chosen.touches(table["geometry"]))
            table, embeddings = table.take(kept), embeddings[kept]
        tried = Best(query, k, one_per_cell=one_per_cell)
        _add(tried, table, embeddings, without)
        *_, scores = tried.rows()
        if complete or (len(scores) == k and (not exact or scores[-1] > lowest + _ROUNDING)):
            _add(best, table, embeddings, without)
            break
        limit *= 4
    return matches, exact


def _add(best: Best, table: Any, embeddings: FloatArray, without: Collection[str]) -> None:
    if without and table.num_rows:
        kept = np.flatnonzero(~np.isin(table["id"].to_numpy(), list(without)))
        table, embeddings = table.take(kept), embeddings[kept]
    if table.num_rows:
        best.add(table, embeddings)


def why_empty(rows: Rows, chosen: Filter) -> str:
    """Which part of a filter leaves no chips."""
    total = sum(item.rows for item in rows.items)
    if not total:
        return "the store holds no chips; add scenes to it"
    for name, alone in chosen.alone().items():
        if not any(True for _ in read_blocks(rows.files, rows.items, alone, ["id"], embeddings=False)):
            return f"{name} leaves none of the store's {total} chips"
    if chosen:
        return f"each condition leaves chips of the store's {total}, all together none: {', '.join(chosen.alone())}"
    return f"all of the store's {total} chips are examples of the query"


def embed_query(
    model: SatTxt | None,
    *,
    text: str | None,
    templates: str | Sequence[str] | None,
    image: Any,
    options: ImageOptions | None,
    like: FloatArray,
    unlike: FloatArray,
) -> FloatArray:
    """(D,) of length 1: the sum of what the text, the image and the examples ask for.

    Args:
        model: needed for a text or an image. like, unlike: (N, D) unit vectors of examples.

    Raises:
        InputError: nothing is asked for, or only what it is unlike.
    """
    parts: list[FloatArray] = []
    if text is not None and model is not None:
        chosen = parse_templates(templates) or model.config.prompt_templates
        prompts = [template.replace("{}", text) for template in chosen]
        parts.append(unit_rows(model.encode_text(prompts).mean(axis=0)))
    if image is not None and model is not None:
        vector = model.encode_image(image, options=options)
        if vector.ndim != 1:
            raise InputError("image= is several; pass one, or likes by their ids")
        parts.append(np.asarray(vector))
    if len(like):
        parts.append(_from_examples(like, unlike))
    if not parts:
        raise InputError("nothing to look for: pass a text, image= or like=")
    return unit_rows(np.sum(parts, axis=0))


def _from_examples(like: FloatArray, unlike: FloatArray) -> FloatArray:
    """(D,) of length 1: the mean of the likes, less a little of what tells the unlikes from it.

    On RESISC45 val (45 classes, each class's nearest errors as unlikes; mean average precision, 2026-12-01) with 3 + 3
    examples: 0.957 so, 0.958 by the likes alone, 0.555 by a logistic regression, which knows nothing of all the rest;
    with 1 + 1: 0.846, 0.841 and 0.402.
    """
    wanted = unit_rows(like.mean(axis=0))
    if not len(unlike):
        return wanted
    unwanted = unlike.mean(axis=0)
    return unit_rows(wanted - _UNLIKE * (unwanted - (unwanted @ wanted) * wanted))


def find_vectors(rows: Rows, ids: Sequence[str], name: str) -> FloatArray:
    """(N, D) embeddings of chips by their ids.

    Raises:
        InputError: the store has no such chip.
    """
    found: dict[str, FloatArray] = {}
    wanted = set(ids)
    items = [item for item in rows.items if any(each.rpartition("#")[0] == item.id for each in wanted)]
    for table, embeddings in read_blocks(rows.files, items, Filter(), ["id"]):
        names = table["id"].to_numpy()
        for place in np.flatnonzero(np.isin(names, list(wanted))):
            found[names[place]] = embeddings[place]
    missing = [each for each in ids if each not in found]
    if missing:
        raise InputError(f"{name}={missing[0]!r}: the store has no such chip; pass ids that a search gave")
    return np.stack([found[each] for each in ids]) if ids else np.zeros((0, 0), np.float32)


def check_ids(name: str, value: Any) -> list[str]:
    """One id or several, as a list."""
    listed = [value] if isinstance(value, str) else list(value or ())
    if not all(isinstance(each, str) for each in listed):
        raise InputError(f"{name}={value!r}: pass ids of chips, as a search gives them")
    return listed
