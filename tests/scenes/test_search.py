"""Search: the planner against brute force, with an index and without; filters, examples, and what is told."""

from __future__ import annotations

import json
import logging
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_files import add_item, make_store, squares, unit_vectors

from sattxt.errors import InputError, MissingExtraError, StoreError
from sattxt.scenes import index as indexing
from sattxt.scenes import search as searching
from sattxt.scenes.filters import make_filter
from sattxt.scenes.store import Store

QUERY = "scene-1#r0_c7"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """300 chips around the Earth, without an index."""
    return make_store(tmp_path_factory.mktemp("plain") / "store", items=6, side=6.0)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same, with an index."""
    store = make_store(tmp_path_factory.mktemp("indexed") / "store", items=6, side=6.0)
    store.index()
    return store


def everything(store: Store) -> tuple[list[dict[str, Any]], np.ndarray]:
    blocks = list(store.rows())
    return [row for table, _ in blocks for row in table.to_pylist()], np.concatenate([rows for _, rows in blocks])


def brute_force(store: Store, query: np.ndarray, where: dict[str, Any]) -> list[str]:
    """Ids, best first, of what a filter leaves, by plain geometry and arithmetic."""
    rows, vectors = everything(store)
    scores = vectors.astype(np.float64) @ query
    kept = []
    for row, score in zip(rows, scores, strict=True):
        shape = shapely.from_wkb(row["geometry"])
        if (box := where.get("bbox")) is not None:
            west, south, east, north = box
            sides = [(west, east)] if west <= east else [(west, 180), (-180, east)]
            if not any(shape.intersects(shapely.box(w, south, e, north)) for w, e in sides):
                continue
        if (area := where.get("within")) is not None and not shape.intersects(area):
            continue
        if (after := where.get("after")) and not (row["end_datetime"] and row["end_datetime"] >= moment(after)):
            continue
        if (before := where.get("before")) and not (row["start_datetime"] and row["start_datetime"] < moment(before)):
            continue
        kept.append((-round(float(score), 7), row["id"]))
    return [name for _, name in sorted(kept)]


def moment(text: str) -> datetime:
    year, month = map(int, text.split("-"))
    return datetime(year, month, 1, tzinfo=timezone.utc)


def vector_of(store: Store, chip: str) -> np.ndarray:
    rows, vectors = everything(store)
    vector = vectors[[row["id"] for row in rows].index(chip)].astype(np.float64)
    return vector / np.linalg.norm(vector)


boxes = st.tuples(st.floats(-180, 180), st.floats(-90, 60), st.floats(-180, 180), st.floats(0, 80)).map(
    lambda box: (box[0], box[1], box[2], min(90.0, box[1] + box[3]))
)
polygons = boxes.filter(lambda box: box[2] - box[0] > 1 and box[3] - box[1] > 1).map(
    lambda box: shapely.Polygon([(box[0], box[1]), (box[2], box[1]), (box[0], box[3])])
)
months = st.sampled_from(["2023-12", "2024-01", "2024-02", "2024-03", "2024-05", "2024-07"])
wheres = st.fixed_dictionaries({}, optional={"bbox": boxes, "within": polygons, "after": months, "before": months})


@given(where=wheres, k=st.integers(1, 40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_planner_and_scan_agree_with_brute_force(plain: Store, indexed: Store, where: dict[str, Any], k: int) -> None:
    if where.get("after", "") >= where.get("before", "9"):
        del where["after"]
    expected = [name for name in brute_force(plain, vector_of(plain, QUERY), where) if name != QUERY]
    for store in (plain, indexed):
        hits = store.search(like=QUERY, k=k, **where)
        assert hits.ids == expected[:k]
        assert hits.exact
        assert hits.matches in (len(expected), len(expected) + 1)
        assert (hits.note is None) == bool(hits)


def test_the_vector_index_gives_never_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(indexing, "VECTOR_INDEX_FROM", 8_000)
    monkeypatch.setattr(searching, "EXACT", 2_000)
    store = make_store(tmp_path / "store", items=2, chips=5_000)
    store.index()
    every = store.search(like="scene-0#r0_c3", k=10)
    assert (len(every), every.exact, every.matches) == (10, False, 10_000)
    assert not any(hit.exact for hit in every)
    expected = brute_force(store, vector_of(store, "scene-0#r0_c3"), {})[1:11]
    caplog.clear()
    shutil.move(tmp_path / "store" / "index", tmp_path)
    scanned = store.search(like="scene-0#r0_c3", k=10)
    assert (scanned.ids, scanned.exact) == (expected, True)
    assert "has no index, so all 10000 chips are scanned" in caplog.text
    shutil.move(tmp_path / "index", tmp_path / "store")
    assert len(set(every.ids) & set(expected)) >= 4  # its cells are drawn anew each time
    box = (-60.0, -80.0, -30.0, 80.0)
    few = store.search(like="scene-0#r0_c3", k=10, bbox=box)
    assert few.exact
    assert few.ids == brute_force(store, vector_of(store, "scene-0#r0_c3"), {"bbox": box})[:10]
    area = shapely.box(-170, -85, 170, 85)
    wide = store.search(like="scene-0#r0_c3", k=3000, within=area, one_per_cell=True)
    assert len(wide) == 3000
    corner = shapely.Polygon([(-180, -90), (180, -90), (-180, -60)])
    inside = store.search(like="scene-0#r0_c3", k=10, within=corner)
    assert inside.exact
    assert inside.ids == brute_force(store, vector_of(store, "scene-0#r0_c3"), {"within": corner})[:10]


def test_of_a_cell_only_the_best_date(plain: Store, indexed: Store) -> None:
    for store in (plain, indexed):
        hits = store.search(like=QUERY, k=40, one_per_cell=True)
        cells = [hit.grid_cell for hit in hits]
        assert len(cells) == len(set(cells)) == 40
        best: dict[str, str] = {}
        for name in brute_force(store, vector_of(store, QUERY), {}):
            if name != QUERY:
                best.setdefault(name.split("#")[1], name)
        assert hits.ids == list(best.values())[:40]


def test_equal_scores_are_ordered_by_id(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", items=0)
    add_item(store, "same", np.tile(unit_vectors(1), (200, 1)), squares(200), None)
    add_item(store, "asked", unit_vectors(1), squares(1), None)
    expected = [f"same#{cell}" for cell in sorted(f"r0_c{place}" for place in range(200))][:30]
    assert store.search(like="asked#r0_c0", k=30).ids == expected
    store.index()
    assert store.search(like="asked#r0_c0", k=30).ids == expected


def test_what_the_index_lacks_is_scanned_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = make_store(tmp_path / "store", items=3)
    report = store.index()
    assert (report.added, report.removed, report.rows) == (150, 0, 150)
    add_item(store, "new", unit_vectors(20, seed=9), squares(20, seed=9), None)
    add_item(store, "scene-0", unit_vectors(30, seed=8), squares(30, seed=8), None)  # its source changed
    with caplog.at_level(logging.WARNING):
        hits = store.search(like="new#r0_c0", k=200)
    assert "the index lacks 2 of 4 units" in caplog.text
    assert hits.ids == brute_force(store, vector_of(store, "new#r0_c0"), {})[1:]
    report = store.index()
    assert (report.added, report.removed, report.rows) == (50, 50, 150)
    assert store.search(like="new#r0_c0", k=200).ids == hits.ids
    assert store.index().added == 0


def test_without_lancedb_the_answers_are_the_same(indexed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = indexed.search(like=QUERY, k=15).to_rows()
    original = indexing.import_extra

    def missing(module: str, *rest: str) -> Any:
        if module.startswith("lancedb"):
            raise MissingExtraError("search", "lancedb", "the index")
        return original(module, *rest)

    monkeypatch.setattr(indexing, "import_extra", missing)
    assert indexed.search(like=QUERY, k=15).to_rows() == expected
    with pytest.raises(MissingExtraError, match="sattxt\\[search\\]"):
        indexed.index()


def test_an_int8_store_answers_the_same_with_an_index(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", stored="int8")
    scanned = store.search(like=QUERY, k=30).to_rows()
    store.index()
    assert store.search(like=QUERY, k=30).to_rows() == scanned


def test_likes_and_unlikes(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", items=0)
    chance = np.random.default_rng(0)
    common, wanted, unwanted = np.eye(16)[:3]
    good, bad = (common + side + 0.3 * chance.standard_normal((60, 16)) for side in (0.6 * wanted, 0.6 * unwanted))
    for name, vectors in (("good", good), ("bad", bad)):
        rows = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        add_item(store, name, rows, squares(60), None)
    likes, unlikes = ([f"{name}#r0_c{place}" for place in range(5)] for name in ("good", "bad"))

    def right(**query: Any) -> int:
        return sum(name.startswith("good") for name in store.search(k=40, **query).ids)

    for count in (1, 3):
        assert right(like=likes[:count]) < right(like=likes[:count], unlike=unlikes[:count])
    assert not {*likes, *unlikes} & set(store.search(like=likes, unlike=unlikes, k=200).ids)


def test_no_hits_say_which_filter_left_none(plain: Store) -> None:
    empty = plain.search(like=QUERY, bbox=(0.0, 89.0, 0.1, 90.0), after="2024-01")
    assert (list(empty), empty.matches, empty.exact) == ([], 0, True)
    assert empty.note == "the bbox leaves none of the store's 300 chips"
    assert "the period (after 2030-01-01) leaves none" in (plain.search(like=QUERY, after="2030").note or "")
    assert str(empty).startswith("no hits: the bbox")


def test_hits_open_in_a_gis(plain: Store, tmp_path: Path) -> None:
    hits = plain.search(like=QUERY, k=8)
    written = hits.to_geojson(tmp_path / "hits.geojson")
    assert json.loads((tmp_path / "hits.geojson").read_text()) == written
    frame = geopandas.read_file(tmp_path / "hits.geojson")
    assert list(frame["id"]) == hits.ids
    rows, _ = everything(plain)
    shapes = {row["id"]: shapely.from_wkb(row["geometry"]) for row in rows}
    assert all(shape.equals(shapes[name]) for name, shape in zip(frame["id"], frame.geometry, strict=True))
    assert frame["score"].is_monotonic_decreasing


def test_polygons_from_files(plain: Store, tmp_path: Path) -> None:
    area = shapely.Polygon([(-100, -50), (50, -60), (20, 70)])
    expected = plain.search(like=QUERY, within=area, k=300).ids
    assert 0 < len(expected) < 299
    collection = geopandas.GeoDataFrame(geometry=[area], crs="EPSG:4326")
    collection.to_file(tmp_path / "area.geojson")
    collection.to_crs("EPSG:3857").to_file(tmp_path / "area.gpkg")
    assert plain.search(like=QUERY, within=tmp_path / "area.geojson", k=300).ids == expected
    assert plain.search(like=QUERY, within=json.loads(collection.to_json()), k=300).ids == expected
    assert set(plain.search(like=QUERY, within=tmp_path / "area.gpkg", k=300).ids) ^ set(expected) <= set()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({}, "nothing to look for: pass a text, image= or like="),
        ({"unlike": QUERY}, "nothing to look for"),
        ({"text": " "}, "pass some words"),
        ({"like": "scene-0#nowhere"}, "the store has no such chip"),
        ({"like": [3]}, "pass ids of chips"),
        ({"like": QUERY, "k": 0}, "pass a whole number"),
        ({"like": QUERY, "bbox": (1, 2, 3)}, "pass west, south, east, north"),
        ({"like": QUERY, "bbox": (0, 50, 10, 40)}, "south at most north"),
        ({"like": QUERY, "after": "soon"}, "pass a year, month, day"),
        ({"like": QUERY, "after": "2024-05", "before": "2024-04"}, "pass an earlier after="),
        ({"like": QUERY, "within": "nothing.geojson"}, "no such file"),
        ({"like": QUERY, "within": shapely.Point(0, 0)}, "holds no polygon"),
        ({"like": QUERY, "within": shapely.box(0, 0, 500000, 10)}, "no degrees"),
    ],
)
def test_what_means_nothing_is_refused(plain: Store, query: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        plain.search(**query)


def test_dates_are_the_start_of_what_they_name() -> None:
    chosen = make_filter(after="2024-05", before=datetime(2024, 9, 1))
    assert chosen.after == datetime(2024, 5, 1, tzinfo=timezone.utc)
    assert chosen.before == datetime(2024, 9, 1, tzinfo=timezone.utc)
    assert make_filter(after="2024-05-17T10:00:00+02:00").after == datetime(2024, 5, 17, 8, tzinfo=timezone.utc)


def test_a_damaged_index_says_what_to_remove(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", items=1)
    store.index()
    for file in (tmp_path / "store" / "index").rglob("*.manifest"):
        file.write_bytes(b"nothing")
    with pytest.raises(StoreError, match=r"the index is damaged .* remove this folder"):
        store.search(like="scene-0#r0_c1")
