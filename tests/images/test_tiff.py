"""TIFF and GeoTIFF tiles: bands, nodata, orientation, the Sentinel-2 offset, with rasterio and without."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sattxt.errors import ImageError, MissingExtraError
from sattxt.images.bands import SENTINEL2_L1C
from sattxt.images.options import ImageOptions
from sattxt.images.read import to_rgb
from sattxt.images.tiff import read_pages

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import Affine, from_origin  # noqa: E402

NORTH_UP = from_origin(600_000, 5_000_000, 10, 10)
S2 = ImageOptions(stretch="sentinel2", bands=(4, 3, 2))


def write(path: Path, bands: np.ndarray, *, names: tuple[str, ...] = (), tags: dict[str, str] | None = None, **profile):
    """A GeoTIFF of (C, H, W) ``bands``."""
    profile = {"transform": NORTH_UP, "crs": "EPSG:32632", **profile}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            path, "w", driver="GTiff", count=bands.shape[0], height=bands.shape[1], width=bands.shape[2],
            dtype=bands.dtype, **profile,
        ) as file:  # fmt: skip
            file.write(bands)
            if names:
                file.descriptions = names
            file.update_tags(**(tags or {}))
    return path


def cube(count: int = 13, height: int = 16, width: int = 18, dtype: str = "uint16") -> np.ndarray:
    top = 256 if dtype == "uint8" else 2700
    return np.random.default_rng(count).integers(1, top, (count, height, width)).astype(dtype)


@pytest.fixture
def without_rasterio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)


def stretched(bands: np.ndarray) -> np.ndarray:
    return np.clip(bands.astype(np.float64), 0, 2750).transpose(1, 2, 0) * 255 / 2750


def test_bands_by_number_from_a_path_and_a_file_object(tmp_path: Path) -> None:
    data = cube()
    path = write(tmp_path / "ms.tif", data)
    expected = stretched(data[[3, 2, 1]])
    np.testing.assert_allclose(to_rgb(path, S2), expected, atol=1e-3)
    np.testing.assert_allclose(to_rgb(io.BytesIO(path.read_bytes()), S2), expected, atol=1e-3)
    with path.open("rb") as file:
        np.testing.assert_allclose(to_rgb(file, S2), expected, atol=1e-3)


def test_bands_by_the_names_in_the_file(tmp_path: Path) -> None:
    data = cube(4)
    path = write(tmp_path / "named.tif", data, names=("B2", "B3", "B4", "B8"))
    options = ImageOptions(stretch="sentinel2", bands=("B04", "green", "b02"))
    np.testing.assert_allclose(to_rgb(path, options), stretched(data[[2, 1, 0]]), atol=1e-3)
    with pytest.raises(ImageError, match=r"named\.tif: has 4 bands; pass bands=\('B04', 'B03', 'B02'\)"):
        to_rgb(path, ImageOptions(stretch="sentinel2"))


def test_names_in_a_json_image_description(tmp_path: Path) -> None:
    data = cube(4)
    path = write(tmp_path / "j.tif", data, tags={"TIFFTAG_IMAGEDESCRIPTION": '{"bands": ["B02", "B03", "B04", "B08"]}'})
    options = ImageOptions(stretch="sentinel2", bands=("red", "green", "blue"))
    np.testing.assert_allclose(to_rgb(path, options), stretched(data[[2, 1, 0]]), atol=1e-3)


def test_a_nameless_file_cannot_be_asked_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "eurosat.tif", cube())
    with pytest.raises(ImageError, match=r"eurosat\.tif: .*no names.*bands=\(4, 3, 2\).*band_names="):
        to_rgb(path, ImageOptions(stretch="sentinel2", bands=("B04", "B03", "B02")))


@pytest.mark.parametrize("count", [2, 4, 13])
def test_many_16_bit_bands_need_bands(tmp_path: Path, count: int) -> None:
    path = write(tmp_path / "ms.tif", cube(count))
    with pytest.raises(ImageError, match=rf"ms\.tif: has {count} bands; pass bands="):
        to_rgb(path, ImageOptions(stretch="sentinel2"))


def test_three_16_bit_bands_need_a_stretch(tmp_path: Path) -> None:
    path = write(tmp_path / "rgb16.tif", cube(3))
    with pytest.raises(ImageError, match=r"rgb16\.tif: uint16 pixels .*stretch='sentinel2'"):
        to_rgb(path)
    np.testing.assert_allclose(to_rgb(path, ImageOptions(stretch="sentinel2")), stretched(cube(3)), atol=1e-3)


def test_8_bit_bands_named_in_another_order_are_put_in_order(tmp_path: Path) -> None:
    data = cube(3, dtype="uint8")
    path = write(tmp_path / "bgr.tif", data, names=("B02", "B03", "B04"), photometric="RGB")
    np.testing.assert_array_equal(to_rgb(path), data[::-1].transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("name", "names", "tags"),
    [
        ("a.tif", SENTINEL2_L1C, {}),
        ("a.tif", SENTINEL2_L1C, {"PRODUCT_URI": "S2B_MSIL1C_20240301T101010_N0510_R022_T32TQM_20240301T103000.SAFE"}),
        ("S2A_MSIL1C_20200101T101010_N0208_R022_T32TQM_20200101T103000.tif", SENTINEL2_L1C, {}),
    ],
)
def test_a_sentinel2_cube_is_read_on_the_first_try(
    tmp_path: Path, name: str, names: tuple[str, ...], tags: dict[str, str]
) -> None:
    path = write(tmp_path / name, cube(13), names=names, tags=tags)
    asked = ImageOptions(stretch="sentinel2", bands=("B04", "B03", "B02"))
    np.testing.assert_array_equal(to_rgb(path), to_rgb(path, asked))


def test_a_product_file_of_one_band_is_stretched_and_a_mask_is_not(tmp_path: Path) -> None:
    band = write(tmp_path / "S2A_MSIL2A_20170613T101031_0_55_B04.tif", cube(1))
    np.testing.assert_array_equal(to_rgb(band), to_rgb(band, ImageOptions(stretch="sentinel2")))
    folder = tmp_path / "S2A_MSIL2A_20170613T101031_N0205_R022_T33UUP_20170613T103000.SAFE"
    folder.mkdir()
    for name in ("T33UUP_20170613T101031_AOT_10m.tif", "mine.tif"):
        with pytest.raises(ImageError, match="need stretch="):
            to_rgb(write(folder / name, cube(1)))


@pytest.mark.parametrize("bits", [12, 15, 16])
def test_a_band_in_jpeg_2000_keeps_its_values(tmp_path: Path, bits: int) -> None:
    """Pillow fills 16 bits: values of Sentinel-2's 15 come out doubled."""
    data = cube(1)
    path = tmp_path / "T32TQM_20200701T101031_B04_10m.jp2"
    depth = {} if bits == 16 else {"NBITS": str(bits)}
    write_jp2 = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES", **depth}
    with rasterio.open(path, "w", count=1, height=16, width=18, dtype="uint16", **write_jp2) as file:
        file.write(data)
    wanted = stretched(np.repeat(data, 3, axis=0))
    np.testing.assert_allclose(to_rgb(path), wanted, atol=1e-3)
    np.testing.assert_allclose(to_rgb(Image.open(path), ImageOptions(stretch="sentinel2")), wanted, atol=1e-3)
    loaded = Image.open(path)
    loaded.load()
    with pytest.raises(ImageError, match="pass the file's path"):
        to_rgb(loaded, ImageOptions(stretch="sentinel2"))


