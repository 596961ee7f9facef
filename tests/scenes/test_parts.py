"""Parts: GeoParquet that other readers open, the same bytes for the same rows, and damage that is noticed."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import geoparquet_validator
import numpy as np
import pytest
from pyarrow import parquet
from store_files import squares, unit_vectors

from sattxt.errors import StoreError
from sattxt.scenes.parts import build_table, footprints, read_facts, read_part, write_part

WIDTH, COUNT = 32, 300


def rows(rings: np.ndarray | None = None, **changes: Any) -> Any:
    rings = squares(COUNT) if rings is None else rings
    given = {
        "item_id": "scene",
        "source": "/data/scene.tif",
        "start": datetime(2024, 5, 17, 10, 30, tzinfo=timezone.utc),
        "end": datetime(2024, 5, 17, 10, 31, tzinfo=timezone.utc),
        "crs": "EPSG:32633",
        "gsd": 10.0,
        "cells": [f"r0_c{place}" for place in range(len(rings))],
        "pixel_bbox": np.arange(4 * len(rings), dtype=np.int32).reshape(-1, 4),
        "corners": rings,
        "hilbert": np.arange(len(rings)),
        "valid": np.linspace(0.9, 1, len(rings), dtype=np.float32),
        "cloud": None,
    }
    return build_table(**{**given, **changes})


def part(stored: str = "float16", table: Any = None) -> bytes:
    table = rows() if table is None else table
    emb = {"emb:type": "chip", "emb:dimensions": WIDTH, "data_type": stored}
    vectors = unit_vectors(table.num_rows, width=WIDTH)
    return write_part(table, vectors, stored=stored, unit="u" * 16, store="s" * 16, emb=emb)  # type: ignore[arg-type]


@pytest.mark.parametrize(("stored", "least"), [("float16", 0.99999), ("int8", 0.9997)])
def test_rows_and_embeddings_come_back(stored: str, least: float) -> None:
    table, vectors = read_part(part(stored))
    assert table.equals(rows())
    assert vectors.dtype == np.float32
    given = unit_vectors(COUNT, width=WIDTH)
    assert ((given * vectors).sum(axis=1) / np.linalg.norm(vectors, axis=1)).min() > least
    facts = read_facts(part(stored))
    assert (facts.unit, facts.store, facts.rows, facts.dimensions, facts.stored) == (
        "u" * 16,
        "s" * 16,
        COUNT,
        WIDTH,
        stored,
    )


def test_equal_rows_give_equal_bytes() -> None:
    assert part() == part()


def test_only_the_columns_asked_for_are_read() -> None:
    table, vectors = read_part(part(), ["id", "valid"], embeddings=False)
    assert table.schema.names == ["id", "valid"]
    assert vectors.shape == (COUNT, 0)


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_it_is_geoparquet(stored: str) -> None:
    report = geoparquet_validator.check_bytes("part", part(stored))
    assert geoparquet_validator.failed(report) == []
    passed = {outcome["id"] for outcome in report["outcomes"] if outcome["status"] == "pass"}
    assert {"/conf/core/geo-metadata", "/conf/core/wkb", "/conf/covering/bbox-paths"} <= passed


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_other_readers_open_it(tmp_path: Path, stored: str) -> None:
    path = tmp_path / "part.parquet"
    path.write_bytes(part(stored))
    frame = geopandas.read_parquet(path)
    assert frame.crs == "OGC:CRS84"
    assert frame.geometry.is_valid.all()
    west, south, east, north = frame.geometry.iloc[5].bounds
    boxed = geopandas.read_parquet(path, bbox=(west - 1, south - 1, east + 1, north + 1))
    assert "scene#r0_c5" in set(boxed["id"])
    assert len(boxed) < COUNT
    found = duckdb.sql(f"SELECT id, embedding, pixel_bbox, start_datetime FROM '{path}' ORDER BY hilbert").fetchall()
    assert [row[0] for row in found] == list(frame["id"])
    assert len(found[0][1]) == WIDTH
    assert list(found[1][2]) == [4, 5, 6, 7]
    assert found[0][3] == datetime(2024, 5, 17, 10, 30, tzinfo=timezone.utc)
    keys = parquet.read_metadata(path).metadata
    emb = json.loads(keys[b"emb"])
    assert emb["emb:dimensions"] == WIDTH
    assert json.loads(keys[b"sattxt"])["unit"] == "u" * 16
    if stored == "int8":
        scale = emb["emb:quantization"]["scale"][0]
        assert np.allclose(np.array(found[0][1]) * scale, unit_vectors(COUNT, width=WIDTH)[0], atol=scale)


def test_chips_over_the_antimeridian_are_two_polygons() -> None:
    import shapely

    ring = [(179.9, 10), (-179.9, 10), (-179.9, 11), (179.9, 11), (179.9, 10)]
    world = [(-180, -90), (180, -90), (180, 90), (-180, 90), (-180, -90)]
    touching = [(179.0, 10), (180.0, 10), (180.0, 11), (179.0, 11), (179.0, 10)]
    shapes, boxes = footprints(np.array([ring, world, touching], dtype=np.float64))
    crossing, whole, edge = shapely.from_wkb(shapes)
    assert crossing.geom_type == "MultiPolygon"
    assert crossing.area == pytest.approx(0.2)
    assert boxes[0].tolist() == [-180, 10, 180, 11]
    assert (whole.geom_type, whole.area) == ("Polygon", 360 * 180)
    assert (edge.geom_type, edge.bounds) == ("Polygon", (179, 10, 180, 11))


def test_images_without_georeference_have_no_geometry() -> None:
    table, _ = read_part(part(table=rows(np.full((3, 5, 2), np.nan), crs=None, start=None, end=None)))
    for name in ("geometry", "bbox", "crs", "start_datetime", "cloud"):
        assert table[name].null_count == 3
    assert read_facts(part(table=table)).bounds is None


def test_a_part_without_rows_is_one() -> None:
    table, vectors = read_part(part(table=rows(np.zeros((0, 5, 2)))))
    assert table.num_rows == 0
    assert vectors.shape == (0, WIDTH)


def test_damage_is_noticed(tmp_path: Path) -> None:
    whole = part()
    path = tmp_path / "part.parquet"
    path.write_bytes(whole[:-100])
    with pytest.raises(StoreError, match=r"part\.parquet: is damaged .* add its scene again"):
        read_facts(path)
    damaged = bytearray(whole)
    middle = len(whole) // 2
    damaged[middle] ^= 0xFF
    with pytest.raises(StoreError, match="damaged"):
        read_part(bytes(damaged), verify=True)
    with pytest.raises(StoreError, match="is missing"):
        read_facts(tmp_path / "nothing.parquet")
    other = tmp_path / "other.parquet"
    parquet.write_table(rows(), other)
    with pytest.raises(StoreError, match="no part of a store"):
        read_facts(other)
