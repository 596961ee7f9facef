"""Anything a user passes as an image -> one (H, W, 3) array in 0..255.

Rules that hold for every input:

* Nothing is guessed. Where the band order, the channel axis or the range of the values is not certain, the error
  says which option to pass.
* Transparency is dropped, not composited: the colour stored under it stays, as ``PIL.Image.convert("RGB")`` does.
* EXIF orientation and colour profiles are not applied; of an animation the first frame is taken.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sattxt.errors import ImageError
from sattxt.images.bands import is_sentinel2, is_sentinel2_product, pick_bands, reflectance_offset
from sattxt.images.options import ImageOptions
from sattxt.images.stretch import to_255
from sattxt.images.tiff import DECODE_ERRORS, TIFF_MAGIC, check_size, open_image, read_dataset, read_tiff
from sattxt.io import first_line, is_system_failure

if TYPE_CHECKING:
    from torch import Tensor

#: What type checkers take for one image. An array whose number of axes they do not know counts as one.
Tile: TypeAlias = (
    "str | os.PathLike[str] | Image.Image | IO[bytes] | np.ndarray[tuple[int, int], np.dtype[Any]] "
    "| np.ndarray[tuple[int, int, int], np.dtype[Any]]"
)
#: And for several.
Tiles: TypeAlias = "Iterable[Tile | Tensor | NDArray[Any]] | np.ndarray[tuple[int, int, int, int], np.dtype[Any]]"

_MAX_BANDS = 13  # an axis as short as this may be the channels

#: The formats that Pillow may try: those of image files, none that runs other programs (EPS).
_FORMATS = ("JPEG", "PNG", "TIFF", "AVIF", "WEBP", "JPEG2000", "GIF", "BMP", "PPM")
_VALUE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_NOT_OPENED: dict[type[Exception], str] = {
    FileNotFoundError: "no such file",
    IsADirectoryError: "is a folder; pass the files in it",
}
_DEFAULT = ImageOptions()
_CODESTREAM = b"\xff\x4f\xff\x51"  # how one of JPEG 2000 starts: SOC, then SIZ
_DEPTH_AT = 42  # the first component's, from there


def to_rgb(img: Any, options: ImageOptions = _DEFAULT, *, name: str | None = None) -> NDArray[Any]:
    """Read one image of any supported kind.

    Args:
        img: a path; a file object open for reading bytes; an open rasterio dataset; a PIL image; or a numpy array,
            masked array or torch tensor of shape (H, W), (H, W, C) or (C, H, W). GeoTIFFs of several bands need the
            ``geo`` extra.
        options: how to understand it.
        name: what errors call it; by default its path, the file object's name, or "img".

    Returns:
        (H, W, 3), C-contiguous: uint8 where the input was 8-bit, else float32 in [0, 255], not rounded. Pixels
        without data (nodata of a GeoTIFF, masked array) are black. An array may share memory with the input.

    Raises:
        ImageError: the image is unreadable, truncated, empty or too large, has NaN or infinite pixels, not the bands
            asked for, or cannot be understood without a guess. One line that names it and says what to pass.
        MissingExtraError: a TIFF that needs rasterio, which is not installed.
    """
    where = name or source_path(img) or "img"
    if isinstance(img, (str, os.PathLike)):
        return _from_path(img, options, where)
    if isinstance(img, Image.Image):
        return _from_pil(img, options, None, where)
    if hasattr(type(img), "colorinterp"):  # of the type: a closed dataset raises
        return read_dataset(img, options, where)
    if callable(getattr(img, "read", None)) and not hasattr(img, "__array__"):
        return _from_file(img, options, where)
    return _from_array(_as_array(img, where), options, where)


def source_path(source: object) -> str | None:
    """A source's path or file name, ``None`` where it has none."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    for attribute in ("filename", "name"):
        value = getattr(source, attribute, None)
        if isinstance(value, str) and value:
            return value
    return None


def source_name(source: object, index: int) -> str:
    """What errors call a source: its path or file name, else its position ("image 3")."""
    return source_path(source) or f"image {index}"


def _from_path(img: str | os.PathLike[str], options: ImageOptions, where: str) -> NDArray[Any]:
    text = os.fsdecode(img)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/.|data:", text):
        raise ImageError(f"{where}: is a URL; download it first and pass the file")
    path = Path(text)
    try:
        if path.is_fifo():
            raise ImageError(f"{where}: is a pipe; pass a file, or what it gives in io.BytesIO")
        with path.open("rb") as file:
            head = file.read(8)
            if not head.startswith(TIFF_MAGIC):
                file.seek(0)
                return _from_encoded(file, head, options, text, where)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        if isinstance(error, ImageError) or is_system_failure(error):
            raise
        reason = _NOT_OPENED.get(type(error)) or f"cannot be opened ({getattr(error, 'strerror', None) or error})"
        raise ImageError(f"{where}: {reason}") from error
    return read_tiff(path, options, where)


def _from_file(file: Any, options: ImageOptions, where: str) -> NDArray[Any]:
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # ValueError: closed, or text that is none (UnicodeDecodeError)
        raise ImageError(f"{where}: cannot be read as a file open in binary mode ('rb') ({error})") from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ImageError(f"{where}: gives {type(data).__name__}, not bytes; open it in binary mode ('rb')")
    data = bytes(data)
    if data.startswith(TIFF_MAGIC):
        return read_tiff(data, options, where)
    return _from_encoded(io.BytesIO(data), data[:8], options, where, where)