LAYOUTS = {
    "strips": {},
    "deflate": {"compress": "deflate", "predictor": 2},
    "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16},
    "planes": {"interleave": "band"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, 3, 4])
def test_plain_8_bit_files_read_alike_with_and_without_rasterio(
    tmp_path: Path, count: int, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cube(count, dtype="uint8")
    photometric = "RGB" if count > 1 else "MINISBLACK"
    path = write(tmp_path / "plain.tif", data, photometric=photometric, **LAYOUTS[layout])
    expected = (data[[0, 0, 0]] if count == 1 else data[:3]).transpose(1, 2, 0)
    np.testing.assert_array_equal(to_rgb(path), expected)
    ((_, values),) = read_pages(path, max_pixels=10**6, where="plain.tif")  # by rasterio
    np.testing.assert_array_equal(values[[0, 0, 0] if count == 1 else [0, 1, 2]].transpose(1, 2, 0), expected)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    if (count, layout) == (4, "planes"):  # which Pillow cannot
        with pytest.raises(MissingExtraError):
            to_rgb(path)
    else:
        np.testing.assert_array_equal(to_rgb(path), expected)


def test_the_fourth_band_of_an_rgb_file_can_be_asked_for(tmp_path: Path) -> None:
    data = cube(4, dtype="uint8")
    path = write(tmp_path / "rgbn.tif", data, photometric="RGB")
    np.testing.assert_array_equal(to_rgb(path, ImageOptions(bands=(4, 1, 2))), data[[3, 0, 1]].transpose(1, 2, 0))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_one_band_files_need_no_rasterio(tmp_path: Path, dtype: str, without_rasterio: None) -> None:
    data = cube(1, dtype=dtype)
    path = write(tmp_path / "b04.tif", data)
    options = ImageOptions(stretch="sentinel2", value_range="0-10000" if dtype == "float32" else None)
    np.testing.assert_allclose(to_rgb(path, options), stretched(data[[0, 0, 0]]), atol=1e-3)


def test_multi_band_files_without_rasterio_name_the_extra(tmp_path: Path, without_rasterio: None) -> None:
    path = write(tmp_path / "ms.tif", cube())
    with pytest.raises(MissingExtraError, match=r"ms\.tif.*pip install 'sattxt\[geo\]'"):
        to_rgb(path, S2)


def test_a_damaged_file_is_an_image_error_even_without_rasterio(tmp_path: Path, without_rasterio: None) -> None:
    junk = tmp_path / "junk.tif"
    junk.write_bytes(b"II*\0" + bytes(range(200)))
    with pytest.raises(ImageError, match=r"junk\.tif: .*(truncated|damaged)"):
        to_rgb(junk)
    cut = write(tmp_path / "cut.tif", cube(3, 64, 64, dtype="uint8"), photometric="RGB")
    cut.write_bytes(cut.read_bytes()[:6000])
    with pytest.raises(ImageError, match=r"cut\.tif: .*truncated"):
        to_rgb(cut)


@pytest.mark.parametrize("kept", [8, 100, 2000, 20_000])
def test_truncated_multi_band_files(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path / "cut.tif", cube(13, 64, 64))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ImageError, match=r"cut\.tif: ") as error:
        to_rgb(path, S2)
    assert "\n" not in str(error.value)


