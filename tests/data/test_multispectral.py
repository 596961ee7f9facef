"""Tiles with all their bands: names, coding, offsets and pages, and what makes a tile unreadable."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from tile_files import bands, geotiff, pack

from sattxt.data.multispectral import BandSamples, read_bands, with_bands
from sattxt.data.registry import open_data
from sattxt.errors import ImageError, InputError
from sattxt.images.options import ImageOptions

rasterio = pytest.importorskip("rasterio")

PLAIN = ImageOptions()
NAMES = ["B02", "B03", "B04", "B08"]


def two_pages(path: Path, value: int, *, coded: bool = True) -> bytes:
    """Four bands at 16 x 16 and two at 8 x 8 pixels, 8-bit, square-root coded."""
    pages = ((NAMES, 16, {}), (["B11", "B12"], 8, {"APPEND_SUBDATASET": "YES"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        for names, side, more in pages:
            kind = {"driver": "GTiff", "width": side, "height": side, "count": len(names), "dtype": "uint8"}
            with rasterio.open(path, "w", **kind, **more) as page:
                page.write(np.full((len(names), side, side), value, np.uint8))
                told = {"bands": names, **({"reflectance": "(v/255)**2"} if coded else {})}
                page.update_tags(TIFFTAG_IMAGEDESCRIPTION=json.dumps(told))
    return path.read_bytes()


def test_pages_keep_their_resolution_and_say_how_they_are_coded(tmp_path):
    pack(tmp_path / "s2.zip", {"train/x/a.tif": two_pages(tmp_path / "a.tif", 51)})
    samples = open_data(tmp_path / "s2.zip", "s2").split("train")
    assert isinstance(samples, BandSamples)
    found = samples.bands(0)
    assert {name: band.shape for name, band in found.items()} == {
        **dict.fromkeys(NAMES, (16, 16)), "B11": (8, 8), "B12": (8, 8),
    }  # fmt: skip
    assert found["B11"][0, 0] == pytest.approx(400)  # (51 / 255)^2 x 10,000
    assert samples.image(0)[0, 0].tolist() == [37, 37, 37]  # 400 x 255 / 2750
    with pytest.raises(ImageError, match="has 8 bits and does not say how reflectance is coded"):
        read_bands(two_pages(tmp_path / "b.tif", 51, coded=False), "b.tif", PLAIN)


def test_names_and_offsets_come_from_the_file_or_from_options():
    told = geotiff(bands(1100), ["blue", "B3", "B4, 665 nm", "nir"], tags={"PROCESSING_BASELINE": "05.09"})
    assert {name: band[0, 0] for name, band in read_bands(told, "x", PLAIN).items()} == {
        "B02": 100, "B03": 101, "B04": 102, "B08": 103,
    }  # fmt: skip
    assert read_bands(told, "x", ImageOptions(offset=0))["B02"][0, 0] == 1100
    assert read_bands(told, "x", ImageOptions(stretch="sentinel2", offset=100), scale=2)["B02"][0, 0] == 2000
    unnamed = geotiff(bands(5))
    with pytest.raises(ImageError, match=r"x: the names of its 4 bands are not known; pass them all in order"):
        read_bands(unnamed, "x", PLAIN)
    with pytest.raises(ImageError, match=r"x: has 4 bands, 3 are named \(B02, B03, B04\)"):
        read_bands(unnamed, "x", ImageOptions(band_names=NAMES[:3]))


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        (bands(7), {"nodata": 7}, "holds pixels that it calls nodata"),
        (np.full((4, 8, 8), np.nan, np.float32), {}, "holds NaN or infinity"),
        (np.full((4, 8, 8), 0.5, np.float32), {}, r"holds reflectance in 0-1 \(at most 0.5\) .* pass scale: 10000"),
    ],
)
def test_a_tile_without_data_or_unit_is_refused(values, options, said):
    with pytest.raises(ImageError, match=f"x.tif: {said}"):
        read_bands(geotiff(values, NAMES, **options), "x.tif", PLAIN)


def test_any_tiles_can_be_seen_with_their_bands(tmp_path):
    pack(tmp_path / "x.zip", {"train/lake/a.tif": geotiff(bands(1375, count=3))})
    options = ImageOptions(stretch="sentinel2", bands=("B04", "B03", "B02"), band_names=("B04", "B03", "B02"))
    plain = open_data(tmp_path / "x.zip", options=options).split("train")
    seen = with_bands(plain)
    assert (seen.classes, list(seen.bands(0))) == (("lake",), ["B04", "B03", "B02"])
    assert np.abs(seen.image(0) - plain.image(0)).max() <= 0.5
    assert with_bands(seen) is seen
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no file ending in \.tif or \.tiff"):
        open_data(tmp_path / "empty", "geotiff")


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
@pytest.mark.parametrize("offset", ["auto", None, 0, 400])
def test_an_offset_means_the_same_for_pictures_and_for_bands(tmp_path, kind, offset):
    told = geotiff(bands(1500).astype(kind), ["B02", "B03", "B04", "B08"], tags={"PROCESSING_BASELINE": "05.09"})
    pack(tmp_path / "x.zip", {"train/lake/a.tif": told})
    unit = "0-10000" if kind == np.float32 else None
    options = ImageOptions(stretch="sentinel2", bands=("B04", "B03", "B02"), offset=offset, value_range=unit)
    plain = open_data(tmp_path / "x.zip", options=options).split("train")
    with_offset = 1500 - (1000 if offset == "auto" and kind == np.uint16 else 400 if offset == 400 else 0)
    assert with_bands(plain).bands(0)["B02"][0, 0] == with_offset
    assert np.abs(with_bands(plain).image(0) - plain.image(0)).max() <= 0.5


def test_names_and_an_offset_of_a_recipe_hold_beside_reading_options(tmp_path):
    pack(tmp_path / "x.zip", {"train/a.tif": geotiff(bands(1500))})
    options = ImageOptions(stretch="sentinel2", offset=300)
    tiles = open_data(tmp_path / "x.zip", "geotiff", bands=tuple(NAMES), options=options).split("train")
    assert tiles.bands(0)["B02"][0, 0] == 1200
    tiles = open_data(tmp_path / "x.zip", "geotiff", bands=tuple(NAMES), offset=0, options=options).split("train")
    assert tiles.bands(0)["B02"][0, 0] == 1500