def _from_encoded(file: Any, head: bytes, options: ImageOptions, path: str, where: str) -> NDArray[Any]:
    """An image file other than TIFF."""
    if not head:
        raise ImageError(f"{where}: is empty")
    try:
        image = open_image(file, _FORMATS)
    except DECODE_ERRORS as error:
        raise ImageError(f"{where}: is no image that can be read ({', '.join(_FORMATS)}), or is damaged") from error
    with image:
        return _from_pil(image, options, path, where)


def _from_pil(image: Image.Image, options: ImageOptions, path: str | None, where: str) -> NDArray[Any]:
    check_size(*image.size, options.max_pixels, where)
    tile = getattr(image, "tile", None)
    if tile and "16" in str(tile[0][3]) and Image.getmodetype(image.mode) == "L" and image.mode not in _VALUE_MODES:
        raise ImageError(f"{where}: has 16 bits per colour, of which Pillow reads 8; pass it as a TIFF or uint16 array")
    has_values = image.mode in _VALUE_MODES  # and no colours
    shift = _jpeg2000_shift(image, where) if has_values and image.format == "JPEG2000" else 0
    try:
        if image.mode in ("RGBa", "La"):  # premultiplied
            image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
        elif image.mode == "P" and "transparency" in image.info:  # else Pillow warns about it
            image = image.convert("RGBA")
        pixels = np.array(image if has_values or image.mode == "RGB" else image.convert("RGB"))
    except DECODE_ERRORS as error:
        raise ImageError(f"{where}: cannot be decoded, it may be truncated ({first_line(error)})") from error
    colours = None if has_values else ("red", "green", "blue")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if shift:
        pixels >>= shift
    return _select(pixels, None, options, where, colours=colours, path=path)


def _jpeg2000_shift(image: Image.Image, where: str) -> int:
    """By how many bits Pillow shifts the pixels of a JPEG 2000 file of more than 8 bits to the left, to fill 16.

    Sentinel-2 has 15. To be asked before the image is loaded.

    Raises:
        ImageError: it is loaded already, or its file does not say.
    """
    file: Any = getattr(image, "fp", None)
    if file is not None and getattr(image, "tile", None):
        position = file.tell()
        file.seek(0)
        head = file.read(2**20)
        file.seek(position)
        start = head.find(_CODESTREAM)
        if 0 <= start < len(head) - _DEPTH_AT:
            return max(0, 15 - (head[start + _DEPTH_AT] & 0x7F))
    raise ImageError(f"{where}: is JPEG 2000 whose depth is not known any more; pass the file's path, or an array")


def _as_array(img: Any, where: str) -> NDArray[Any]:
    if isinstance(img, np.ndarray):
        return img
    if getattr(img, "is_meta", False):
        raise ImageError(f"{where}: is a meta tensor, which has a shape and no values")
    if all(hasattr(img, attribute) for attribute in ("detach", "cpu", "numpy")):  # a torch tensor, torch not imported
        tensor = img.detach().cpu()
        return np.asarray((tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy())
    if hasattr(img, "__array__") or hasattr(img, "__array_interface__"):
        return np.asarray(img)
    hint = "; wrap it in io.BytesIO" if isinstance(img, (bytes, bytearray)) else ""
    raise ImageError(
        f"{where}: is a {type(img).__name__}{hint or ', not an image'}; pass a path, a file object, a PIL image, "
        "a numpy array or a torch tensor"
    )


def _from_array(array: NDArray[Any], options: ImageOptions, where: str) -> NDArray[Any]:
    shape = "x".join(map(str, array.shape))
    if array.ndim == 4:
        raise ImageError(f"{where}: has shape {shape}, a batch; pass its images one by one, or as a list")
    if array.ndim not in (2, 3):
        raise ImageError(f"{where}: has shape {shape or '()'}; an image is (H, W), (H, W, C) or (C, H, W)")
    if array.size == 0:
        raise ImageError(f"{where}: has shape {shape}, which is empty")
    if array.ndim == 2:
        array = array[..., None]
    elif _channel_axis(array.shape, options.channels, where) == 0:
        array = array.transpose(1, 2, 0)
    valid = ~np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else None
    return _select(np.ma.getdata(array), valid, options, where)


def _channel_axis(shape: tuple[int, ...], channels: str | None, where: str) -> int:
    if channels is not None:
        return 0 if channels == "first" else 2
    candidates = [axis for axis in (0, 2) if shape[axis] <= _MAX_BANDS]
    if len(candidates) == 1:
        return candidates[0]
    problem = "either end could be the channels" if candidates else f"no end has 1 to {_MAX_BANDS} channels"
    raise ImageError(
        f"{where}: has shape {'x'.join(map(str, shape))}, {problem}; pass channels='first' or channels='last'"
    )


def _select(
    pixels: NDArray[Any],
    valid: Any,
    options: ImageOptions,
    where: str,
    *,
    colours: Sequence[str] | None = None,
    path: str | None = None,
) -> NDArray[Any]:
    """Pick three of the bands on the last axis, then scale them. ``valid`` has the shape of ``pixels``."""
    count = pixels.shape[-1]
    names = colours if options.band_names is None else options.band_names
    chosen = pick_bands(options.bands, count, names, where=where, declared_rgb=colours is not None)
    if chosen != (0, 1, 2) or count != 3:
        pixels = pixels[..., list(chosen)]
    seen = None if valid is None else valid[..., list(chosen)].all(axis=-1)
    sentinel2 = is_sentinel2(options.band_names) or is_sentinel2_product({}, path)
    return to_255(pixels, seen, options, reflectance_offset({}, path), where, sentinel2=sentinel2)