def test_palette_tiff(tmp_path: Path) -> None:
    image = Image.fromarray(cube(3, dtype="uint8").transpose(1, 2, 0)).convert("P")
    image.save(tmp_path / "p.tif")
    np.testing.assert_array_equal(to_rgb(tmp_path / "p.tif"), np.asarray(image.convert("RGB")))


def test_palette_tiff_that_only_rasterio_reads(tmp_path: Path) -> None:
    indices = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) % 4
    colours = {0: (255, 0, 0, 255), 1: (0, 255, 0, 255), 2: (0, 0, 255, 255), 3: (9, 8, 7, 255)}
    with rasterio.open(tmp_path / "p.tif", "w", driver="GTiff", count=1, height=8, width=8, dtype="uint8",
                       compress="lerc", photometric="palette") as out:  # fmt: skip
        out.write_colormap(1, colours)
        out.write(indices)
    expected = np.array([colours[i][:3] for i in range(4)], dtype=np.uint8)[indices[0]]
    np.testing.assert_array_equal(to_rgb(tmp_path / "p.tif"), expected)


@pytest.mark.parametrize("count", [1, 13])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_nodata_is_black_and_does_not_count(tmp_path: Path, count: int, dtype: str) -> None:
    data = cube(count, dtype=dtype)
    nodata = np.nan if dtype == "float32" else -9999
    data[:, :4] = nodata
    path = write(tmp_path / "n.tif", data, nodata=nodata)
    bands = (4, 3, 2) if count == 13 else (1,)
    rgb = to_rgb(path, ImageOptions(stretch="percentile", bands=bands))
    assert (rgb[:4] == 0).all()
    chosen = data[[b - 1 for b in bands]].transpose(1, 2, 0)
    only = to_rgb(chosen[4:], ImageOptions(stretch="percentile", channels="last"))
    np.testing.assert_allclose(rgb[4:], only, atol=1e-2)


