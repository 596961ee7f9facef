"""TIFF and GeoTIFF tiles: bands, names, nodata, orientation and the Sentinel-2 offset their metadata tells.

Plain files (one band, or 8-bit RGB with or without a fourth band) are read by Pillow, so that they come out the
same with and without the ``geo`` extra; everything else is read by rasterio. Of a file with several pages
(overviews, masks, more bands) the first is read.
"""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from sattxt.errors import ImageError, MissingExtraError, import_extra
from sattxt.images.bands import as_number, is_sentinel2, is_sentinel2_product, pick_bands, reflectance_offset
from sattxt.images.options import ImageOptions
from sattxt.images.stretch import to_255
from sattxt.io import first_line, is_system_failure

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

#: How a TIFF starts.
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _DESCRIPTION, _STRIPS, _SAMPLES, _TILES = 256, 257, 258, 270, 273, 277, 324
_PIXEL_SCALE, _TRANSFORM, _GDAL_METADATA, _GDAL_NODATA = 33550, 34264, 42112, 42113

_NORTH_UP = (1.0, 0.0, 0.0, -1.0)
_limit = Lock()


@dataclass(frozen=True)
class Page:
    """What a page of a file says of its bands, and a way to read some of them, whichever library does it.

    descriptions: the bands' own. units: scale and offset of each band. description: the TIFF tag, "" where there is
    none. tags: GDAL's. colours: the bands' names where the page is declared to be a picture. steps: a, b, d, e of the
    geotransform. where: the file's path, or what else it is called.
    read: positions of bands to their pixels (H, W, bands) and which of these are valid (H, W), ``None``: all.
    """

    descriptions: Sequence[str | None]
    units: Sequence[tuple[float, float]]
    description: str
    tags: Mapping[str, str]
    colours: Sequence[str | None] | None
    steps: tuple[float, float, float, float]
    where: str
    read: Callable[[Sequence[int]], tuple[NDArray[Any], NDArray[np.bool_] | None]]

    @property
    def names(self) -> Sequence[str | None] | None:
        """Of the bands, from their descriptions, else from a JSON image description that has ``bands``."""
        if any(self.descriptions):
            return self.descriptions
        try:
            listed = json.loads(self.description.rstrip("\0"))["bands"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        known = isinstance(listed, list) and len(listed) == len(self.descriptions)
        return listed if known and all(isinstance(name, str) for name in listed) else None

    def offset(self, band: int) -> float | None:
        """What was added to reflectance x 10,000, from the band's scale and offset, the tags, or the file's name.

        ``None`` where none of them says.
        """
        scale, shift = self.units[band]
        if shift and scale:
            return round(-shift / scale, 6)
        if scale == 1e-4:
            return 0.0
        return reflectance_offset(self.tags, self.where)


@contextmanager
def _without_limit() -> Iterator[None]:
    with _limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def open_image(file: Any, formats: tuple[str, ...]) -> Image.Image:
    """As ``PIL.Image.open``, without its limit of pixels: ``max_pixels`` is the one limit for every kind of file."""
    with _without_limit():
        return Image.open(file, formats=formats)


def check_size(width: int, height: int, max_pixels: int, where: str) -> None:
    """Refuse an image of no or of too many pixels before it is decoded."""
    if width < 1 or height < 1:
        raise ImageError(f"{where}: is {width} x {height} pixels, which is empty")
    if width * height > max_pixels:
        raise ImageError(
            f"{where}: {width} x {height} pixels are more than max_pixels={max_pixels}; cut it into tiles, "
            "or raise max_pixels if you trust the file"
        )


def read_tiff(source: Path | bytes, options: ImageOptions, where: str) -> NDArray[Any]:
    """Read red, green and blue (or one grey band, repeated) of a TIFF file, or of its bytes.

    A raster whose geotransform mirrors it (rows from south to north, columns from east to west) is turned north up;
    one that is rotated or sheared stays as stored.

    Args:
        source: a file's path, or its content.
        options: how to understand it; files of more than ``max_pixels`` are refused undecoded.
        where: what error messages call the file.

    Returns:
        (H, W, 3) as :func:`sattxt.images.stretch.to_255` gives them; black where any of the three has no data.

    Raises:
        ImageError: unreadable, truncated, too large, the bands are not there or not known, or not their unit.
        MissingExtraError: only rasterio reads this file and it is not installed.
    """
    tags = _read_tags(source, where)
    check_size(tags[_WIDTH], tags[_HEIGHT], options.max_pixels, where)
    path = str(source) if isinstance(source, Path) else where
    samples = tags.get(_SAMPLES, 1)
    failed: Exception | None = None
    if samples == 1 or (samples <= 4 and set(tags.get(_BITS, ())) == {8}):
        all_bands = options.bands is not None or options.band_names is not None
        try:
            with open_image(io.BytesIO(source) if isinstance(source, bytes) else source, ("TIFF",)) as image:
                if _is_whole(image.mode, samples, all_bands=all_bands):
                    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or options.max_pixels):
                        with _without_limit():  # which Pillow asks about once more when it decodes
                            image.load()
                    return _rgb(_pillow_page(image, tags, path), options, where)
        except ImageError:
            raise
        except UnidentifiedImageError:
            pass  # a layout that Pillow does not know
        except DECODE_ERRORS as error:
            failed = error  # damaged, or a compression that Pillow does not know
    try:
        with _opened(source, where) as file:
            return _rgb(describe_dataset(file, path), options, where)
    except MissingExtraError:
        if failed is None:
            raise
        raise _unreadable(where, failed) from failed


