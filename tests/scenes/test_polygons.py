"""Polygons in files: every format read back by the libraries that GIS are built on."""

from __future__ import annotations

import errno
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from rasterio.crs import CRS

from sattxt.errors import DiskFullError, InputError, MissingExtraError
from sattxt.scenes.polygons import POLYGON_SUFFIXES, write_polygons

SHAPES = [
    shapely.Polygon([(0, 0), (0, 1), (1, 1), (1, 0)]),  # clockwise
    shapely.MultiPolygon([shapely.box(2, 2, 3, 3), shapely.box(4, 4, 5, 5)]),
    shapely.Polygon(shapely.box(10, -5, 16, 1).exterior, [shapely.box(11, -4, 12, -3).exterior]),
]
COLUMNS: dict[str, list[Any]] = {
    "label": ["water", 'Wald, "dicht"', "ü"],
    "prob": [0.5, None, float("nan")],
    "area_m2": [np.float64(1e6), np.float32(2), 3],
    "from": [datetime(2020, 2, 23, 3, 44, tzinfo=UTC), None, None],
    "note": [None, None, None],
}


def read(path: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)


@pytest.mark.parametrize("suffix", POLYGON_SUFFIXES)
def test_what_is_written_is_read_back(suffix: str, tmp_path: Path) -> None:
    path = write_polygons(tmp_path / f"areas{suffix}", SHAPES, COLUMNS)

    found = read(path).sort_values("area_m2", ascending=False, ignore_index=True)
    found = found.iloc[[0, 2, 1]].reset_index(drop=True)
    assert found.crs.equals("OGC:CRS84") or found.crs.equals("EPSG:4326")
    assert found["label"].tolist() == COLUMNS["label"]
    assert found["area_m2"].tolist() == [1e6, 2, 3]
    assert found["prob"][0] == 0.5
    assert found["prob"][1:].isna().all()
    assert found["from"][0] == COLUMNS["from"][0]
    assert found["from"][1:].isna().all()
    assert found["note"].isna().all()
    for shape, expected in zip(found.geometry, SHAPES, strict=True):
        assert shape.equals(expected)
    assert [each for each in tmp_path.iterdir() if each != path] == []


@pytest.mark.parametrize("suffix", POLYGON_SUFFIXES)
def test_no_polygons_are_a_file_too(suffix: str, tmp_path: Path) -> None:
    path = write_polygons(tmp_path / f"none{suffix}", [], {"label": [], "prob": []})
    assert len(read(path)) == 0


def test_geojson_keeps_to_its_rules(tmp_path: Path) -> None:
    path = write_polygons(tmp_path / "areas.geojson", SHAPES, COLUMNS)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    features = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)["features"]
    assert [feature["properties"]["prob"] for feature in features] == [0.5, None, None]
    assert features[0]["properties"]["from"] == "2020-02-23T03:44:00Z"
    assert all(shapely.is_ccw(shapely.geometry.shape(features[i]["geometry"]).exterior) for i in (0, 2))


def test_geoparquet_is_1_1_and_can_be_asked_for_a_box(tmp_path: Path) -> None:
    import pyarrow.parquet

    path = write_polygons(tmp_path / "areas.parquet", SHAPES, COLUMNS)

    geo = json.loads(pyarrow.parquet.read_metadata(path).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"]["geometry"]["crs"]["id"] == {
        "authority": "OGC",
        "code": "CRS84",
    }
    assert geo["columns"]["geometry"]["bbox"] == [0, -5, 16, 5]
    assert geopandas.read_parquet(path, bbox=(2, 2, 3, 3))["label"].tolist() == [COLUMNS["label"][1]]


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb"])
def test_polygons_in_a_scenes_own_crs(suffix: str, tmp_path: Path) -> None:
    square = shapely.box(600_000, 4_999_000, 601_000, 5_000_000)
    path = write_polygons(tmp_path / f"areas{suffix}", [square], {"label": ["a"]}, crs=CRS.from_epsg(32633))
    found = read(path)
    assert found.crs.to_epsg() == 32633
    assert found.geometry[0].equals(square)


@pytest.mark.parametrize(
    ("name", "columns", "crs", "told"),
    [
        ("areas.shp", {}, None, ".geojson, .parquet, .gpkg, .fgb"),
        ("areas.geojson", {"label": ["a"]}, None, "'label' has 1 values for 3"),
        ("areas.parquet", {}, CRS.from_epsg(32633), "leave crs= out"),
    ],
)
def test_what_cannot_be_written_is_told(name: str, columns: Any, crs: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        write_polygons(tmp_path / name, SHAPES, columns, crs=crs)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "areas.gpkg"
    path.write_text("mine")
    with pytest.raises(InputError, match="overwrite=True"):
        write_polygons(path, SHAPES, {})
    assert path.read_text() == "mine"
    write_polygons(path, SHAPES, {}, overwrite=True)
    assert len(read(path)) == 3


@pytest.mark.parametrize("suffix", POLYGON_SUFFIXES)
def test_a_full_disk_leaves_the_earlier_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"areas{suffix}"
    path.write_text("earlier")

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda self, mode: Full(self, mode))
    with pytest.raises(DiskFullError, match="areas"):
        write_polygons(path, SHAPES, COLUMNS, overwrite=True)
    monkeypatch.undo()
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_what_needs_pyogrio_says_so_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyogrio", None)
    with pytest.raises(MissingExtraError, match=r"sattxt\[gis\]"):
        write_polygons(tmp_path / "areas.fgb", SHAPES, COLUMNS)
    write_polygons(tmp_path / "areas.geojson", SHAPES, COLUMNS)