@pytest.mark.parametrize("count", [1, 13])
def test_a_tile_of_nodata_only_is_an_error(tmp_path: Path, count: int) -> None:
    path = write(tmp_path / "void.tif", np.zeros((count, 16, 18), np.uint16), nodata=0)
    with pytest.raises(ImageError, match=r"void\.tif: every pixel is nodata"):
        to_rgb(path, ImageOptions(stretch="sentinel2", bands=(1,)))


def test_nan_without_declared_nodata_is_an_error(tmp_path: Path) -> None:
    data = cube(1, dtype="float32")
    data[0, 2, 2] = np.nan
    with pytest.raises(ImageError, match="NaN"):
        to_rgb(write(tmp_path / "nan.tif", data), ImageOptions(stretch=(0, 3000)))


@pytest.mark.parametrize("count", [1, 3, 13])
@pytest.mark.parametrize(("sx", "sy"), [(1, -1), (1, 1), (-1, -1), (-1, 1)])
def test_mirrored_rasters_are_read_north_up(tmp_path: Path, count: int, sx: int, sy: int) -> None:
    dtype = "uint8" if count == 3 else "uint16"
    data = cube(count, dtype=dtype)
    upright = data[:, ::-sy, ::sx]  # what lies north-west comes first
    path = write(tmp_path / "m.tif", data, transform=Affine(10.0 * sx, 0, 6e5, 0, 10.0 * sy, 5e6))
    options = (
        ImageOptions() if count == 3 else ImageOptions(stretch="sentinel2", bands=(4, 3, 2) if count == 13 else (1,))
    )
    expected = upright.transpose(1, 2, 0) if count == 3 else stretched(upright[[3, 2, 1] if count == 13 else [0, 0, 0]])
    np.testing.assert_allclose(to_rgb(path, options), expected, atol=1e-3)


def test_rotated_and_unreferenced_rasters_stay_as_stored(tmp_path: Path) -> None:
    data = cube()
    rotated, sheared = Affine(7, 7, 6e5, 7, -7, 5e6), [Affine(7, 0, 6e5, 3, 7, 5e6), Affine(-7, 3, 6e5, 0, -7, 5e6)]
    for transform, crs in ((rotated, "EPSG:32632"), *((t, "EPSG:32632") for t in sheared), (Affine.identity(), None)):
        path = write(tmp_path / "r.tif", data, transform=transform, crs=crs)
        np.testing.assert_allclose(to_rgb(path, S2), stretched(data[[3, 2, 1]]), atol=1e-3)


