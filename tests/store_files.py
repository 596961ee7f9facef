"""Stores of made-up chips: places and embeddings without a scene or a model."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from sattxt.scenes.files import open_files
from sattxt.scenes.parts import build_table, read_facts, write_part
from sattxt.scenes.records import ItemRecord, PartRecord, emb_fields, file_name, write_item
from sattxt.scenes.settings import StoreSettings
from sattxt.scenes.store import Store

WIDTH = 16


def settings(**changes: Any) -> StoreSettings:
    given = {"model": "made-up", "location": None, "package": "0.1.0", "fingerprint": "0" * 16, "backend": "torch"}
    return StoreSettings(**{**given, "precision": "float32", "dimensions": WIDTH, **changes})


def unit_vectors(count: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def squares(count: int, seed: int = 0, side: float = 0.01, west: float = -180, east: float = 180) -> np.ndarray:
    """(count, 5, 2) rings anywhere on Earth, some over the antimeridian."""
    chance = np.random.default_rng(seed + 1)
    x, y = chance.uniform(west, east, count), chance.uniform(-80, 80, count)
    ring = np.array([(0, 0), (side, 0), (side, side), (0, side), (0, 0)])
    rings = np.stack([x, y], axis=1)[:, None] + ring
    rings[..., 0] = (rings[..., 0] + 180) % 360 - 180
    return rings


def add_item(store: Store, item_id: str, vectors: np.ndarray, rings: np.ndarray, when: datetime | None) -> None:
    """Commit a scene of made-up chips; cells are counted."""
    count = len(vectors)
    unit = hashlib.sha256(f"{item_id} {count}".encode()).hexdigest()[:16]
    table = build_table(
        item_id=item_id,
        source=f"/scenes/{item_id}.tif",
        start=when,
        end=when,
        crs="EPSG:32633",
        gsd=10.0,
        cells=[f"r0_c{place}" for place in range(count)],
        pixel_bbox=np.tile(np.array([0, 0, 64, 64], np.int32), (count, 1)),
        corners=rings,
        hilbert=np.arange(count),
        valid=np.ones(count, np.float32),
        cloud=None,
    )
    own = store.settings
    content = write_part(table, vectors, stored=own.stored, unit=unit, store=own.key, emb=emb_fields(own))
    part = f"parts/{file_name(item_id)}/{unit}.parquet"
    store.files.write(part, content)
    record = ItemRecord(
        item_id, f"/scenes/{item_id}.tif", "s", when, when, read_facts(content).bounds, (PartRecord(unit, part, count),)
    )
    store.files.write(f"items/{file_name(item_id)}.json", write_item(record, own, rings, 10.0))


def make_store(path: Path | str, items: int = 4, chips: int = 50, side: float = 0.01, **changes: Any) -> Store:
    """A store of ``items`` scenes a month apart (the last without a date) of ``chips`` chips each."""
    files = open_files(path)
    files.write("store.json", settings(**changes).to_json())
    store = Store.open(path)
    for place in range(items):
        when = None if place == items - 1 else datetime(2024, 1, 15, tzinfo=timezone.utc) + timedelta(days=30 * place)
        vectors = unit_vectors(chips, seed=place, width=store.settings.dimensions)
        add_item(store, f"scene-{place}", vectors, squares(chips, seed=place, side=side), when)
    return store


def write_scene(
    path: Path,
    seed: int = 0,
    size: tuple[int, int] = (96, 80),
    east: float = 0,
    when: str | None = "2024:05:17 10:30:00",
    **profile: Any,
) -> Path:
    """A GeoTIFF of smooth colours, ``size`` columns and rows of 10 m, ``east`` metres from a corner of the grid."""
    import rasterio
    from rasterio.transform import from_origin

    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 12, 12), dtype=np.uint8)
    columns, rows = (np.arange(side) * 12 // side for side in size)
    values = coarse[:, rows][:, :, columns]
    shape = {"width": size[0], "height": size[1], "count": 3, "dtype": "uint8"}
    place = {"crs": "EPSG:32633", "transform": from_origin(500_000 + east, 5_000_000, 10, 10)}
    with rasterio.open(path, "w", driver="GTiff", **{**shape, **place, **profile}) as file:
        file.write(values)
        if when is not None:
            file.update_tags(TIFFTAG_DATETIME=when)
    return path


def all_rows(store: Store) -> dict[str, tuple[Any, ...]]:
    """Every row by its id, embedding included."""
    found: dict[str, tuple[Any, ...]] = {}
    for table, vectors in store.rows():
        for row, vector in zip(table.to_pylist(), vectors, strict=True):
            assert row["id"] not in found, f"{row['id']} is there twice"
            found[row["id"]] = (*((k, str(v)) for k, v in row.items()), vector.tobytes())
    return found
