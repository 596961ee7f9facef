"""Anything a user passes -> RGB in 0..255, or one line that says what to pass."""

from __future__ import annotations

import errno
import io
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sattxt.errors import ImageError, SatTxtError
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


@pytest.mark.parametrize("shape", [(3, 20, 3), (4, 4, 4), (8, 300, 3), (64, 64, 64), (1, 20, 3)])
def test_an_ambiguous_shape_asks_for_channels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="channels='first' or channels='last'"):
        to_rgb(np.zeros(shape, np.uint8))


def test_channels_settles_an_ambiguous_shape() -> None:
    array = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    np.testing.assert_array_equal(to_rgb(array, ImageOptions(channels="last")), array)
    np.testing.assert_array_equal(to_rgb(array, ImageOptions(channels="first")), array.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros((0, 20, 3), np.uint8), "empty"),
        (np.zeros((20, 20, 0), np.uint8), "empty"),
        (np.zeros((2, 20, 20, 3), np.uint8), "has shape 2x20x20x3, a batch; pass its images one by one, or as a list"),
        (np.zeros(20, np.uint8), r"has shape 20; an image is \(H, W\)"),
        (np.uint8(3), r"has shape \(\); an image is \(H, W\)"),
        (np.zeros((64, 65, 66), np.uint8), "has shape 64x65x66, no end has 1 to .* channels; pass channels='first'"),
        (np.zeros((3, 20, 3), np.uint8), "has shape 3x20x3, either end could be the channels; pass channels='first'"),
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


@pytest.mark.tiles
def test_avif_tiles(data_dir: Path) -> None:
    with zipfile.ZipFile(data_dir / "ucm.zip") as tiles:
        names = [name for name in tiles.namelist() if name.endswith(".avif")][:20]
        for name in names:
            rgb = to_rgb(io.BytesIO(tiles.read(name)), name=name)
            assert rgb.dtype == np.uint8
            assert rgb.std() > 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe\.png: is a pipe"):
        to_rgb(tmp_path / "pipe.png")


def test_max_pixels_is_the_one_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own, a quarter of a full scene, does not stand in its way; and it stays set."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    tile = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    for name in ("a.png", "a.tif", "a.bmp"):
        Image.fromarray(tile).save(tmp_path / name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(to_rgb(tmp_path / name, ImageOptions(max_pixels=480)), tile)
        with pytest.raises(ImageError, match="more than max_pixels=479"):
            to_rgb(tmp_path / name, ImageOptions(max_pixels=479))
    assert Image.MAX_IMAGE_PIXELS == 100
