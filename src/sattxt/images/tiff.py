"""TIFF and GeoTIFF tiles: bands, names, nodata, orientation and the Sentinel-2 offset their metadata tells.

Plain files (one band, or 8-bit RGB with or without a fourth band) are read by Pillow, so that they come out the
same with and without the ``geo`` extra; everything else is read by rasterio. Of a file with several pages
(overviews, masks, more bands) the first is read.
"""

from __future__ import annotations

import errno
import io
import json
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from sattxt.errors import ImageError, MissingExtraError
from sattxt.images.bands import pick_bands, reflectance_offset
from sattxt.io import first_line

#: What Pillow, and rasterio below it, raise on damaged files.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    struct.error,
    zlib.error,
)

#: A system out of file handles, memory or space is not the file's fault: these pass through as they are.
SYSTEM_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ONE_BAND_MODES = ("1", "L", "P", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_MANY_BAND_MODES = ("LA", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_ITEM = re.compile(r'<Item\s+name="([^"]*)"([^>]*)>([^<]*)</Item>')
_WIDTH, _HEIGHT, _BITS, _DESCRIPTION, _STRIPS, _SAMPLES, _TILES = 256, 257, 258, 270, 273, 277, 324
_PIXEL_SCALE, _TRANSFORM, _GDAL_METADATA, _GDAL_NODATA = 33550, 34264, 42112, 42113


@dataclass(frozen=True)
class Raster:
    """Three bands of a file as stored, north up.

    pixels: (H, W, 3), the file's dtype.
    valid: (H, W), False where any of the three bands is nodata; ``None`` where all are valid.
    offset: what the metadata says was added to reflectance x 10,000 (``None``: they do not say).
    """

    pixels: NDArray[Any]
    valid: NDArray[np.bool_] | None
    offset: float | None


@dataclass(frozen=True)
class Page:
    """All bands of one page of a file.

    values: (C, H, W), the file's dtype, masked where the file has no data. names: of the bands, ``None`` where the file
    has none. description: the page's TIFF tag, "" where there is none. offset: as of :class:`Raster`.
    """

    values: np.ma.MaskedArray[Any, Any]
    names: Sequence[str | None] | None
    description: str
    offset: float | None


def is_tiff(head: bytes) -> bool:
    """Whether a file that starts with ``head`` (4 bytes at least) is a TIFF."""
    return head[:4] in _MAGIC


def check_size(width: int, height: int, max_pixels: int, where: str) -> None:
    """Refuse an image of no or of too many pixels before it is decoded."""
    if width < 1 or height < 1:
        raise ImageError(f"{where}: is {width} x {height} pixels, which is empty")
    if width * height > max_pixels:
        raise ImageError(
            f"{where}: {width} x {height} pixels are more than max_pixels={max_pixels}; cut it into tiles, "
            "or raise max_pixels if you trust the file"
        )


def read_tiff(
    source: Path | bytes,
    *,
    bands: Sequence[int | str] | None,
    band_names: Sequence[str] | None,
    max_pixels: int,
    where: str,
) -> Raster:
    """Read red, green and blue (or one grey band, repeated) of a TIFF file, or of its bytes.

    A raster whose geotransform mirrors it (rows from south to north, columns from east to west) is turned north up;
    one that is rotated or sheared stays as stored.

    Args:
        source: a file's path, or its content.
        bands: see :func:`sattxt.images.bands.pick_bands`.
        band_names: names of all bands in order, in place of those in the file.
        max_pixels: larger images are refused undecoded.
        where: what error messages call the file.

    Raises:
        ImageError: unreadable, truncated, too large, or the bands are not there or not known.
        MissingExtraError: only rasterio reads this file and it is not installed.
    """
    path = str(source) if isinstance(source, Path) else None
    tags = _directory(source, where)
    samples, bits = tags.get(_SAMPLES, 1), tags.get(_BITS, (1,))
    if not isinstance(samples, int) or not isinstance(bits, tuple):
        raise ImageError(f"{where}: cannot be read as a TIFF, its tags are damaged")
    failed: Exception | None = None
    if samples == 1 or (samples <= 4 and set(bits) == {8}):
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=["TIFF"]) as image:
                if _is_whole(image.mode, samples, all_bands=bands is not None or band_names is not None):
                    check_size(*image.size, max_pixels, where)
                    return _read_plain(image, tags, bands, band_names, path, where)
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(f"{where}: refused as a decompression bomb ({error})") from error
        except UnidentifiedImageError:
            pass  # a layout that Pillow does not know
        except DECODE_ERRORS as error:
            failed = error  # damaged, or a compression that Pillow does not know
    try:
        return _read_with_rasterio(source, bands, band_names, max_pixels, path, where)
    except MissingExtraError:
        if failed is None:
            raise
        raise ImageError(
            f"{where}: cannot be read as a TIFF, it may be truncated or damaged ({first_line(failed)})"
        ) from failed


def _directory(source: Path | bytes, where: str) -> Mapping[int, Any]:
    """The tags of the first page."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            head = file.read(8)
            if b"+" in head[:4]:
                head += file.read(8)
            directory = TiffImagePlugin.ImageFileDirectory_v2(head)
            file.seek(directory.next)
            directory.load(file)
            tags = dict(directory)
    except DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.errno in SYSTEM_ERRNOS:
            raise
        raise ImageError(
            f"{where}: cannot be read as a TIFF, it may be truncated or damaged ({first_line(error)})"
        ) from error
    if not {_WIDTH, _HEIGHT} <= set(tags) or not {_STRIPS, _TILES} & set(tags):
        raise ImageError(
            f"{where}: cannot be read as a TIFF, its first page has no size or no data; it may be truncated"
        )
    return tags


def _is_whole(mode: str, samples: int, *, all_bands: bool) -> bool:
    """Whether Pillow's ``mode`` holds what is asked for: all of the page's bands, or red, green and blue."""
    if samples == 1:
        return mode in _ONE_BAND_MODES
    if samples == 4 and mode == "RGB":  # a fourth band that is not alpha, which Pillow leaves out
        return not all_bands
    return mode in _MANY_BAND_MODES and samples == Image.getmodebands(mode)


def _read_plain(
    image: Image.Image,
    tags: Mapping[int, Any],
    bands: Sequence[int | str] | None,
    band_names: Sequence[str] | None,
    path: str | None,
    where: str,
) -> Raster:
    stored = np.asarray(image)
    colour = image.mode in ("P", "PA", "CMYK", "YCbCr")
    pixels = np.asarray(image.convert("RGB")) if colour else stored
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if image.mode == "LA":
        pixels = pixels[..., :1]
    xml = str(tags.get(_GDAL_METADATA, ""))
    items = _ITEM.findall(xml)
    count = pixels.shape[-1]
    rgb = count >= 3
    names: Sequence[str | None] | None = band_names
    if names is None:
        described = {
            int(sample.group(1)): text
            for _, attributes, text in items
            if 'role="description"' in attributes and (sample := re.search(r'sample="(\d+)"', attributes))
        }
        names = _names([described.get(i) for i in range(count)], str(tags.get(_DESCRIPTION, "")))
    if names is None and rgb:
        names = ("red", "green", "blue", "alpha")[:count]
    chosen = pick_bands(bands, count, names, where=where, declared_rgb=rgb)
    pixels = np.ascontiguousarray(pixels[..., list(chosen)])
    nodata = _nodata(tags.get(_GDAL_NODATA))
    valid: NDArray[Any] | None = None
    if nodata is not None and image.mode != "1":
        tested = pixels if not colour else stored.reshape(*pixels.shape[:2], -1)
        valid = np.asarray(~(np.isnan(tested) if np.isnan(nodata) else tested == nodata).any(axis=-1))
    matrix, scales = tags.get(_TRANSFORM, ()), tags.get(_PIXEL_SCALE, ())
    if len(scales) >= 2:  # positive means north up
        pixels, valid = _north_up(pixels, valid, scales[0], 0, 0, -scales[1])
    elif len(matrix) == 16:
        pixels, valid = _north_up(pixels, valid, matrix[0], matrix[1], matrix[4], matrix[5])
    by_role = {(name, attributes): text for name, attributes, text in items}
    facts = {name: text for (name, attributes), text in by_role.items() if "sample=" not in attributes}
    scale = next((t for (_, a), t in by_role.items() if 'role="scale"' in a), "1")
    shift = next((t for (_, a), t in by_role.items() if 'role="offset"' in a), "0")
    return Raster(pixels, valid, _added(float(scale), float(shift), facts, path))


def _read_with_rasterio(
    source: Path | bytes,
    bands: Sequence[int | str] | None,
    band_names: Sequence[str] | None,
    max_pixels: int,
    path: str | None,
    where: str,
) -> Raster:
    with _opened(source, where) as file:
        from rasterio.enums import ColorInterp, MaskFlags

        check_size(file.width, file.height, max_pixels, where)
        palette = file.colorinterp[0] == ColorInterp.palette and file.count == 1
        declared = file.colorinterp[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        names: Sequence[str | None] | None = band_names
        if names is None:
            names = _names(list(file.descriptions), file.tags().get("TIFFTAG_IMAGEDESCRIPTION", ""))
        if names is None and declared:
            names = ("red", "green", "blue", *[None] * (file.count - 3))
        chosen = pick_bands(bands, file.count, names, where=where, declared_rgb=declared)
        has_alpha = any(MaskFlags.alpha in flags for flags in file.mask_flag_enums)
        read = file.read([i + 1 for i in dict.fromkeys(chosen)], masked=not has_alpha)
        table = file.colormap(1) if palette else None
        at = file.transform
        offset = _added(file.scales[chosen[0]], file.offsets[chosen[0]], file.tags(), path)
    mask = np.ma.getmaskarray(read).any(axis=0)
    planes = dict(zip(dict.fromkeys(chosen), np.ma.getdata(read), strict=True))
    pixels = np.stack([planes[i] for i in chosen], axis=-1)
    if table is not None:
        lookup = np.zeros((max(table) + 1, 3), dtype=np.uint8)
        for index, colour in table.items():
            lookup[index] = colour[:3]
        pixels = lookup[pixels[..., 0]]
    valid: NDArray[Any] | None = np.asarray(~mask) if mask.any() else None
    if not at.is_identity:  # which is also what rasterio says where a file has none
        pixels, valid = _north_up(pixels, valid, at.a, at.b, at.d, at.e)
    return Raster(pixels, valid, offset)


def read_pages(source: Path | bytes, *, max_pixels: int, where: str) -> list[Page]:
    """All bands of every page of a TIFF file, or of its bytes, as stored. Read by rasterio.

    Args: as :func:`read_tiff`.

    Raises:
        ImageError: unreadable, truncated or too large.
        MissingExtraError: rasterio is not installed.
    """
    with _opened(source, where) as first, ExitStack() as stack:
        rasterio = _rasterio(where)
        pages = [stack.enter_context(rasterio.open(name)) for name in first.subdatasets] or [first]
        for page in pages:
            check_size(page.width, page.height, max_pixels, where)
        return [_page(page, where) for page in pages]


def _page(file: Any, where: str) -> Page:
    tags = file.tags()
    text = tags.get("TIFFTAG_IMAGEDESCRIPTION", "")
    offset = _added(file.scales[0], file.offsets[0], tags, where) if file.count else None
    return Page(file.read(masked=True), _names(list(file.descriptions), text), text, offset)


@contextmanager
def _opened(source: Path | bytes, where: str) -> Iterator[Any]:
    """A file open in rasterio, whose errors become ours."""
    rasterio = _rasterio(where)
    try:
        with ExitStack() as stack:
            if isinstance(source, bytes):
                memory = stack.enter_context(rasterio.MemoryFile(source))
                yield stack.enter_context(memory.open(driver="GTiff"))
            else:
                yield stack.enter_context(rasterio.open(source, driver="GTiff"))
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # GDAL's own errors have no public base class
        raise ImageError(
            f"{where}: cannot be read as a TIFF, it may be truncated or damaged ({first_line(error)})"
        ) from error


@lru_cache(maxsize=1)
def _import_rasterio() -> Any:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    # Set once and not around each read: catch_warnings is not safe in threads, and tiles often have no position.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    return rasterio


def _rasterio(where: str) -> Any:
    try:
        return _import_rasterio()
    except ImportError as error:
        raise MissingExtraError(
            "geo", "rasterio", f"{where}: reading this TIFF (Pillow cannot, or it is damaged)"
        ) from error


def _north_up(
    pixels: NDArray[Any], valid: NDArray[np.bool_] | None, a: float, b: float, d: float, e: float
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    if b or d:
        return pixels, valid
    rows = slice(None, None, -1 if e > 0 else 1)
    columns = slice(None, None, -1 if a < 0 else 1)
    turned = np.ascontiguousarray(pixels[rows, columns])
    return turned, None if valid is None else np.ascontiguousarray(valid[rows, columns])


def _names(descriptions: Sequence[str | None], text: str) -> Sequence[str | None] | None:
    """Band names from the bands' descriptions, else from a JSON image description that has ``bands``."""
    if any(descriptions):
        return descriptions
    try:
        listed = json.loads(text.rstrip("\0"))["bands"] if text.lstrip().startswith("{") else None
    except (ValueError, KeyError, RecursionError):
        return None
    if isinstance(listed, list) and len(listed) == len(descriptions) and all(isinstance(x, str) for x in listed):
        return listed
    return None


def _nodata(text: object) -> float | None:
    try:
        return None if text is None else float(str(text).strip("\0 "))
    except ValueError:
        return None


def _added(scale: float, shift: float, tags: Mapping[str, str], path: str | None) -> float | None:
    """What was added to reflectance x 10,000: GDAL's scale and offset of the band say it, or the tags, or the name."""
    if shift and scale:
        return round(-shift / scale, 6)
    if scale == 1e-4:
        return 0.0
    return reflectance_offset(tags, path)
