"""Chips: the pixels that are embedded are those that lie where a chip's geometry says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.warp import transform as move
from rasters import METRES, NORTH, WEST, ground, write_raster

from sattxt.errors import SceneError
from sattxt.scenes.chips import read_chips
from sattxt.scenes.grids import Chips, plan_chips
from sattxt.scenes.open import open_scenes
from sattxt.scenes.raster import Scene

WIDTH, HEIGHT = 150, 130
#: The same ground, stored as cameras and libraries store it.
LAYOUTS = {
    "north up": Affine(METRES, 0, WEST, 0, -METRES, NORTH),
    "south up": Affine(METRES, 0, WEST, 0, METRES, NORTH - HEIGHT * METRES),
    "mirrored": Affine(-METRES, 0, WEST + WIDTH * METRES, 0, -METRES, NORTH),
    "turned round": Affine(-METRES, 0, WEST + WIDTH * METRES, 0, METRES, NORTH - HEIGHT * METRES),
    "turned left": Affine(0, METRES, WEST, METRES, 0, NORTH - WIDTH * METRES),
}


def embedded(scene: Scene, chips: Chips, **options) -> dict[str, np.ndarray]:
    options = {"min_valid": 1.0, **options}
    return {
        chips.cell[index]: picture
        for indices, rgb, _, _ in read_chips(scene, chips, **options)
        for index, picture in zip(indices, rgb, strict=True)
    }


def alike(one: np.ndarray, other: np.ndarray, layout: str) -> bool:
    """Equal; where a file was resampled, all but the pixels that lie between two of its own by rounding."""
    return np.array_equal(one, other) if layout != "turned left" else bool((one == other).mean() > 0.8)


def seen_through_geometry(scene: Scene, chips: Chips, index: int, side: int) -> np.ndarray:
    """A chip's pixels, from its corners alone: longitude and latitude to the scene's CRS, to the ground there."""
    longitude, latitude = chips.corners[index, :4].T
    x, y = (np.array(v) for v in move("OGC:CRS84", scene.crs, longitude, latitude))
    upper_left, lower_left, _, upper_right = range(4)
    across = np.array([x[upper_right] - x[upper_left], y[upper_right] - y[upper_left]]) / side
    down = np.array([x[lower_left] - x[upper_left], y[lower_left] - y[upper_left]]) / side
    columns, rows = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    places = np.array([x[upper_left], y[upper_left]]) + columns[..., None] * across + rows[..., None] * down
    return ground(places[..., 0], places[..., 1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grid", ["utm", "pixels", "majortom"])
def test_pixels_lie_where_the_geometry_says(layout: str, grid: str, tmp_path: Path) -> None:
    size = (HEIGHT, WIDTH) if layout == "turned left" else (WIDTH, HEIGHT)
    path = write_raster(tmp_path / "scene.tif", *size, transform=LAYOUTS[layout])
    (scene,) = open_scenes(path)
    chips = plan_chips(scene, grid, 32, 32, grid_km=1.0)
    found = embedded(scene, chips)
    assert len(found) >= 6
    for cell, picture in found.items():
        assert alike(picture, seen_through_geometry(scene, chips, chips.cell.index(cell), 32), layout), cell


@pytest.mark.parametrize("layout", ["south up", "mirrored", "turned round", "turned left"])
def test_the_orientation_of_a_file_changes_no_chip(layout: str, tmp_path: Path) -> None:
    expected = embedded(*_planned(write_raster(tmp_path / "a.tif", WIDTH, WIDTH)))
    shift = {"south up": NORTH - WIDTH * METRES, "turned round": NORTH - WIDTH * METRES}
    at = LAYOUTS[layout]
    at = Affine(at.a, at.b, at.c, at.d, at.e, shift.get(layout, at.f))
    found = embedded(*_planned(write_raster(tmp_path / "b.tif", WIDTH, WIDTH, transform=at)))
    assert found.keys() == expected.keys()
    assert all(alike(found[cell], expected[cell], layout) for cell in expected)


def test_a_scene_that_lies_askew_is_turned_north_up(tmp_path: Path) -> None:
    at = Affine.translation(WEST, NORTH) @ Affine.rotation(-30) @ Affine.scale(METRES, -METRES)
    columns, rows = np.meshgrid(np.arange(400) + 0.5, np.arange(300) + 0.5)
    x, y = at @ (columns, rows)
    smooth = np.stack([(x - WEST) / 40, (NORTH - y) / 40, np.zeros_like(x)]).clip(0, 255).astype(np.uint8)
    (scene,) = open_scenes(write_raster(tmp_path / "s.tif", transform=at, pixels=smooth))
    chips = plan_chips(scene, "utm", 32, 32)
    found = embedded(scene, chips)
    assert 50 < len(found) < len(chips)  # corners without data are left out
    for cell, picture in found.items():
        longitude, latitude = chips.corners[chips.cell.index(cell), :4].mean(axis=0)
        (x,), (y,) = move("OGC:CRS84", scene.crs, [longitude], [latitude])
        told = [min(max(value, 0), 255) for value in ((x - WEST) / 40, (NORTH - y) / 40)]
        assert np.allclose(picture[15:17, 15:17, :2].mean((0, 1)), told, atol=1.5)


def _planned(path: Path) -> tuple[Scene, Chips]:
    (scene,) = open_scenes(path)
    return scene, plan_chips(scene, "utm", 32, 32)


@settings(max_examples=25, deadline=None)
@given(
    west=st.integers(0, 10_000), north=st.integers(0, 10_000), chip=st.sampled_from([16, 32]),
    stride=st.sampled_from([8, 16, 32]), tiled=st.booleans(),
)  # fmt: skip
def test_whole_rows_of_blocks_give_the_pixels_that_windows_give(
    west: int, north: int, chip: int, stride: int, tiled: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    at = Affine(METRES, 0, WEST + west, 0, -METRES, NORTH + north)
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16} if tiled else {}
    path = write_raster(tmp_path_factory.mktemp("r") / "s.tif", 97, 83, transform=at, **options)
    (scene,) = open_scenes(path)
    chips = plan_chips(scene, "utm", chip, stride)
    with rasterio.open(path) as file:
        for cell, picture in embedded(scene, chips).items():
            x0, y0, x1, y1 = (int(v) for v in chips.pixel_bbox[chips.cell.index(cell)])
            stored = file.read(window=((y0, y1), (x0, x1)))
            assert np.array_equal(picture, stored.transpose(1, 2, 0))


def test_quadkey_chips_show_the_ground_of_their_tile(tmp_path: Path) -> None:
    columns, rows = np.meshgrid(np.arange(400), np.arange(400))
    smooth = np.stack([columns / 2, rows / 2, (columns + rows) / 4]).astype(np.uint8)
    (scene,) = open_scenes(write_raster(tmp_path / "s.tif", pixels=smooth))
    chips = plan_chips(scene, "quadkey", 64, 64)
    found = embedded(scene, chips)
    assert len(found) > 10
    for cell, picture in found.items():
        longitude, latitude = chips.corners[chips.cell.index(cell), :4].mean(axis=0)
        (x,), (y,) = move("OGC:CRS84", scene.crs, [longitude], [latitude])
        column, row = ~scene.transform * (x, y)
        assert np.allclose(picture[31:33, 31:33].mean((0, 1)), [column / 2, row / 2, (column + row) / 4], atol=2)


def test_pixels_without_data_are_told_and_filled(tmp_path: Path) -> None:
    pixels = np.full((3, 64, 128), 100, np.uint8)
    pixels[:, :, :6] = 0
    pixels[:, :, 64:100] = 0
    (scene,) = open_scenes(write_raster(tmp_path / "s.tif", pixels=pixels, nodata=0))
    chips = plan_chips(scene, "pixels", 64, 64)
    ((indices, rgb, valid, cloud),) = read_chips(scene, chips, min_valid=0.9)
    assert [chips.cell[i] for i in indices] == ["r0_c0"]
    assert valid.tolist() == [pytest.approx(58 / 64)]
    assert (rgb == 100).all()
    assert cloud is None
    assert len(embedded(scene, chips, min_valid=0.1)) == 2
    empty = np.zeros((3, 64, 64), np.uint8)
    (scene,) = open_scenes(write_raster(tmp_path / "e.tif", pixels=empty, nodata=0))
    assert not embedded(scene, plan_chips(scene, "pixels", 64, 64), min_valid=0.0)


def test_clouds_come_from_a_mask(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "s.tif", 128, 64)
    clear = np.zeros((1, 32, 64), np.uint8)
    clear[:, :16, 32:] = 9
    write_raster(tmp_path / "s_SCL.tif", pixels=clear, transform=Affine(20, 0, WEST, 0, -20, NORTH))
    (scene,) = open_scenes(path, mask=tmp_path / "{id}_SCL.tif")
    chips = plan_chips(scene, "pixels", 64, 64)
    batches = list(read_chips(scene, chips, max_cloud=1.0))
    clouds = {chips.cell[i]: float(c) for indices, _, _, cloud in batches for i, c in zip(indices, cloud, strict=True)}
    assert clouds == {"r0_c0": 0.0, "r0_c64": 0.5}
    assert list(embedded(scene, chips, max_cloud=0.2)) == ["r0_c0"]


def test_a_file_that_cannot_be_read_is_never_taken_for_missing_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (3, 256, 256)).astype(np.uint8)
    path = write_raster(tmp_path / "s.tif", pixels=noise, compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    content = path.read_bytes()
    path.write_bytes(content[:50_000] + bytes(40_000) + content[90_000:])
    (scene,) = open_scenes(path)
    chips = plan_chips(scene, "pixels", 64, 64)
    with pytest.raises(SceneError, match=r"s\.tif: cannot be read"):
        list(read_chips(scene, chips))


def test_values_wider_than_8_bits_need_a_stretch(tmp_path: Path) -> None:
    values = np.linspace(0, 5000, 3 * 64 * 64).reshape(3, 64, 64).astype(np.uint16)
    (scene,) = open_scenes(write_raster(tmp_path / "s.tif", pixels=values))
    chips = plan_chips(scene, "pixels", 64, 64)
    with pytest.raises(SceneError, match="need a stretch"):
        list(read_chips(scene, chips))
    stretched = embedded(scene, chips, stretch=(0, 5000))["r0_c0"]
    assert stretched[0, 0].tolist() == [0, 85, 170]
    by_percentile = embedded(scene, chips, stretch="percentile")["r0_c0"]
    assert by_percentile[0, 0, 0] == 0
    assert by_percentile[-1, -1, 2] == 255
    (scene,) = open_scenes(write_raster(tmp_path / "f.tif", pixels=np.full((3, 64, 64), np.nan, np.float32)))
    assert not embedded(scene, chips, stretch="percentile", min_valid=0.0)


def test_reflectance_may_be_as_dark_as_can_be_once_an_offset_is_off(tmp_path: Path) -> None:
    values = np.full((3, 64, 64), 1001, np.uint16)
    path = write_raster(tmp_path / "s.tif", pixels=values, descriptions=("B04", "B03", "B02"))
    (scene,) = open_scenes(path, offset=1000)
    (picture,) = embedded(scene, plan_chips(scene, "pixels", 64, 64), stretch="sentinel2").values()
    assert picture.max() == 0
