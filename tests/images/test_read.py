"""Anything a user passes -> RGB in 0..255, or one line that says what to pass."""

from __future__ import annotations

import errno
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sattxt.errors import ImageError, InputError, SatTxtError
from sattxt.images.bands import EUROSAT_MS, SENTINEL2_L1C, canonical, pick_bands, reflectance_offset
from sattxt.images.options import ImageOptions
from sattxt.images.read import to_rgb


def rgb_tile(height: int = 20, width: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def encoded(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


# --- the same picture in every wrapping -------------------------------------------------------------------------------


def test_every_wrapping_of_a_picture_gives_the_same_pixels(tmp_path: Path) -> None:
    tile = rgb_tile()
    image = Image.fromarray(tile)
    path = tmp_path / "tile.png"
    image.save(path)
    chw = np.ascontiguousarray(tile.transpose(2, 0, 1))
    inputs = [
        path,
        str(path),
        io.BytesIO(path.read_bytes()),
        image,
        tile,
        tile[::-1][::-1],
        chw,
        torch.from_numpy(tile),
        torch.from_numpy(chw),
        Image.open(path),
    ]
    for given_as in inputs:
        rgb = to_rgb(given_as)
        assert rgb.dtype == np.uint8
        assert rgb.flags.c_contiguous
        np.testing.assert_array_equal(rgb, tile)
    with path.open("rb") as file:
        np.testing.assert_array_equal(to_rgb(file), tile)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "AVIF", "JPEG", "JPEG2000", "PPM", "TIFF"])
def test_formats(kind: str) -> None:
    image = Image.new("RGB", (32, 32), (200, 100, 40))
    assert np.abs(to_rgb(encoded(image, kind)).astype(int) - (200, 100, 40)).max() <= 12


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "RGBa", "La"])
def test_pillow_modes_become_what_convert_gives(mode: str) -> None:
    source = Image.fromarray(rgb_tile())
    if mode in ("RGBa", "La"):
        source = source.convert(mode.upper())
    image = source.convert(mode)
    plain = image.convert(mode.upper()) if mode in ("RGBa", "La") else image
    np.testing.assert_array_equal(to_rgb(image), np.asarray(plain.convert("RGB")))


def test_transparency_is_dropped_and_the_colour_under_it_kept() -> None:
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert to_rgb(image)[0, 0].tolist() == [10, 20, 30]


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    read = Image.open(encoded(image, "PNG", transparency=b"\x00\x10"))
    assert to_rgb(read)[2, 2].tolist() == [9, 8, 7]


def test_golden_images_equal_convert_rgb(golden_dir: Path) -> None:
    files = sorted((golden_dir / "sattxt" / "images").glob("*.png"))
    assert {"6_gray.png", "7_rgba.png"} <= {path.name for path in files}
    for path in files:
        np.testing.assert_array_equal(to_rgb(path), np.asarray(Image.open(path).convert("RGB")))


def test_exif_orientation_is_not_applied() -> None:
    image = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[274] = 6  # rotate by 90 degrees
    assert to_rgb(encoded(image, "JPEG", exif=exif)).shape == (20, 40, 3)


def test_grey_arrays_are_repeated() -> None:
    grey = np.arange(240, dtype=np.uint8).reshape(15, 16)
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(to_rgb(array), np.stack([grey] * 3, axis=-1))


def test_the_result_of_a_file_is_writable() -> None:
    to_rgb(encoded(Image.new("RGB", (3, 3)), "PNG"))[0, 0, 0] = 7


# --- which axis, which bands ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 20, 3), (4, 4, 4), (8, 300, 3), (64, 64, 64), (1, 20, 3)])
def test_an_ambiguous_shape_asks_for_channels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="channels='first' or channels='last'"):
        to_rgb(np.zeros(shape, np.uint8))


def test_channels_settles_an_ambiguous_shape() -> None:
    array = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    np.testing.assert_array_equal(to_rgb(array, ImageOptions(channels="last")), array)
    np.testing.assert_array_equal(to_rgb(array, ImageOptions(channels="first")), array.transpose(1, 2, 0))


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
        (3, {"band_names": ("B02", "B03", "B04")}, r"not in RGB order; pass bands=\('B04', 'B03', 'B02'\)"),
    ],
)
def test_wrong_or_missing_bands(count: int, options: dict[str, object], says: str) -> None:
    with pytest.raises(ImageError, match=says) as error:
        to_rgb(np.zeros((20, 20, count), np.uint8), ImageOptions(**options), name="scene-7")
    assert one_line(error).startswith("scene-7: ")


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


