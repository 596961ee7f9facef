"""What is opened as a scene: files, folders of bands, products, STAC items, mosaics; and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from rasterio import Affine
from rasterio.windows import Window
from rasters import METRES, NORTH, WEST, write_raster

from sattxt.errors import InputError, SceneError
from sattxt.scenes.grids import plan_chips
from sattxt.scenes.open import open_scenes

_METADATA = """<?xml version="1.0"?><n1:Level-2A_User_Product xmlns:n1="x"><n1:General_Info><Product_Info>
<PRODUCT_START_TIME>2024-06-01T10:10:31.024Z</PRODUCT_START_TIME><PRODUCT_STOP_TIME>2024-06-01T10:10:31.024Z</PRODUCT_STOP_TIME>
<PRODUCT_URI>{name}</PRODUCT_URI></Product_Info><BOA_ADD_OFFSET_VALUES_LIST>{offsets}</BOA_ADD_OFFSET_VALUES_LIST>
</n1:General_Info></n1:Level-2A_User_Product>"""
PRODUCT = "S2B_MSIL2A_20240601T101031_N0510_R022_T33UUB_20240601T120000.SAFE"


def reflectance(value: int, size: int = 96) -> np.ndarray:
    ramp = np.arange(size * size).reshape(1, size, size) % 900
    return (value + ramp).astype(np.uint16)


def make_safe(folder: Path, added: int = 1000) -> Path:
    """A product of the three bands and the scene classification."""
    root = folder / PRODUCT
    data = root / "GRANULE" / "L2A_T33UUB_A012345_20240601T101031" / "IMG_DATA"
    for number, band in enumerate(("B02", "B03", "B04"), 1):
        path = data / "R10m" / f"T33UUB_20240601T101031_{band}_10m.jp2"
        pixels = reflectance(100 * number + added)
        write_raster(path, pixels=pixels, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    scl = np.full((1, 48, 48), 4, np.uint8)
    scl[:, :8] = 9
    at = Affine(20, 0, WEST, 0, -20, NORTH)
    path = data / "R20m" / "T33UUB_20240601T101031_SCL_20m.jp2"
    write_raster(path, pixels=scl, transform=at, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    told = "".join(f'<BOA_ADD_OFFSET band_id="{i}">{-added}</BOA_ADD_OFFSET>' for i in range(13))
    (root / "MTD_MSIL2A.xml").write_text(_METADATA.format(name=PRODUCT, offsets=told if added else ""))
    return root


def everything(scene) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    return scene.read(Window(0, 0, scene.width, scene.height))


@pytest.mark.parametrize("form", ["folder", "zip", "parent"])
@pytest.mark.parametrize("added", [0, 1000])
def test_a_sentinel2_product_is_one_scene(form: str, added: int, tmp_path: Path) -> None:
    root = make_safe(tmp_path / "in", added)
    source = {"folder": root, "parent": root.parent}.get(form)
    if source is None:
        source = tmp_path / "product.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for file in root.rglob("*"):
                archive.write(file, file.relative_to(root.parent))
    (scene,) = open_scenes(source)
    assert scene.id == PRODUCT.removesuffix(".SAFE")
    assert scene.start == datetime(2024, 6, 1, 10, 10, 31, 24000, tzinfo=timezone.utc)
    assert (scene.bands, scene.offset, scene.gsd) == (("B04", "B03", "B02"), added, 10.0)
    values, valid, cloud = everything(scene)
    assert np.array_equal(values[..., 0], reflectance(300)[0])
    assert np.array_equal(values[..., 2], reflectance(100)[0])
    assert valid.all()
    assert cloud is not None
    assert cloud[:16].all()
    assert not cloud[16:].any()


def test_an_offset_that_was_taken_off_already_is_noticed(tmp_path: Path) -> None:
    root = make_safe(tmp_path, 1000)
    for path in root.rglob("*_10m.jp2"):
        write_raster(path, pixels=reflectance(300), driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    (scene,) = open_scenes(root)
    with pytest.raises(SceneError, match="pass offset=0"):
        scene.check_offset()
    (scene,) = open_scenes(root, offset=0)
    scene.check_offset()


def test_an_offset_that_no_metadata_tell_is_suspected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "unknown_offset"
    for band in ("B02", "B03", "B04"):
        write_raster(folder / f"{band}.tif", pixels=reflectance(1100))
    open_scenes(folder)[0].check_offset()
    assert "pass offset=1000" in caplog.text


def test_single_band_files_are_one_scene_and_may_be_coarser(tmp_path: Path) -> None:
    folder = tmp_path / "20200604T054639_T43RCP"
    for band, value in (("B2", 100), ("B3", 200), ("B4", 300), ("B8A", 400)):
        write_raster(folder / f"{band}.tif", pixels=reflectance(value))
    write_raster(folder / "B11.tif", pixels=reflectance(500, 48), transform=Affine(20, 0, WEST, 0, -20, NORTH))
    (scene,) = open_scenes(folder)
    assert (scene.id, scene.bands) == (folder.name, ("B04", "B03", "B02"))
    assert scene.start == datetime(2020, 6, 4, 5, 46, 39, tzinfo=timezone.utc)
    (other,) = open_scenes(folder, bands=("B04", "B11", "B02"))
    values, valid, _ = everything(other)
    assert values.shape == (96, 96, 3)
    assert valid.all()
    with pytest.raises(SceneError, match="has no band B08"):
        open_scenes(folder, bands=("B08", "B04", "B03"))
    with pytest.raises(SceneError, match="pass their names"):
        open_scenes(folder, bands=(4, 3, 2))
    write_raster(folder / "B3.tif", pixels=reflectance(200), transform=Affine(METRES, 0, WEST + 500, 0, -METRES, NORTH))
    with pytest.raises(SceneError, match="do not cover the same ground"):
        open_scenes(folder)


@pytest.mark.parametrize(
    ("properties", "raster", "offset"),
    [
        ({"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.10"}, None, 0),
        ({"earthsearch:boa_offset_applied": False}, {"scale": 0.0001, "offset": -0.1}, 1000),
        ({"s2:processing_baseline": "05.10"}, None, 1000),
        ({"s2:processing_baseline": "02.14"}, None, 0),
        ({}, None, 0),
    ],
)
def test_a_stac_item_names_bands_and_what_was_added(
    properties: dict, raster: dict | None, offset: float, tmp_path: Path
) -> None:
    assets = {}
    for name, value in (("blue", 100), ("green", 200), ("red", 300)):
        write_raster(tmp_path / "data" / f"{name}.tif", pixels=reflectance(value + 1000))
        assets[name] = {"href": f"./data/{name}.tif", "eo:bands": [{"name": name, "common_name": name}]}
        if raster:
            assets[name]["raster:bands"] = [raster]
    assets["thumbnail"] = {"href": "./thumb.jpg", "roles": ["thumbnail"]}
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "S2B_33UUB_1", "collection": "sentinel-2-l2a",
        "assets": assets, "properties": {"datetime": "2024-06-01T10:10:31Z", **properties},
    }  # fmt: skip
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item))
    (scene,) = open_scenes(path)
    assert (scene.id, scene.offset, scene.sentinel2) == ("S2B_33UUB_1", offset, True)
    assert scene.start == datetime(2024, 6, 1, 10, 10, 31, tzinfo=timezone.utc)
    assert np.array_equal(everything(scene)[0][..., 0], reflectance(1300 - offset)[0])
    path.write_text("{}")
    with pytest.raises(SceneError, match="STAC item"):
        open_scenes(path)


def test_a_list_in_the_list_is_a_mosaic(tmp_path: Path) -> None:
    whole = write_raster(tmp_path / "whole.tif", 128, 64)
    left = write_raster(tmp_path / "left.tif", 64, 64)
    right = write_raster(tmp_path / "right.tif", 32, 64, transform=Affine(METRES, 0, WEST + 960, 0, -METRES, NORTH))
    scenes = open_scenes([[left, right], whole])
    assert [scene.id for scene in scenes] == ["left", "whole"]
    values, valid, _ = everything(scenes[0])
    expected, _, _ = everything(scenes[1])
    assert values.shape == expected.shape
    assert np.array_equal(values[valid], expected[valid])
    assert valid[:, :64].all()
    assert valid[:, 96:].all()
    assert not valid[:, 64:96].any()
    other = write_raster(tmp_path / "other.tif", 64, 64, crs="EPSG:32634")
    with pytest.raises(SceneError, match=r"left\.tif and .*other\.tif make no mosaic: their CRS differs"):
        open_scenes([[left, other]])


def test_folders_globs_and_lists_give_a_scene_a_raster(tmp_path: Path) -> None:
    paths = [write_raster(tmp_path / "in" / f"{name}.tif", 32, 32) for name in "abc"]
    (tmp_path / "in" / ".hidden.tif").write_bytes(b"")
    (tmp_path / "in" / "notes.txt").write_text("no raster")
    for source in (tmp_path / "in", str(tmp_path / "in" / "*.tif"), paths):
        assert [scene.id for scene in open_scenes(source)] == ["a", "b", "c"]
    (one,) = open_scenes(paths[0], item_id="mine")
    assert one.id == "mine"
    copy = pickle.loads(pickle.dumps(one))
    assert np.array_equal(everything(copy)[0], everything(one)[0])
    before = one.signature
    write_raster(paths[0], 33, 33)
    assert open_scenes(paths[0])[0].signature != before


def test_what_cannot_be_a_scene_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "bad.zip").write_bytes(b"PK no archive")
    many = write_raster(tmp_path / "many.tif", pixels=np.zeros((12, 16, 16), np.uint16))
    for source, error, said in (
        (tmp_path / "none.tif", SceneError, "no such file"),
        (tmp_path / "*.jp2", SceneError, "no file matches"),
        (tmp_path / "empty", SceneError, "holds no scene"),
        (tmp_path / "text.tif", SceneError, "cannot be read as a raster"),
        (tmp_path / "bad.zip", SceneError, "cannot be read as a zip"),
        (many, SceneError, "has 12 bands; pass bands="),
        (7, InputError, "int is no scene"),
        ([[]], InputError, "no mosaic"),
    ):
        with pytest.raises(error, match=said):
            open_scenes(source)
    with pytest.raises(InputError, match="bounds= needs crs="):
        open_scenes(many, bounds=(0, 0, 1, 1))
    with pytest.raises(InputError, match="is no CRS"):
        open_scenes(write_raster(tmp_path / "p.png", crs=None, driver="PNG"), crs="EPSG:none", bounds=(0, 0, 1, 1))
    with pytest.raises(InputError, match="names one scene"):
        open_scenes([many, many], bands=(4, 3, 2), item_id="x")


@pytest.mark.tiles
def test_published_places_are_opened_as_they_are(data_dir: Path) -> None:
    with zipfile.ZipFile(data_dir / "s2_places.zip") as archive:
        archive.extractall(data := Path(os.environ["SATTXT_CACHE"]))
    scenes = {
        scene.source.removeprefix(f"{data}/"): scene
        for scene in open_scenes([data / "Major-TOM-Core", data / "SSL4EO-S12" / "s2a"])
    }
    (cell,) = (scene for scene in scenes.values() if scene.id.startswith("S2B_MSIL2A_20200223"))
    assert (cell.crs.to_epsg(), cell.gsd, cell.bands, cell.offset) == (32648, 10.0, ("B04", "B03", "B02"), 0.0)
    assert cell.clouds is not None
    series = sorted(scene.start.date().isoformat() for scene in scenes.values() if scene is not cell)
    assert series == ["2020-06-04", "2020-08-13"]
    for scene in scenes.values():
        scene.check_offset()
        values, valid, _ = everything(scene)
        assert valid.mean() > 0.99
        assert 300 < np.median(values) < 3000


@pytest.mark.tiles
def test_both_levels_of_a_site_share_their_cells(data_dir: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(data_dir / "s2_scenes.zip") as archive:
        archive.extractall(tmp_path)
    sites: dict[str, list[set[str]]] = {}
    for level in ("S2L1C", "S2L2A", "S2RGB"):
        bands = None if level == "S2RGB" else (4, 3, 2)
        for scene in open_scenes(tmp_path / "terramind" / level, bands=bands):
            sites.setdefault(scene.id, []).append(set(plan_chips(scene, "utm", 64, 64).cell))
    assert len(sites) == 3
    assert all(cells[0] == cells[1] == cells[2] for cells in sites.values())
    (flood,) = open_scenes(tmp_path / "sen1floods11")
    assert (flood.bands, flood.sentinel2) == (("B4", "B3", "B2"), True)
    assert len(plan_chips(flood, "utm", 64, 64)) > 40
