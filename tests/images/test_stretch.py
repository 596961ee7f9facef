"""Values in any unit become 0..255 as the caller says, never by a guess."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sattxt.errors import ImageError
from sattxt.images.bands import EUROSAT_MS
from sattxt.images.options import ImageOptions
from sattxt.images.read import to_rgb


def rgb_tile() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "uint32", "int64"])
def test_wider_integers_need_a_stretch(dtype: str) -> None:
    array = np.full((8, 20, 20), 100, dtype)[:3]
    with pytest.raises(ImageError, match=r"stretch='sentinel2'.*stretch='percentile'.*value_range='0-255'"):
        to_rgb(array)
    rgb = to_rgb(array, ImageOptions(value_range="0-255"))
    assert rgb.dtype == np.uint8
    assert (rgb == 100).all()


@given(st.integers(0, 65535))
def test_sentinel2_stretch_of_integers(reflectance: int) -> None:
    rgb = to_rgb(np.full((14, 15), reflectance, np.uint16), ImageOptions(stretch="sentinel2"))
    assert rgb.dtype == np.float32
    assert rgb == pytest.approx(min(reflectance, 2750) * 255 / 2750, abs=1e-3)
    assert rgb.max() <= 255


def test_sentinel2_stretch_of_floats_needs_the_unit() -> None:
    reflectance = np.linspace(0, 0.4, 400, dtype=np.float64).reshape(20, 20)
    with pytest.raises(ImageError, match=r"value_range='0-1', or value_range='0-10000'"):
        to_rgb(reflectance, ImageOptions(stretch="sentinel2"))
    unit = to_rgb(reflectance, ImageOptions(stretch="sentinel2", value_range="0-1"))
    large = to_rgb(reflectance * 10000, ImageOptions(stretch="sentinel2", value_range="0-10000"))
    integers = to_rgb((reflectance * 10000).round().astype(np.uint16), ImageOptions(stretch="sentinel2"))
    np.testing.assert_allclose(unit, large, atol=1e-3)
    np.testing.assert_allclose(unit, integers, atol=0.05)
    with pytest.raises(ImageError, match="is it value_range='0-10000'"):
        to_rgb(reflectance * 10000, ImageOptions(stretch="sentinel2", value_range="0-1"))
    with pytest.raises(ImageError, match="is it value_range='0-1'"):
        to_rgb(reflectance, ImageOptions(stretch="sentinel2", value_range="0-10000"))


def test_sentinel2_stretch_refuses_8_bit() -> None:
    with pytest.raises(ImageError, match="stretched already"):
        to_rgb(rgb_tile(), ImageOptions(stretch="sentinel2"))
    with pytest.raises(ImageError, match="stretched already"):
        to_rgb(Image.fromarray(rgb_tile()), ImageOptions(stretch="sentinel2"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_need_their_range(dtype: type) -> None:
    array = np.linspace(0, 0.9, 20 * 20 * 3).reshape(20, 20, 3).astype(dtype)
    with pytest.raises(ImageError, match=r"value_range='0-1' or value_range='0-255'.*stretch="):
        to_rgb(array)
    unit = to_rgb(array, ImageOptions(value_range="0-1"))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, array.astype(np.float32) * 255, rtol=1e-6)
    bright = array * 200
    np.testing.assert_array_equal(to_rgb(bright, ImageOptions(value_range="0-255")), bright.astype(np.float32))
    with pytest.raises(ImageError, match=r"are black in value_range='0-255'; pass value_range='0-1'"):
        to_rgb(array, ImageOptions(value_range="0-255"))
    assert to_rgb(array, ImageOptions(stretch=(0, 255))).max() < 1  # it really is that dark
    assert to_rgb(np.ones((20, 20, 3), np.float32), ImageOptions(value_range="0-255")).max() == 1  # whole numbers


def test_values_outside_the_stated_range_are_an_error() -> None:
    array = np.full((20, 20, 3), 2.0, np.float32)
    with pytest.raises(ImageError, match=r"from 2 to 2, outside value_range='0-1'"):
        to_rgb(array, ImageOptions(value_range="0-1"))
    with pytest.raises(ImageError, match="outside value_range='0-255'"):
        to_rgb(np.full((20, 20), 300, np.int16), ImageOptions(value_range="0-255"))
    with pytest.raises(ImageError, match="is uint8, value_range='0-1' is for floats"):
        to_rgb(rgb_tile(), ImageOptions(value_range="0-1"))


def test_torch_dtypes() -> None:
    unit = torch.rand(3, 20, 20)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rgb = to_rgb(unit.to(dtype, copy=True).requires_grad_(), ImageOptions(value_range="0-1"))
        np.testing.assert_allclose(rgb, unit.permute(1, 2, 0).numpy() * 255, atol=1.1)


@given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e4), st.integers(0, 2**31))
def test_a_numeric_stretch_stays_in_range_and_keeps_order(low: float, width: float, seed: int) -> None:
    array = np.random.default_rng(seed).normal(low, width, (14, 14)).astype(np.float32)
    rgb = to_rgb(array, ImageOptions(stretch=(low, low + width)))
    assert rgb.min() >= 0
    assert rgb.max() <= 255
    order = np.argsort(array, axis=None)
    assert (np.diff(rgb[..., 0].ravel()[order]) >= 0).all()


def test_percentile_stretch_spans_the_range_and_keeps_the_colour_balance() -> None:
    cube = np.random.default_rng(0).integers(200, 3000, (50, 50, 3)).astype(np.uint16)
    cube[..., 2] //= 2
    rgb = to_rgb(cube, ImageOptions(stretch="percentile"))
    assert rgb.min() == 0
    assert rgb.max() == pytest.approx(255, abs=1e-3)
    assert rgb[..., 0].mean() > 1.5 * rgb[..., 2].mean()
    with pytest.raises(ImageError, match="needs contrast"):
        to_rgb(np.full((20, 20), 7, np.uint16), ImageOptions(stretch="percentile"))


def test_offset_is_subtracted_before_the_stretch() -> None:
    array = np.full((20, 20), 2000, np.uint16)
    shifted = to_rgb(array, ImageOptions(stretch="sentinel2", offset=1000))
    assert shifted == pytest.approx(1000 * 255 / 2750, abs=1e-3)
    plain = to_rgb(array, ImageOptions(stretch="sentinel2"))  # an array says nothing about its baseline
    np.testing.assert_array_equal(plain, to_rgb(array, ImageOptions(stretch="sentinel2", offset=None)))
    assert to_rgb(array, ImageOptions(stretch=(0, 2000), offset=1000)) == pytest.approx(127.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_pixels(bad: float) -> None:
    array = np.full((20, 20, 3), 0.5, np.float32)
    array[3, 4, 1] = bad
    for options in (ImageOptions(value_range="0-1"), ImageOptions(), ImageOptions(stretch=(0, 1))):
        with pytest.raises(ImageError, match="NaN or infinite"):
            to_rgb(array, options)


def test_masked_pixels_are_black_and_do_not_count() -> None:
    array = np.ma.masked_invalid(np.linspace(100, 200, 20 * 20 * 3, dtype=np.float32).reshape(20, 20, 3))
    array[0, 0, 1] = np.ma.masked
    array.data[0, 0, 1] = np.nan
    rgb = to_rgb(array, ImageOptions(stretch="percentile"))
    assert rgb[0, 0].tolist() == [0, 0, 0]
    assert rgb[19, 19, 0] == pytest.approx(255, abs=1e-3)
    array.mask = True
    with pytest.raises(ImageError, match="every pixel is nodata"):
        to_rgb(array, ImageOptions(stretch="percentile"))


@pytest.mark.tiles
def test_eurosat_reflectance_stretches_to_its_own_rgb_tiles(data_dir: Path) -> None:
    options = ImageOptions(stretch="sentinel2", bands=(4, 3, 2))
    by_name = ImageOptions(stretch="sentinel2", bands=("red", "green", "blue"), band_names=EUROSAT_MS)
    with zipfile.ZipFile(data_dir / "eurosat_ms.zip") as ms, zipfile.ZipFile(data_dir / "eurosat_rgb.zip") as jpegs:
        names = [name for name in ms.namelist() if name.startswith("val/") and name.endswith(".tif")]
        assert len(names) == 35
        errors = []
        for name in names:
            stretched = to_rgb(io.BytesIO(ms.read(name)), options, name=name)
            published = to_rgb(io.BytesIO(jpegs.read(name.replace(".tif", ".jpg")))).astype(np.float32)
            error = np.median(np.abs(stretched - published))
            assert error < 4, name  # the JPEGs' own loss on busy tiles
            errors.append(error)
            np.testing.assert_array_equal(to_rgb(io.BytesIO(ms.read(name)), by_name), stretched)
    assert np.median(errors) < 1.5