def read_dataset(file: Any, options: ImageOptions, where: str) -> NDArray[Any]:
    """Read an open rasterio dataset of any driver; arguments, result and errors as for :func:`read_tiff`."""
    try:
        check_size(file.width, file.height, options.max_pixels, where)
        return _rgb(describe_dataset(file, where), options, where)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # GDAL's own errors have no public base class
        raise ImageError(f"{where}: cannot be read, or is closed ({first_line(error)})") from error


def read_pages(source: Path | bytes, *, max_pixels: int, where: str) -> list[tuple[Page, np.ma.MaskedArray[Any, Any]]]:
    """Every page of a TIFF file, or of its bytes, with all of its bands as stored. Read by rasterio.

    Args: as :func:`read_tiff`.

    Returns:
        Each page, and its values: (C, H, W) of the file's dtype, masked where the file has no data.

    Raises:
        ImageError: unreadable, truncated or too large.
        MissingExtraError: rasterio is not installed.
    """
    with _opened(source, where) as first, ExitStack() as stack:
        files = [stack.enter_context(_rasterio(where).open(name)) for name in first.subdatasets] or [first]
        for file in files:
            check_size(file.width, file.height, max_pixels, where)
        path = str(source) if isinstance(source, Path) else where
        return [(describe_dataset(file, path), file.read(masked=True)) for file in files]


def _unreadable(where: str, error: Exception) -> ImageError:
    return ImageError(f"{where}: cannot be read as a TIFF, it may be truncated or damaged ({first_line(error)})")


