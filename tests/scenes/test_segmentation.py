"""Scenes segmented in strips, and their maps read back with what GIS are built on."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import geopandas
import geoparquet_validator
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.shutil import copy
from rasters import write_raster
from rio_cogeo import cog_validate

from sattxt import SatTxt
from sattxt.errors import DiskFullError, InputError, SceneError
from sattxt.scenes import SceneSegmentation, open_scenes, segment_scene
from sattxt.scenes.polygons import POLYGON_SUFFIXES

LABELS = ["forest", "river", "city"]
UTM = Affine(10, 0, 600_000, 0, -10, 5_000_000)
STRIP = "sattxt.scenes.segmentation._STRIP"


def make_map(
    label_map: np.ndarray,
    *,
    probs: np.ndarray | None = None,
    transform: Affine = UTM,
    crs: Any = "EPSG:32633",
    labels: tuple[str, ...] = ("water", "forest & moor", "built-up", "bare", "grass", "rock"),
) -> SceneSegmentation:
    """The result that has this label map."""
    crs = CRS.from_user_input(crs) if crs else None
    gsd = transform.a * (1 if crs is None or crs.is_projected else 111_195)
    probs = np.ones(label_map.shape, np.float16) if probs is None else probs
    picture = np.zeros((*label_map.shape, 3), np.uint8)
    return SceneSegmentation(labels, label_map, probs, picture, crs, transform, gsd, "scene.tif", None, "a model")


def read(path: Path) -> geopandas.GeoDataFrame:
    if path.suffix == ".parquet":
        return geopandas.read_parquet(path)
    return pyogrio.read_dataframe(path)


def burn(frame: geopandas.GeoDataFrame, found: SceneSegmentation) -> np.ndarray:
    """The label map that polygons are of."""
    shapes = frame.to_crs(found.crs) if frame.crs != found.crs else frame
    numbers = [found.labels.index(label) for label in frame["label"]]
    return rasterize(
        zip(shapes.geometry, numbers, strict=True), found.label_map.shape, fill=255, transform=found.transform,
        dtype="uint8",
    )  # fmt: skip


@pytest.fixture(scope="module")
def picture(tiles: list[np.ndarray]) -> np.ndarray:
    """(3, 192, 128) uint8."""
    rows = [np.concatenate(tiles[i : i + 2], axis=1) for i in (0, 2, 3)]
    return np.concatenate(rows).transpose(2, 0, 1)


def test_strips_of_a_sentinel_2_scene_equal_the_whole(
    mini: SatTxt, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(data_dir / "s2_scenes.zip") as archive:
        path = archive.extract("terramind/S2L2A/433D_629L_3_1.tif", tmp_path)
    labels = ["forest", "lake", "built-up area", "meadow"]
    options: dict[str, Any] = {"bands": (4, 3, 2), "stretch": "sentinel2"}
    monkeypatch.setattr(STRIP, 224 * 24)

    found = segment_scene(mini, path, labels, **options)

    whole = mini.segment(path, labels, **options, gsd=10)
    assert np.array_equal(found.label_map, whole.label_map)
    assert np.abs(found.probs - whole.probs.max(axis=0)).max() < 1e-3
    assert np.array_equal(found.picture, whole.image)
    assert found.shares == pytest.approx(whole.shares)
    drawn = [np.asarray(each.to_image(legend=False)).astype(int) for each in (found, whole)]
    assert np.abs(drawn[0] - drawn[1]).max() <= 1
    assert repr(found).startswith("SceneSegmentation(")
    assert "224 x 224" in repr(found)


@pytest.mark.parametrize("strip", [1, 40])
@pytest.mark.parametrize("overlap", [0, 0.4])
def test_nodata_stays_nodata_and_the_rest_is_what_segment_says(
    model: SatTxt, picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strip: int, overlap: float
) -> None:
    picture = np.maximum(picture, 1)
    picture[:, 64:132] = 0  # more than a row of windows
    picture[:, 150:, :7] = 0
    path = write_raster(tmp_path / "scene.tif", pixels=picture, nodata=0)
    monkeypatch.setattr(STRIP, 128 * strip)

    found = segment_scene(model, path, LABELS, window=32, overlap=overlap)

    missing = (picture == 0).all(axis=0)
    assert np.array_equal(found.label_map == 255, missing)
    assert np.array_equal(np.isnan(found.probs), missing)
    inside = np.zeros_like(missing)  # of windows without any nodata
    inside[:32], inside[164:, 39:] = True, True
    whole = model.segment(picture.transpose(1, 2, 0), LABELS, window=32, overlap=overlap)
    assert np.array_equal(found.label_map[inside], whole.label_map[inside])
    assert sum(found.shares.values()) == pytest.approx(1)
    assert np.asarray(found.to_image(legend=False))[missing].tolist() == [[255] * 3] * missing.sum()


def test_what_is_held_does_not_grow_with_the_scenes_height(
    model: SatTxt, picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STRIP, 128 * 16)
    peaks = []
    for times in (1, 1, 8):  # the first one imports and remembers
        tall = np.tile(picture, (1, times, 1))
        path = write_raster(tmp_path / f"{times}.tif", pixels=tall, tiled=True, blockxsize=16, blockysize=16)
        tracemalloc.start()
        found = segment_scene(model, path, LABELS, window=64, batch_size=4)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert isinstance(found.label_map, np.memmap)
        assert isinstance(found.probs, np.memmap)
    kept_picture = 8 * picture.nbytes // 4  # every second pixel of what is taller than 1,024
    assert peaks[2] - peaks[1] < 2 * kept_picture + 50_000 < tall.nbytes


def test_scores_leave_no_more_than_a_row_of_windows_at_a_time() -> None:
    import torch

    from sattxt.config import ImageConfig
    from sattxt.segment import score_strips
    from sattxt.vision.tower import ImageTokens

    def tokens(pixels: torch.Tensor) -> ImageTokens:
        count = len(pixels)
        patches = torch.ones(count, 4, 4)
        return ImageTokens(patches, torch.ones(count, 4), patches, (2, 2))

    config = ImageConfig(size=16)
    weights = np.eye(8, dtype=np.float32)[:3]
    strips = list(
        score_strips(lambda y, x, side: np.zeros((side, side, 3), np.uint8), (1000, 48), weights, tokens, config)
    )
    assert max(scores.shape[1] for _, scores in strips) <= 16
    assert [row for row, _ in strips] == np.cumsum([0, *(s.shape[1] for _, s in strips)])[:-1].tolist()
    assert sum(scores.shape[1] for _, scores in strips) == 1000
    assert all(scores.isfinite().all() for _, scores in strips)


@pytest.mark.parametrize(
    ("transform", "crs", "crosses"),
    [
        (Affine(10, 0, 600_000, 0, 10, 4_998_080), "EPSG:32633", False),  # south-up
        (Affine(-10, 0, 601_280, 0, -10, 5_000_000), "EPSG:32633", False),  # mirrored
        (Affine(0.0002, 0, 15, 0, -0.0001, -33), "EPSG:4326", False),
        (Affine(0.0001, 0, 179.99, 0, -0.0001, 66), "EPSG:4326", True),
        (Affine(10, 0, 364_000, 0, -10, 7_330_000), "EPSG:32601", True),
    ],
)
def test_maps_lie_where_the_scene_does(
    model: SatTxt, picture: np.ndarray, tmp_path: Path, transform: Affine, crs: str, crosses: bool
) -> None:
    path = write_raster(tmp_path / "scene.tif", pixels=picture, transform=transform, crs=crs)
    found = segment_scene(model, path, LABELS, window=32)
    (scene,) = open_scenes(path)

    with rasterio.open(found.save(tmp_path / "map.tif")) as file:
        assert np.array_equal(file.read(1), found.label_map)
        assert file.transform == scene.transform
        assert file.crs == CRS.from_user_input(crs)
    with rasterio.open(path) as file:
        rows = picture.transpose(1, 2, 0)[:: -1 if transform.e > 0 else 1, :: -1 if transform.a < 0 else 1]
        upright = model.segment(rows, LABELS, window=32)
        assert np.array_equal(found.label_map, upright.label_map)
    for suffix in POLYGON_SUFFIXES:
        frame = read(found.save(tmp_path / f"areas{suffix}", min_pixels=1))
        own = suffix in (".gpkg", ".fgb")
        assert frame.crs.equals(crs if own else "OGC:CRS84") or frame.crs.equals("EPSG:4326")
        if own or not crosses:
            assert np.array_equal(burn(frame, found), found.label_map)
        if not crosses:
            assert frame.to_crs(6933).area.to_numpy() == pytest.approx(frame["area_m2"], rel=1e-4)
        elif not own:  # geopandas does not know of the antimeridian, these polygons end there
            assert frame.total_bounds[[0, 2]].tolist() == [-180, 180]
            assert frame.to_crs(6933).area.to_numpy() == pytest.approx(frame["area_m2"], rel=1e-4)
        assert frame.geometry.is_valid.all()


def test_a_raster_of_classes_names_and_colours_them(tmp_path: Path) -> None:
    label_map = np.random.default_rng(0).integers(0, 6, (40, 50)).astype(np.uint8)
    label_map[:3] = 255
    found = make_map(label_map)

    path = found.save(tmp_path / "map.tif", colours={"bare": "#102030"})

    assert cog_validate(path, strict=True)[0]
    with rasterio.open(path) as file:
        assert file.nodata == 255
        assert file.colormap(1)[0][:3] == found.legend["water"]
        assert file.colormap(1)[3][:3] == (16, 32, 48)
        assert file.tags()["labels"] == '["water", "forest & moor", "built-up", "bare", "grass", "rock"]'
        assert file.tags(1)["CLASS_1"] == "forest & moor"
        assert np.array_equal(file.dataset_mask() == 0, label_map == 255)
    copy(path, tmp_path / "map.vrt", driver="VRT")  # which tells what GDAL knows
    assert "<Category>forest &amp; moor</Category>" in (tmp_path / "map.vrt").read_text()
    assert 'value="3" label="bare" color="#102030"' in (tmp_path / "map.qml").read_text()
    with pytest.raises(InputError, match="overwrite=True"):
        found.save(path)


def test_masks_of_dubai_become_areas_without_gaps(data_dir: Path, tmp_path: Path) -> None:
    masks = []
    with zipfile.ZipFile(data_dir / "dubai.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".png"))[::15]:
            masks.append(np.array(Image.open(io.BytesIO(archive.read(name)))).astype(np.uint8))
    for mask in masks:
        mask[mask == 0] = 255  # unlabelled
        known = mask[mask != 255]
        found = make_map(mask, transform=Affine(0.5, 0, 330_000.25, 0, -0.5, 2_786_000.75), crs="EPSG:32640")

        own = read(found.save(tmp_path / "areas.gpkg", min_pixels=1, overwrite=True))
        assert np.array_equal(burn(own, found), mask)
        pixels = own.geometry.area.to_numpy() / 0.25
        assert np.array_equal(pixels.round(), pixels)
        counted = own.assign(pixels=pixels).groupby("label")["pixels"].sum()
        assert {found.labels.index(k): v for k, v in counted.items()} == dict(
            zip(*np.unique(known, return_counts=True), strict=True)
        )
        # The map's metres are not the ground's: UTM shrinks by up to 4 in 10,000 in the middle of a zone.
        assert own["area_m2"].to_numpy() == pytest.approx(pixels / 4, rel=2e-3, abs=0.01)

        world = read(found.save(tmp_path / "areas.parquet", min_pixels=1, overwrite=True))
        for frame in (own, world):
            assert frame.geometry.is_valid.all()
            assert shapely.coverage_is_valid(frame.geometry.to_numpy())
        assert np.array_equal(burn(world, found), mask)
        assert geoparquet_validator.failed(geoparquet_validator.check(str(tmp_path / "areas.parquet"))) == []


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 30), width=st.integers(1, 30), smooth=st.booleans())
def test_any_map_is_told_by_its_areas(
    tmp_path_factory: pytest.TempPathFactory, seed: int, height: int, width: int, smooth: bool
) -> None:
    random = np.random.default_rng(seed)
    label_map = random.choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
    if smooth:
        label_map = np.repeat(np.repeat(label_map, 5, axis=0), 3, axis=1)
    probs = random.random(label_map.shape).astype(np.float16)
    probs[label_map == 255] = np.nan
    found = make_map(label_map, probs=probs, transform=Affine(0.5, 0, -70, 0, -0.25, 60), crs="EPSG:4326")

    path = found.save(tmp_path_factory.mktemp("areas") / "areas.parquet", min_pixels=1)

    frame = geopandas.read_parquet(path)
    assert np.array_equal(burn(frame, found), label_map)
    assert frame.geometry.is_valid.all()
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())
    places = list(zip(frame.geometry, range(len(frame)), strict=True))
    if places:
        number = rasterize(places, label_map.shape, fill=-1, transform=found.transform, dtype="int32")
        means = [probs[number == i].astype(float).mean() for i in range(len(frame))]
        assert frame["prob"].to_numpy() == pytest.approx(means, abs=1e-4)
        assert frame["area_m2"].to_numpy() == pytest.approx(frame.to_crs(6933).area, rel=1e-6)


def test_specks_join_what_surrounds_them_and_do_not_count_for_its_probability(tmp_path: Path) -> None:
    label_map = np.zeros((60, 60), np.uint8)
    label_map[:, 30:] = 1
    label_map[10:12, 10:12] = 2  # 4 pixels
    label_map[40:45, 40:45] = 2  # 25
    label_map[20, 20] = 255
    probs = np.full(label_map.shape, 0.75, np.float16)
    probs[label_map == 2] = 0.5
    frame = read(make_map(label_map, probs=probs).save(tmp_path / "areas.fgb"))
    assert sorted(frame["label"]) == ["built-up", "forest & moor", "water"]
    pixels = {row.label: row.geometry.area / 100 for row in frame.itertuples()}
    assert pixels == {"water": 1799, "forest & moor": 1775, "built-up": 25}
    assert dict(zip(frame["label"], frame["prob"], strict=True)) == {
        "water": 0.75,
        "forest & moor": 0.75,
        "built-up": 0.5,
    }


def test_a_scene_without_any_data_is_an_empty_map(model: SatTxt, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", pixels=np.zeros((3, 64, 64), np.uint8), nodata=0)
    found = segment_scene(model, path, LABELS, window=32)
    assert (found.label_map == 255).all()
    assert found.shares == dict.fromkeys(LABELS, 0.0)
    for suffix in POLYGON_SUFFIXES:
        assert len(read(found.save(tmp_path / f"areas{suffix}"))) == 0


def test_a_picture_without_georeference_is_a_raster_but_no_polygons(
    model: SatTxt, picture: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(picture.transpose(1, 2, 0)).save(tmp_path / "scene.png")
    found = segment_scene(model, tmp_path / "scene.png", LABELS, window=32)
    with rasterio.open(found.save(tmp_path / "map.tif")) as file:
        assert file.crs is None
        assert np.array_equal(file.read(1), found.label_map)
    with pytest.raises(SceneError, match="pass crs= and bounds="):
        found.save(tmp_path / "areas.geojson")
    placed = segment_scene(model, tmp_path / "scene.png", LABELS, window=32, crs="EPSG:4326", bounds=(10, 50, 11, 51.5))
    assert read(placed.save(tmp_path / "areas.geojson")).total_bounds == pytest.approx([10, 50, 11, 51.5])


def test_areas_around_a_pole_are_refused(tmp_path: Path) -> None:
    around = make_map(np.zeros((40, 40), np.uint8), transform=Affine(50_000, 0, -1e6, 0, -50_000, 1e6), crs="EPSG:3413")
    with pytest.raises(SceneError, match="around a pole"):
        around.save(tmp_path / "areas.parquet")
    assert os.listdir(tmp_path) == []


def test_fine_pixels_take_a_smaller_window(golden_model_dir: Path, picture: np.ndarray, tmp_path: Path) -> None:
    named = SatTxt.from_pretrained(golden_model_dir, preprocess={"window": 48}, dtype="float32", text_cache=False)
    picture = picture[:, :64, :64]
    path = write_raster(tmp_path / "s.tif", pixels=picture, transform=Affine(0.5, 0, 600_000, 0, -0.5, 5_000_000))
    own, coarse = segment_scene(named, path, LABELS), segment_scene(named, path, LABELS, gsd=10)
    rows = picture.transpose(1, 2, 0)
    assert np.array_equal(own.label_map, named.segment(rows, LABELS, window=24).label_map)
    assert np.array_equal(coarse.label_map, named.segment(rows, LABELS, window=48).label_map)


def test_what_makes_no_map_is_told(model: SatTxt, picture: np.ndarray, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_raster(tmp_path / "scenes" / f"{name}.tif", pixels=picture)
    with pytest.raises(SceneError, match=r"holds 2 scenes \(a, b"):
        segment_scene(model, tmp_path / "scenes", LABELS)
    with pytest.raises(InputError, match="255 at most"):
        segment_scene(model, tmp_path / "scenes" / "a.tif", [f"label {i}" for i in range(256)])
    with pytest.raises(InputError, match=r"\.tif, .*\.fgb"):
        make_map(np.zeros((4, 4), np.uint8)).save(tmp_path / "map.shp")
    with pytest.raises(InputError, match="opacity"):
        make_map(np.zeros((4, 4), np.uint8)).to_image(opacity=2)


def test_a_full_disk_of_temporary_files_is_told(
    model: SatTxt, picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_raster(tmp_path / "scene.tif", pixels=picture)

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(DiskFullError, match="temporary"):
        segment_scene(model, path, LABELS, window=32)
