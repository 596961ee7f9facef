"""``sattxt segment``: its files and the shares it prints."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_fakes import sattxt
from PIL import Image

from sattxt.labels.prompts import TEMPLATES


def test_segment_writes_picture_map_and_scores_and_prints_shares(model, tiles, tmp_path, capsys):
    files = [tmp_path / name for name in ("map.png", "map.npy", "scores.npy")]
    arguments = [
        "segment",
        tiles / "night.png",
        "-l",
        "dark,bright",
        "-o",
        files[0],
        "--map",
        files[1],
        "--scores",
        files[2],
    ]
    assert sattxt(*arguments) == 0
    out = capsys.readouterr().out
    assert out.split()[2:6] == ["dark", "75.0", "%", "bright"]
    assert np.load(files[1]).shape == (2, 2)
    assert np.load(files[2]).shape == (2, 2, 2)
    with Image.open(files[0]) as picture:
        assert picture.format == "PNG"
    assert sattxt(*arguments) == 2
    assert "is there already" in capsys.readouterr().err
    assert sattxt(*arguments, "--json", "--overwrite") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["height"], answer["width"]) == (2, 2)
    assert answer["shares"] == {"dark": 0.75, "bright": 0.25}


def test_segment_averages_over_the_built_in_templates_when_asked(model, tiles, tmp_path):
    assert sattxt("segment", tiles / "night.png", "-l", "dark,bright", "--ensemble", "-o", tmp_path / "map.png") == 0
    assert model.label_options["templates"] == TEMPLATES["ensemble"]


@pytest.mark.parametrize("flags", [[], ["-o", "map.jpg"], ["--map", "nowhere/map.npy"]])
def test_segment_refuses_outputs_before_any_work(model, tiles, capsys, flags):
    assert sattxt("segment", tiles / "night.png", "-l", "dark,bright", *flags) == 2
    assert capsys.readouterr().err.startswith("sattxt: error: ")
    assert model.opened_with == {}


def test_segment_writes_areas_of_a_scene_where_they_lie(tmp_path, capsys):
    rasterio = pytest.importorskip("rasterio")
    pixels = np.full((3, 96, 128), 40, np.uint8)
    pixels[2, :, :64] = 160
    pixels[:, :, 120:] = 0
    facts = {"driver": "GTiff", "count": 3, "height": 96, "width": 128, "dtype": "uint8", "nodata": 0}
    at = rasterio.Affine(10, 0, 600_000, 0, -10, 5_000_000)
    with rasterio.open(tmp_path / "scene.tif", "w", crs="EPSG:32633", transform=at, **facts) as file:
        file.write(pixels)
    arguments = ["segment", tmp_path / "scene.tif", "-l", "water,forest"]
    assert sattxt(*arguments, "-o", tmp_path / "map.geojson", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["height"], answer["width"]) == (96, 128)
    areas = json.loads((tmp_path / "map.geojson").read_text())["features"]
    assert sum(area["properties"]["area_m2"] for area in areas) == pytest.approx(96 * 120 * 100, rel=0.01)
    assert {area["properties"]["label"] for area in areas} <= {"water", "forest"}
    assert sattxt(*arguments, "-o", tmp_path / "map.tif") == 0
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (file.crs, file.transform, file.nodata) == ("EPSG:32633", at, 255)
        assert (file.read(1)[:, 120:] == 255).all()
    capsys.readouterr()
    assert sattxt(*arguments, "-o", tmp_path / "map.tif", "--map", tmp_path / "map.npy", "--overwrite") == 2
    assert "go with a .png" in capsys.readouterr().err
