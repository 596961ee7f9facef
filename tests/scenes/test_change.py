"""Change: pasted changes are found where they are, and what scenes have in common is none."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from rasters import write_raster
from store_files import add_item, make_store, squares, unit_vectors

from sattxt import SatTxt
from sattxt.cli.app import run
from sattxt.errors import InputError
from sattxt.scenes import Changes, Store

SIDE = 6  # cells of 64 pixels
PASTED = [(1, 1), (1, 2), (2, 1), (2, 2)]  # rows and columns of cells


@pytest.fixture(scope="module")
def before_and_after(data_dir: Path, mini: SatTxt, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Fields in Thailand, and a year later the same, hazier and noisier, with four factories and a lake pasted in."""
    folder = tmp_path_factory.mktemp("change")
    with zipfile.ZipFile(data_dir / "s2_places.zip") as places, zipfile.ZipFile(data_dir / "eurosat_rgb.zip") as tiles:
        bands = []
        for band in ("B04", "B03", "B02"):
            (name,) = (n for n in places.namelist() if n.startswith("Major-TOM") and n.endswith(f"{band}.tif"))
            with rasterio.open(io.BytesIO(places.read(name))) as file:
                bands.append(file.read(1)[: 64 * SIDE, 100 : 100 + 64 * SIDE].astype(np.float32))

        def tile(kind: str, number: int) -> np.ndarray:
            names = sorted(n for n in tiles.namelist() if n.startswith(f"val/{kind}/") and n.endswith(".jpg"))
            return np.asarray(Image.open(io.BytesIO(tiles.read(names[number])))).transpose(2, 0, 1)

        real = np.stack(bands)
        hazier = real * 1.06 + 60 + np.random.default_rng(0).normal(0, 15, real.shape)
        then, now = (np.clip(values / 2750 * 255, 0, 255).astype(np.uint8) for values in (real, hazier))
        for number, (row, column) in enumerate(PASTED):
            now[:, 64 * row : 64 * row + 64, 64 * column : 64 * column + 64] = tile("Industrial", number)
        now[:, 64 * 5 :, 64 * 5 :] = tile("SeaLake", 0)
    place: dict[str, Any] = {"transform": rasterio.Affine(10, 0, 640_000, 0, -10, 1_990_400), "crs": "EPSG:32648"}
    store = Store.create(folder / "store", mini, chip=64)
    for name, pixels, when in (("then", then, "2019:02:01 10:00:00"), ("now", now, "2020:02:20 10:00:00")):
        store.add(write_raster(folder / f"{name}.tif", pixels=pixels, tags={"TIFFTAG_DATETIME": when}, **place))
    return store


def cells_of(places: list[tuple[int, int]]) -> set[str]:
    return {f"32648/640/{1000 + column}_{3109 - row}" for row, column in places}


@pytest.mark.parametrize("text", ["industrial buildings", None])
def test_what_was_pasted_is_found_and_nothing_else(before_and_after: Store, text: str | None) -> None:
    found = before_and_after.change(text, before="2019", after="2020")
    assert found.table.num_rows == SIDE**2
    areas = {area.kind: area for area in found if len(area.cells) > 1}
    kind = "changed" if text is None else "appeared"
    assert set(areas[kind].cells) == cells_of(PASTED)
    assert {cell for area in found for cell in area.cells} == cells_of([*PASTED, (5, 5)] if text is None else PASTED)
    assert (str(areas[kind].start), str(areas[kind].end)) == ("2019-02-01", "2020-02-20")
    assert areas[kind].z > 6
    if text is not None:
        assert areas[kind].before < 0.3 < 0.7 < areas[kind].after