# --- values -----------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ImageError, match="is uint8, which is 0-255"):
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


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros((0, 20, 3), np.uint8), "empty"),
        (np.zeros((20, 20, 0), np.uint8), "empty"),
        (np.zeros((2, 20, 20, 3), np.uint8), "a batch"),
        (np.zeros(20, np.uint8), r"an image is \(H, W\)"),
        (np.uint8(3), r"an image is \(H, W\)"),
        (np.zeros((20, 20), bool), "dtype bool"),
        (np.zeros((20, 20), complex), "dtype complex128"),
        (np.full((20, 20), "x"), "dtype <U1"),
        (None, "NoneType"),
        (7, "a int"),
        ([[1, 2], [3, 4]], "is a list"),
        (b"\x89PNG", "io.BytesIO"),
        (io.StringIO("text"), "binary mode"),
        (io.BytesIO(b""), "is empty"),
        (io.BytesIO(b"<html>404</html>"), "no image that can be read"),
        ("http://example.org/tile.png", "download it first"),
        ("s3://bucket/tile.tif", "download it first"),
        (Path("https://example.org/tile.png"), "download it first"),
        ("no/such/tile.png", "no/such/tile.png: no such file"),
        ("nul\0byte.png", "cannot be opened"),
        (Image.new("RGB", (0, 5)), "empty"),
    ],
)  # fmt: skip
def test_bad_input(bad: object, says: str) -> None:
    with pytest.raises(ImageError, match=says) as error:
        to_rgb(bad)
    one_line(error)
    assert isinstance(error.value, (SatTxtError, ValueError))


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        to_rgb(tmp_path)
    empty = tmp_path / "empty.jpg"
    empty.touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: is empty"):
        to_rgb(empty)
    closed = empty.open("rb")
    closed.close()
    with pytest.raises(ImageError, match=r"empty\.jpg: .*binary mode"):
        to_rgb(closed)
    with empty.open("rb") as file, pytest.raises(ImageError, match="tile 9"):
        to_rgb(file, name="tile 9")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_running_out_of_file_handles_is_not_blamed_on_the_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fine.img"
    Image.new("RGB", (4, 4)).save(path, kind)
    opened = []

    def too_many(self: Path, mode: str) -> io.BytesIO:
        opened.append(self)
        if kind == "TIFF" and len(opened) == 1:
            return io.BytesIO(path.read_bytes())
        raise OSError(errno.EMFILE, "Too many open files")

    content = path.read_bytes()
    monkeypatch.setattr(Path, "read_bytes", lambda self: content)
    monkeypatch.setattr(Path, "open", too_many)
    with pytest.raises(OSError, match="Too many open files") as error:
        to_rgb(path)
    assert not isinstance(error.value, SatTxtError)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_truncated_files(kind: str, kept: float, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(rgb_tile(64, 64)), kind).getvalue()
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError, match=r"cut\.img: ") as error:
        to_rgb(path)
    one_line(error)


@given(st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"]), st.data())
def test_damaged_files_give_pixels_or_an_image_error(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(Image.fromarray(rgb_tile(16, 16)), kind).getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        rgb = to_rgb(io.BytesIO(bytes(content)), ImageOptions(max_pixels=2**16))
    except ImageError:
        return
    assert rgb.ndim == 3
    assert rgb.shape[-1] == 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_too_many_pixels_are_refused_undecoded(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "big.img"
    Image.new("L", (300, 200)).save(path, kind)
    with pytest.raises(ImageError, match=r"300 x 200 pixels are more than max_pixels=59999"):
        to_rgb(path, ImageOptions(max_pixels=59_999))
    assert to_rgb(path, ImageOptions(max_pixels=60_000)).shape == (200, 300, 3)


def test_a_decompression_bomb_is_refused_by_default(tmp_path: Path) -> None:
    path = tmp_path / "bomb.bmp"
    data = bytearray(encoded(Image.new("1", (8, 8)), "BMP").getvalue())
    data[18:26] = (60_000).to_bytes(4, "little") + (60_000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"bomb\.bmp: .*(bomb|max_pixels)"):
        to_rgb(path)


def test_16_bit_colour_png_is_not_silently_cut_to_8_bits() -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes(4 * 6) for _ in range(4))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="16 bits per colour"):
        to_rgb(io.BytesIO(png))


@pytest.mark.parametrize(
    "bad",
    [
        {"stretch": "linear"}, {"stretch": (5, 5)}, {"stretch": (9, 1)}, {"stretch": (0, float("nan"))}, {"stretch": 3},
        {"bands": "B04"}, {"bands": (1, 2)}, {"bands": (0, 1, 2)}, {"bands": (1.0, 2.0, 3.0)}, {"bands": 4},
        {"channels": "middle"}, {"value_range": "0-2"}, {"value_range": "0-1", "stretch": "percentile"},
        {"offset": "yes"}, {"offset": 1000}, {"offset": True}, {"band_names": "B04"}, {"max_pixels": 0},
    ],
)  # fmt: skip
def test_options_are_checked_when_made(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))) as error:
        ImageOptions(**bad)
    one_line(error)


# --- real tiles -------------------------------------------------------------------------------------------------------


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


@pytest.mark.tiles
def test_avif_tiles(data_dir: Path) -> None:
    with zipfile.ZipFile(data_dir / "ucm.zip") as tiles:
        names = [name for name in tiles.namelist() if name.endswith(".avif")][:20]
        for name in names:
            rgb = to_rgb(io.BytesIO(tiles.read(name)), name=name)
            assert rgb.dtype == np.uint8
            assert rgb.std() > 1
