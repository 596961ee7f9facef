"""Real Sentinel-2 tiles and places in a store: a phrase finds what it says, a place keeps its cell at every date."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from sattxt import SatTxt
from sattxt.scenes import Store

pytestmark = pytest.mark.tiles


def unpack(archive: Path, folder: Path, *parts: str) -> Path:
    """The members of an archive that have one of ``parts`` in their names."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder, [name for name in file.namelist() if any(part in name for part in parts)])
    return folder


def test_a_phrase_finds_what_it_says(data_dir: Path, tmp_path: Path, mini: SatTxt) -> None:
    tiles = unpack(data_dir / "eurosat_ms.zip", tmp_path, "val/")
    store = Store.create(tmp_path / "store", mini, grid="pixels", bands=(4, 3, 2), stretch="sentinel2")
    report = store.add(tiles / "val", offset=0)
    assert report.rows == report.scenes == 35
    for phrase, kinds in {
        "forest": {"Forest"},
        "sea or lake": {"SeaLake"},
        "industrial buildings": {"Industrial", "Residential"},
        "houses": {"Residential"},
    }.items():
        first = store.search(phrase, k=2)
        assert {hit.item_id.split("_")[0] for hit in first} <= kinds, (phrase, first)
    hit = store.search("forest", k=1)[0]
    west, south, east, north = hit.bbox or (0, 0, 0, 0)
    assert 0 < east - west < 0.02
    assert 34 < south < north < 72  # Europe
    labels = store.classify(label_set="eurosat")
    right = [row["label"].split()[0].lower() in row["item_id"].lower() for row in labels.to_rows()]
    assert sum(right) >= 25


def test_a_place_keeps_its_cell_at_every_date(data_dir: Path, tmp_path: Path, mini: SatTxt) -> None:
    places = unpack(data_dir / "s2_places.zip", tmp_path, "SSL4EO-S12/s2a", "Major-TOM-Core")
    store = Store.create(tmp_path / "store", mini)
    report = store.add([places / "SSL4EO-S12/s2a/0000200", places / "Major-TOM-Core"])
    assert report.failures == []
    cells: dict[str, set[str]] = {}
    for table, _ in store.rows(["item_id", "grid_cell"]):
        for row in table.to_pylist():
            cells.setdefault(row["item_id"], set()).add(row["grid_cell"])
    assert len(cells) == 3
    india = [found for item, found in cells.items() if "T43RCP" in item]
    assert len(india) == 2
    assert india[0] & india[1]
    both = store.search("farmland", k=500, bbox=(70, 20, 80, 35))
    best = store.search("farmland", k=500, bbox=(70, 20, 80, 35), one_per_cell=True)
    assert len(both) == sum(map(len, india))
    assert len(best) == len(india[0] | india[1])
    june = store.search("farmland", k=500, after="2020-06", before="2020-07")
    assert 0 < len(june) < len(both)
    assert all(f"{hit.start_datetime:%Y-%m}" == "2020-06" for hit in june)