def test_a_missing_position_does_not_warn(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tif", cube(), transform=Affine.identity(), crs=None)
    program = (
        "from sattxt.images.options import ImageOptions\nfrom sattxt.images.read import to_rgb\n"
        f"print(to_rgb({str(path)!r}, ImageOptions(stretch='sentinel2', bands=(4, 3, 2))).shape)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("(16, 18, 3)\n", "")


@pytest.mark.parametrize("count", [1, 13])
@pytest.mark.parametrize(
    ("name", "tags", "added"),
    [
        ("S2A_MSIL2A_20220301T101010_N0400_R022_T32TQM.tif", {}, 1000),
        ("S2A_MSIL1C_20200301T101010_N0209_R022_T32TQM.tif", {}, 0),
        ("tile.tif", {"PROCESSING_BASELINE": "05.10"}, 1000),
        ("tile.tif", {}, 0),
    ],
)
def test_the_baseline_offset(tmp_path: Path, count: int, name: str, tags: dict[str, str], added: int) -> None:
    data = cube(count)
    path = write(tmp_path / name, data, tags=tags)
    bands, rows = ((4, 3, 2), [3, 2, 1]) if count == 13 else ((1,), [0, 0, 0])
    chosen = data[rows].astype(np.int32)
    auto = to_rgb(path, ImageOptions(stretch="sentinel2", bands=bands))
    with path.open("rb") as file:
        np.testing.assert_array_equal(to_rgb(file, ImageOptions(stretch="sentinel2", bands=bands)), auto)
    np.testing.assert_allclose(auto, stretched(chosen - added), atol=1e-3)
    switched = to_rgb(path, ImageOptions(stretch="sentinel2", bands=bands, offset=None))
    np.testing.assert_allclose(switched, stretched(chosen), atol=1e-3)
    # numbers are in the file's own unit: "auto" leaves them alone
    numbers = to_rgb(path, ImageOptions(stretch=(0, 2750), bands=bands))
    np.testing.assert_allclose(numbers, stretched(chosen), atol=1e-3)


@pytest.mark.parametrize("count", [1, 13])
def test_the_offset_from_the_bands_own_scale_and_offset(tmp_path: Path, count: int) -> None:
    path = write(tmp_path / "cog.tif", np.full((count, 8, 20), 2000, np.uint16))
    with rasterio.open(path, "r+") as file:
        file.scales = (0.0001,) * count
        file.offsets = (-0.1,) * count
    rgb = to_rgb(path, ImageOptions(stretch="sentinel2", bands=(1,)))
    assert rgb == pytest.approx(1000 * 255 / 2750, abs=1e-3)


def test_too_large_multi_band_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "large.tif", cube(13, 64, 64))
    with pytest.raises(ImageError, match=r"large\.tif: 64 x 64 pixels are more than max_pixels=4095"):
        to_rgb(path, ImageOptions(stretch="sentinel2", bands=(4, 3, 2), max_pixels=4095))


@pytest.mark.tiles
def test_sentinel2_tiles_name_their_bands(data_dir: Path) -> None:
    options = ImageOptions(bands=("B04", "B03", "B02"))
    with zipfile.ZipFile(data_dir / "s2_tiles.zip") as tiles:
        for name in [name for name in tiles.namelist() if name.startswith("val/") and name.endswith(".tif")][:10]:
            content = tiles.read(name)
            rgb = to_rgb(io.BytesIO(content), options, name=name)
            with rasterio.MemoryFile(content) as memory, memory.open() as file:
                np.testing.assert_array_equal(rgb, file.read([3, 2, 1]).transpose(1, 2, 0))
            np.testing.assert_array_equal(to_rgb(io.BytesIO(content)), rgb)


@pytest.mark.tiles
def test_scenes_with_and_without_names_and_nodata(data_dir: Path) -> None:
    with zipfile.ZipFile(data_dir / "s2_scenes.zip") as scenes:
        flood = to_rgb(
            io.BytesIO(scenes.read("sen1floods11/Spain_7370579_S2Hand.tif")),
            ImageOptions(stretch="sentinel2", bands=("red", "green", "blue")),
        )
        rgb = to_rgb(io.BytesIO(scenes.read("terramind/S2RGB/38D_378R_2_3.tif")))
    assert flood.shape == (512, 512, 3)
    assert 5 < flood.mean() < 250
    assert rgb.dtype == np.uint8
    assert rgb.shape == (224, 224, 3)


def test_a_16_bit_picture_keeps_its_values(tmp_path: Path) -> None:
    data = cube(3)
    path = write(tmp_path / "rgb16.tif", data, photometric="RGB")
    np.testing.assert_allclose(to_rgb(path, ImageOptions(stretch="sentinel2")), stretched(data), atol=1e-3)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_nodata_of_one_band_needs_no_rasterio(tmp_path: Path, dtype: str, without_rasterio: None) -> None:
    data = cube(1, dtype=dtype)
    data[:, :4] = nodata = np.nan if dtype == "float32" else -9999
    rgb = to_rgb(write(tmp_path / "n.tif", data, nodata=nodata), ImageOptions(stretch=(0, 2750)))
    np.testing.assert_allclose(rgb, stretched(np.repeat(np.nan_to_num(data), 3, axis=0)), atol=1e-3)


def test_nodata_of_a_palette_is_an_index(tmp_path: Path, without_rasterio: None) -> None:
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([9, 9, 9, 200, 100, 50, 9, 0, 9])
    image.save(tmp_path / "p.tif", tiffinfo={42113: "2"})
    assert to_rgb(tmp_path / "p.tif").tolist() == [[[9, 9, 9], [200, 100, 50]], [[0, 0, 0], [200, 100, 50]]]


@pytest.mark.parametrize("mode", ["1", "LA"])
def test_black_and_white_and_grey_with_alpha(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(cube(1, dtype="uint8")[0]).convert(mode)
    image.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(to_rgb(tmp_path / "a.tif"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("count", [1, 13])
def test_a_file_of_more_than_4_gb_has_another_header(tmp_path: Path, count: int) -> None:
    data = cube(count)
    path = write(tmp_path / "big.tif", data, BIGTIFF="YES")
    options = ImageOptions(stretch="sentinel2", bands=(1,))
    np.testing.assert_allclose(to_rgb(path, options), stretched(data[[0, 0, 0]]), atol=1e-3)


def test_bands_in_ten_thousandths_without_an_offset_have_none(tmp_path: Path) -> None:
    path = write(tmp_path / "S2A_MSIL2A_20220301T101010_N0400_R022_T32TQM.tif", cube(2))
    with rasterio.open(path, "r+") as file:
        file.scales = (0.0001,) * 2
    options = ImageOptions(stretch="sentinel2", bands=(1,))
    np.testing.assert_allclose(to_rgb(path, options), stretched(cube(2)[[0, 0, 0]]), atol=1e-3)


def test_a_closed_dataset_is_told(tmp_path: Path) -> None:
    with rasterio.open(write(tmp_path / "a.tif", cube(3, dtype="uint8"))) as file:
        pass
    with pytest.raises(ImageError, match=r"a\.tif: cannot be read, or is closed \("):
        to_rgb(file)


@pytest.mark.parametrize("count", [1, 13])
def test_an_offset_without_a_scale_is_in_the_files_unit(tmp_path: Path, count: int) -> None:
    path = write(tmp_path / "a.tif", np.full((count, 8, 20), 2000, np.uint16))
    with rasterio.open(path, "r+") as file:
        file.offsets = (-1000,) * count
    rgb = to_rgb(path, ImageOptions(stretch="sentinel2", bands=(1,)))
    assert rgb == pytest.approx(1000 * 255 / 2750, abs=1e-3)


def test_damaged_pixels_are_told_without_rasterio(tmp_path: Path, without_rasterio: None) -> None:
    path = write(tmp_path / "d.tif", cube(1, 64, 64, dtype="uint8"), compress="deflate")
    with Image.open(path) as image:
        start = image.tag_v2[273][0]  # where the first strip lies
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"d\.tif: cannot be read as a TIFF, it may be truncated or damaged \(.+\)$"):
        to_rgb(path)