def test_what_goes_disappears(before_and_after: Store, tmp_path: Path, mini: SatTxt) -> None:
    """The same two scenes, the other way round in time."""
    store = Store.create(tmp_path / "store", mini, chip=64)
    for item, when in zip(before_and_after.items, ("2019:02:01", "2020:02:01"), strict=True):  # "now" comes first
        with rasterio.open(item.source) as file:
            tags = {"TIFFTAG_DATETIME": f"{when} 10:00:00"}
            place = {"transform": file.transform, "crs": "EPSG:32648"}
            store.add(write_raster(tmp_path / f"{item.id}.tif", pixels=file.read(), tags=tags, **place))
    (area,) = store.change("industrial buildings", before="2019", after="2020")
    assert (area.kind, set(area.cells)) == ("disappeared", cells_of(PASTED))
    assert area.z < -6


@pytest.mark.parametrize("suffix", [".geojson", ".parquet", ".gpkg", ".fgb"])
def test_polygons_lie_where_the_change_is(before_and_after: Store, tmp_path: Path, suffix: str) -> None:
    found = before_and_after.change("industrial buildings", before="2019", after="2020")
    path = found.save(tmp_path / f"change{suffix}")
    frame = geopandas.read_parquet(path) if suffix == ".parquet" else geopandas.read_file(path)
    assert list(frame["kind"]) == ["appeared"]
    assert list(frame["query"]) == ["industrial buildings"]
    expected = shapely.box(640_640, 1_990_400 - 3 * 640, 640_640 + 1280, 1_990_400 - 640)
    drawn = frame.to_crs("EPSG:32648").geometry[0]
    assert drawn.symmetric_difference(expected).area < 1e-4 * expected.area
    assert frame["area_m2"][0] == pytest.approx(1280**2, rel=2e-3)  # UTM's own scale is off by as much
    with pytest.raises(InputError, match="is there already"):
        found.save(path)


@pytest.mark.parametrize("level", ["s2a", "s2c"])
def test_two_real_dates(data_dir: Path, mini: SatTxt, tmp_path: Path, level: str) -> None:
    """A monsoon apart: nearly all cells have changed alike, which is no news."""
    with zipfile.ZipFile(data_dir / "s2_places.zip") as places:
        names = [n for n in places.namelist() if f"/{level}/" in n and n.endswith(".tif")]
        places.extractall(tmp_path, names)
    store = Store.create(tmp_path / "store", mini, chip=32)
    for folder in sorted((tmp_path / "SSL4EO-S12" / level / "0000200").iterdir()):
        store.add(folder)
    periods = {"before": "2020-06", "after": ("2020-08-01", "2020-09-01")}
    with pytest.raises(InputError, match=r"56 cells are in both periods, none within 45 days of season"):
        store.change("river", **periods)
    for text in (None, "river", "bare soil"):
        found = store.change(text, season=None, **periods)
        assert found.table.num_rows == 56
        assert sum(len(area.cells) for area in found) <= 5


def fields(count: int) -> tuple[np.ndarray, np.ndarray]:
    return unit_vectors(count, seed=1), squares(count, seed=1, side=0.006)


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def test_a_cell_with_a_past_is_held_against_it(tmp_path: Path) -> None:
    """Half of the fields are green every summer and brown every winter; that they are green again is no change."""
    store = make_store(tmp_path / "store", items=0)
    brown, rings = fields(40)
    green = np.roll(brown, 7, axis=1)
    green[20:] = brown[20:]
    for year in (2018, 2019, 2020):
        add_item(store, f"winter{year}", brown, rings, day(f"{year}-01-10"))
        add_item(store, f"summer{year}", green, rings, day(f"{year}-07-10"))
    later = green.copy()
    later[:3] = unit_vectors(3, seed=99)
    add_item(store, "later", later, rings, day("2021-07-01"))
    found = store.change(before=("2018", "2021"), after="2021")
    assert set(found.table["dates"].to_pylist()) == {6}
    rows = {row["grid_cell"]: row for row in found.table.to_pylist()}
    assert {cell for cell, row in rows.items() if abs(row["z"]) > 3} <= {"r0_c0", "r0_c1", "r0_c2"}
    two = store.change(before=("2020", "2021"), after="2021", season=None)
    assert set(two.table["dates"].to_pylist()) == {1}