def _read_tags(source: Path | bytes, where: str) -> Mapping[int, Any]:
    """The tags of the first page, with its size."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            head = file.read(8)
            if b"+" in head[:4]:
                head += file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(head)
            file.seek(tags.next)
            tags.load(file)
            found = dict(tags)
    except DECODE_ERRORS as error:
        if is_system_failure(error):
            raise
        raise _unreadable(where, error) from error
    numbers = (found.get(_WIDTH), found.get(_HEIGHT), found.get(_SAMPLES, 1))
    if not all(isinstance(number, int) for number in numbers) or not {_STRIPS, _TILES} & set(found):
        raise ImageError(
            f"{where}: cannot be read as a TIFF, its first page has no size or no data; it may be truncated"
        )
    return found


def _is_whole(mode: str, samples: int, *, all_bands: bool) -> bool:
    """Whether Pillow's ``mode`` holds what is asked for: all of the page's bands, or red, green and blue."""
    if samples == 1:
        return mode in ("1", "L", "P", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
    if samples == 4 and mode == "RGB":  # a fourth band that is not alpha, which Pillow leaves out
        return not all_bands
    colours = ("LA", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
    return mode in colours and samples == Image.getmodebands(mode)


def _rgb(page: Page, options: ImageOptions, where: str) -> NDArray[Any]:
    names = page.names or page.colours if options.band_names is None else options.band_names
    count, declared = len(page.descriptions), page.colours is not None
    chosen = pick_bands(options.bands, count, names, where=where, declared_rgb=declared)
    pixels, valid = page.read(chosen)
    a, b, d, e = page.steps
    if not b and not d:
        north_up = slice(None, None, -1 if e > 0 else 1), slice(None, None, -1 if a < 0 else 1)
        pixels, valid = pixels[north_up], None if valid is None else valid[north_up]
    sentinel2 = is_sentinel2(names) or is_sentinel2_product(page.tags, page.where)
    return to_255(pixels, valid, options, page.offset(chosen[0]), where, sentinel2=sentinel2)


def _pillow_page(image: Image.Image, tags: Mapping[int, Any], path: str) -> Page:
    stored = np.asarray(image)
    colour = image.mode in ("P", "PA", "CMYK", "YCbCr")
    pixels = np.asarray(image.convert("RGB")) if colour else stored
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if image.mode == "LA":
        pixels = pixels[..., :1]
    bands = list(map(str, range(pixels.shape[-1])))
    items: dict[tuple[str, str | None], str] = {}  # of a band by its role and the band, else by its name and None
    metadata = str(tags.get(_GDAL_METADATA, ""))
    for name, attributes, text in re.findall(r'<Item\s+name="([^"]*)"([^>]*)>([^<]*)</Item>', metadata):
        known = dict(re.findall(r'(\w+)="([^"]*)"', attributes))
        items[known.get("role", name), known.get("sample")] = text
    steps, matrix, sides = _NORTH_UP, tags.get(_TRANSFORM, ()), tags.get(_PIXEL_SCALE, ())
    if len(sides) >= 2:  # positive means north up
        steps = (sides[0], 0, 0, -sides[1])
    elif len(matrix) == 16:
        steps = (matrix[0], matrix[1], matrix[4], matrix[5])
    nodata = as_number(str(tags.get(_GDAL_NODATA, "")).strip("\0 "))

    def read(chosen: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        picked = pixels[..., list(chosen)]
        if nodata is None or image.mode == "1":
            return picked, None
        tested = stored.reshape(*pixels.shape[:2], -1) if colour else picked
        present = ~np.isnan(tested) if np.isnan(nodata) else tested != nodata
        return picked, np.asarray(present.all(axis=-1))

    return Page(
        [items.get(("description", band)) for band in bands],
        [(float(items.get(("scale", band), 1)), float(items.get(("offset", band), 0))) for band in bands],
        str(tags.get(_DESCRIPTION, "")),
        {name: text for (name, band), text in items.items() if band is None},
        ("red", "green", "blue", "alpha")[: len(bands)] if len(bands) >= 3 else None,
        steps,
        path,
        read,
    )


def describe_dataset(file: Any, path: str) -> Page:
    """What an open rasterio dataset says of its bands; ``path``: what it is called."""
    from rasterio.enums import ColorInterp, MaskFlags

    def read(chosen: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        has_alpha = any(MaskFlags.alpha in flags for flags in file.mask_flag_enums)
        bands = file.read([i + 1 for i in chosen], masked=not has_alpha)
        mask = np.ma.getmaskarray(bands).any(axis=0)
        pixels = np.stack(list(np.ma.getdata(bands)), axis=-1)
        if file.count == 1 and file.colorinterp[0] == ColorInterp.palette:
            table = file.colormap(1)
            colours = [table.get(index, (0, 0, 0))[:3] for index in range(max(table) + 1)]
            pixels = np.array(colours, dtype=np.uint8)[pixels[..., 0]]
        return pixels, np.asarray(~mask) if mask.any() else None

    declared = file.colorinterp[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    at, tags = file.transform, file.tags()
    return Page(
        file.descriptions,
        list(zip(file.scales, file.offsets, strict=True)),
        tags.get("TIFFTAG_IMAGEDESCRIPTION", ""),
        tags,
        ("red", "green", "blue", *[None] * (file.count - 3)) if declared else None,
        # rasterio gives the identity where a file has no geotransform
        _NORTH_UP if at.is_identity else (at.a, at.b, at.d, at.e),
        path,
        read,
    )


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
        raise _unreadable(where, error) from error


def _rasterio(where: str) -> Any:
    purpose = f"{where}: reading this TIFF (Pillow cannot, or it is damaged)"
    rasterio = import_extra("rasterio", "geo", "rasterio", purpose)
    _ignore_warnings(rasterio.errors.NotGeoreferencedWarning)
    return rasterio


@cache
def _ignore_warnings(category: type[Warning]) -> None:
    """Once and not around each read: catch_warnings is not safe in threads, and tiles often have no position."""
    warnings.filterwarnings("ignore", category=category)
