"""Which bands are red, green and blue, and what a Sentinel-2 product adds to reflectance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sattxt.errors import ImageError
from sattxt.images.bands import EUROSAT_MS, SENTINEL2_L1C, canonical, log_once, pick_bands, reflectance_offset
from sattxt.images.options import ImageOptions
from sattxt.images.read import to_rgb


def rgb_tile() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def test_bands_are_counted_from_one_and_reorder() -> None:
    tile = rgb_tile()
    np.testing.assert_array_equal(to_rgb(tile, ImageOptions(bands=(3, 2, 1))), tile[..., ::-1])
    np.testing.assert_array_equal(to_rgb(tile, ImageOptions(bands=[2])), tile[..., [1, 1, 1]])
    np.testing.assert_array_equal(
        to_rgb(Image.fromarray(tile), ImageOptions(bands=("blue", "B03", "red"))), tile[..., ::-1]
    )


def test_band_names_of_an_array() -> None:
    cube = np.random.default_rng(0).integers(0, 256, (13, 20, 20), dtype=np.uint8)
    rgb = to_rgb(cube, ImageOptions(bands=("red", "B3", "b02"), band_names=EUROSAT_MS))
    np.testing.assert_array_equal(rgb, cube[[3, 2, 1]].transpose(1, 2, 0))
    b8a = to_rgb(cube, ImageOptions(bands=("B8A",), band_names=EUROSAT_MS))
    np.testing.assert_array_equal(b8a[..., 0], cube[12])


@pytest.mark.parametrize(
    ("count", "options", "says"),
    [
        (13, {}, r"has 13 bands; pass bands=\(red, green, blue\), counted from 1"),
        (4, {}, "has 4 bands"),
        (2, {}, "has 2 bands"),
        (3, {"bands": (4, 3, 2)}, r"has 3 bands, bands= asks for 4 \(counted from 1\)"),
        (13, {"bands": ("B04", "B03", "B02")}, r"have no names.*numbers counted from 1.*band_names="),
        (12, {"bands": (4, 3, 2), "band_names": SENTINEL2_L1C}, "has 12 bands, band_names= has 13"),
        (13, {"bands": ("B99",), "band_names": SENTINEL2_L1C}, "has no band 'B99'; its bands are B01"),
        (3, {"bands": ("x",), "band_names": ("x", "x", "y")}, "2 bands are named 'x'"),
        (3, {"band_names": ("B2", "B3", "B4")}, r"not in RGB order; pass bands="),  # Landsat 7: green, red, infrared
        (7, {"band_names": ("B1", "B2", "B3", "B4", "B5", "B6", "B7")}, "has 7 bands; pass bands="),
        (
            4,
            {"band_names": ("red", "green", "red", "x")},
            r"has 4 bands; pass bands=\(red, green, blue\), counted from 1 or by name among red, green, red, x, to say",
        ),
    ],
)
def test_wrong_or_missing_bands(count: int, options: dict[str, object], says: str) -> None:
    with pytest.raises(ImageError, match=says) as error:
        to_rgb(np.zeros((20, 20, count), np.uint8), ImageOptions(**options), name="scene-7")
    assert str(error.value).startswith("scene-7: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("B4", "B04"), ("b04", "B04"), ("red", "B04"), (" Red ", "B04"), ("B8A", "B8A"), ("b8a", "B8A"),
        ("B08A", "B8A"), ("B12", "B12"), ("B4, central wavelength 665 nm", "B04"), ("Red Edge 2", "B06"),
        ("nir", "B08"), ("SWIR_1", "B11"), ("B13", "b13"),
        ("Band 4", "band 4"), ("SR_B4", "sr_b4"), ("B40", "b40"), ("bands", "bands"),
    ],
)  # fmt: skip
def test_sentinel2_names(name: str, expected: str) -> None:
    assert canonical(name) == expected


@given(st.permutations(SENTINEL2_L1C))
def test_names_find_the_bands_in_any_order(order: list[str]) -> None:
    chosen = pick_bands(("B4", "green", "b02"), 13, order, where="x")
    assert [order[i] for i in chosen] == ["B04", "B03", "B02"]


@pytest.mark.parametrize(
    ("tags", "path", "expected"),
    [
        ({}, None, None),
        ({}, "S2A_MSIL1C_20200101T101010_N0208_R022_T32TQM.tif", 0.0),
        ({}, "S2A_MSIL2A_20220301T101010_N0400_R022_T32TQM.SAFE/B04.tif", 1000.0),
        ({}, "data/S2B_MSIL2A_20240301T101010_N0510_R022_T32TQM.tif", 1000.0),
        ({}, "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57/B04.tif", None),  # BigEarthNet v2
        ({}, "S2A_MSIL2A_20220301T101010_N0400_R022_T32TQM.SAFE/x_N9999_y.tif", 1000.0),
        ({"PROCESSING_BASELINE": "03.01"}, "x_N0400_.tif", 0.0),
        ({"processing_baseline": "05.09"}, None, 1000.0),
        ({"PRODUCT_URI": "S2B_MSIL2A_20240301T101010_N0510_R022_T32TQM.SAFE"}, None, 1000.0),
        ({"BOA_ADD_OFFSET": "-1000"}, None, 1000.0),
        ({"BOA_ADD_OFFSET": "0", "PROCESSING_BASELINE": "05.00"}, None, 0.0),
        ({"PROCESSING_BASELINE": "unknown"}, "tile.tif", None),
    ],
)
def test_the_offset_is_read_from_metadata_and_names(
    tags: dict[str, str], path: str | None, expected: float | None
) -> None:
    assert reflectance_offset(tags, path) == expected


def test_offset_by_file_name_of_a_16_bit_picture(tmp_path: Path) -> None:
    path = tmp_path / "S2A_MSIL2A_20220301T101010_N0400_R022_T32TQM_B04.png"
    Image.fromarray(np.full((20, 20), 2000, np.uint16)).save(path)
    assert to_rgb(path, ImageOptions(stretch="sentinel2")) == pytest.approx(1000 * 255 / 2750, abs=1e-3)
    assert to_rgb(path, ImageOptions(stretch="sentinel2", offset=None)) == pytest.approx(2000 * 255 / 2750, abs=1e-3)
    with pytest.raises(ImageError, match="stretch="):
        to_rgb(path)


@pytest.mark.parametrize("names", ["l1c", "L1C", SENTINEL2_L1C, [f"{n}, central wavelength" for n in SENTINEL2_L1C]])
def test_bands_whose_names_tell_are_taken_and_said(names: Any, caplog: pytest.LogCaptureFixture) -> None:
    log_once.cache_clear()
    cube = np.random.default_rng(0).integers(0, 256, (13, 20, 20), dtype=np.uint8)
    for _ in range(2):
        rgb = to_rgb(cube, ImageOptions(band_names=names))
        np.testing.assert_array_equal(rgb, cube[[3, 2, 1]].transpose(1, 2, 0))
    assert len(caplog.messages) == 1
    assert "B04" in caplog.messages[0]
    assert "taken for red, green and blue; pass bands= for others" in caplog.messages[0]


def test_bands_named_by_colour_are_taken() -> None:
    cube = np.random.default_rng(0).integers(0, 256, (20, 20, 4), dtype=np.uint8)
    rgb = to_rgb(cube, ImageOptions(band_names=("blue", "green", "red", "nir")))
    np.testing.assert_array_equal(rgb, cube[..., [2, 1, 0]])


def test_reflectance_is_stretched_where_it_is_certainly_sentinel2(caplog: pytest.LogCaptureFixture) -> None:
    log_once.cache_clear()
    cube = np.random.default_rng(0).integers(0, 4000, (12, 20, 20)).astype(np.uint16)
    rgb = to_rgb(cube, ImageOptions(band_names="l2a"))
    np.testing.assert_array_equal(rgb, to_rgb(cube, ImageOptions(band_names="l2a", stretch="sentinel2")))
    assert any("stretch='sentinel2'" in message for message in caplog.messages)
    assert any("pass offset=1000" in message for message in caplog.messages)
    for options in ({"bands": (4, 3, 2)}, {"band_names": ["red", "green", "blue", *"abcdefghi"]}):
        with pytest.raises(ImageError, match="need stretch='sentinel2'"):
            to_rgb(cube, ImageOptions(**options))
    with pytest.raises(ImageError, match="floats from"):
        to_rgb(cube.astype(np.float32), ImageOptions(band_names="l2a"))