def test_the_clearest_pair_of_a_season_is_compared(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", items=0)
    vectors, rings = fields(30)
    for name, when in (("a", "2019-06-01"), ("b", "2019-12-28"), ("c", "2020-01-04"), ("d", "2020-03-01")):
        add_item(store, name, vectors, rings, day(when))

    def pairs(**options: Any) -> set[tuple[str, str]]:
        rows = store.change(before="2019", after="2020", **options).table.to_pylist()
        return {(row["before_id"].split("#")[0], row["after_id"].split("#")[0]) for row in rows}

    assert pairs() == {("b", "c")}  # a week apart, over the new year
    assert pairs(season=400) == {("b", "c")}
    assert {before for before, _ in pairs(season=None)} == {"b"}
    with pytest.raises(InputError, match="none within 3 days"):
        pairs(season=3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"before": "2024", "after": "2023"}, "pass periods one after another"),
        ({"before": "2019", "after": "2024"}, "before: the store has no chips from 2019-01-01 to 2020-01-01"),
        ({"before": ("2024-03", "2024-01"), "after": "2025"}, "its end is not after its start"),
        ({"before": "soon", "after": "2025"}, "pass a year, month, day"),
        ({"before": ("2024",), "after": "2025"}, "pass a period"),
        ({"before": "2024-01", "after": "2024-02", "season": -1}, "pass days"),
        ({"before": "2024-01", "after": "2024-02", "text": " "}, "pass some words"),
        ({"before": "2024-01", "after": "2024-02", "bbox": (0, 89.9, 1, 90)}, "no chips from 2024-01-01 to 2024-02-01"),
        ({"before": "2024-01", "after": "2024-02"}, "have no grid cell in common"),
    ],
)
def test_what_means_nothing_is_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    store = make_store(tmp_path / "store")
    store._model = object()  # type: ignore[assignment]  # not asked
    with pytest.raises(InputError, match=says):
        store.change(options.pop("text", None), **options)


def test_images_without_a_place_are_refused(tmp_path: Path, model: SatTxt) -> None:
    store = Store.create(tmp_path / "store", model, grid="pixels", chip=32)
    for year in (2019, 2020):
        path = write_raster(tmp_path / f"{year}.tif", crs=None, transform=rasterio.Affine.identity(),
                            tags={"TIFFTAG_DATETIME": f"{year}:05:01 00:00:00"})  # fmt: skip
        store.add(path)
    with pytest.raises(InputError, match="without georeference cannot be compared"):
        store.change(before="2019", after="2020")


def test_command_line(before_and_after: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = before_and_after.path, tmp_path / "change.geojson"
    periods = ["--before", "2019", "--after", "2020-01,2020-06"]
    assert run(["change", store, "industrial buildings", *periods, "-o", str(out), "--json"]) == 0
    told = capsys.readouterr()
    (row,) = (json.loads(line) for line in told.out.splitlines())
    assert (row["kind"], row["cells"], row["end"]) == ("appeared", 4, "2020-02-20")
    assert "1 areas of 36 cells compared" in told.err
    assert len(geopandas.read_file(out)) == 1
    assert run(["change", store, *periods, "--season", "none"]) == 0
    assert "changed" in capsys.readouterr().out
    assert run(["change", store, *periods, "-o", str(out)]) == 2
    assert run(["change", store, *periods, "-o", str(tmp_path / "change.shp")]) == 2
    assert run(["change", store, *periods, "--season", "3"]) == 2
    assert "pass --season None or more days" in capsys.readouterr().err


def test_no_change_is_an_empty_list(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", items=0)
    vectors, rings = fields(30)
    add_item(store, "a", vectors, rings, day("2019-06-01"))
    add_item(store, "b", vectors, rings, day("2020-06-01"))
    found = store.change(before="2019", after="2020")
    assert isinstance(found, Changes)
    assert list(found) == found.to_rows() == []
    assert str(found) == "of 30 cells compared"
    assert len(geopandas.read_file(found.save(tmp_path / "none.geojson"))) == 0
