"""The options that say how to understand an image, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, cast

import numpy as np

from sattxt.errors import InputError

Stretch = Literal["sentinel2", "percentile"] | tuple[float, float]
ValueRange = Literal["0-1", "0-255", "0-10000"]

#: A full Sentinel-2 scene (10,980 x 10,980) passes. Pillow's own limit (``PIL.Image.MAX_IMAGE_PIXELS``) holds besides.
MAX_PIXELS = 2**27

_CHOICES = {"channels": ("first", "last"), "value_range": ("0-1", "0-255", "0-10000")}


@dataclass(frozen=True)
class ImageOptions:
    """How to understand images that do not explain themselves. The defaults read 8-bit grey and RGB pictures.

    stretch: how values that are not 8-bit become 0..255.
        ``"sentinel2"``: reflectance x 10,000, clipped to 0..2750 (as EuroSAT's RGB tiles were made). Integers are taken
        to be in that unit; floats need ``value_range`` "0-1" or "0-10000".
        ``"percentile"``: from the 2nd to the 98th percentile of all valid pixels of the three bands together, which
        keeps their balance. ``(low, high)``: from low to high, in the unit of the input.
    bands: the red, green and blue bands (or one, grey), as numbers counted from 1, as in rasterio, or as names.
        Sentinel-2 names match in any usual form: ``"B04"``, ``"B4"``, ``"red"``.
    channels: which axis of a 3-D array holds the channels, where it cannot be told from the shape.
    value_range: the range that float pixels are in (or integers wider than 8 bits, "0-255").
    offset: subtracted before stretching. Sentinel-2 products of processing baseline 04.00 and later add 1000 to
        reflectance x 10,000. ``"auto"`` subtracts what the file's tags, or ``_N0400_`` (or later) in its path, say was
        added, for integers stretched as "sentinel2" only. ``None`` or 0 subtracts nothing.
    band_names: the names of all bands in order, for inputs that carry none (or the wrong ones);
        see :data:`sattxt.images.bands.EUROSAT_MS`.
    max_pixels: files of more pixels (width x height) are refused before they are decoded.

    Raises:
        InputError: an option has a value that means nothing, or contradicts another.
    """

    stretch: Stretch | None = None
    bands: Sequence[int | str] | None = None
    channels: Literal["first", "last"] | None = None
    value_range: ValueRange | None = None
    offset: float | Literal["auto"] | None = "auto"
    band_names: Sequence[str] | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in (None, *allowed):
                raise InputError(f"{name}={value!r}: pass {', '.join(map(repr, allowed))} or None")
        object.__setattr__(self, "stretch", _checked_stretch(self.stretch))
        object.__setattr__(self, "bands", _checked_bands(self.bands))
        names = self.band_names
        if names is not None:
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise InputError(f"band_names={names!r}: pass the names of all bands in order, as strings")
            object.__setattr__(self, "band_names", tuple(names))
        if self.value_range is not None and self.stretch not in (None, "sentinel2"):
            raise InputError(
                f"value_range={self.value_range!r} means nothing with stretch={self.stretch!r}; leave it out"
            )
        if self.offset not in (None, "auto") and not _is_finite(self.offset):
            raise InputError(f"offset={self.offset!r}: pass 'auto', a number or None")
        if self.offset not in (None, "auto", 0) and self.stretch is None:
            raise InputError(f"offset={self.offset!r} is subtracted before stretching; pass stretch= too")
        if isinstance(self.max_pixels, bool) or not isinstance(self.max_pixels, int) or self.max_pixels < 1:
            raise InputError(f"max_pixels={self.max_pixels!r}: pass a positive whole number")


class ReadOptions(TypedDict, total=False):
    """How to read images, as keyword arguments: ``options``, and single fields that replace its own."""

    options: ImageOptions | None
    stretch: Stretch | None
    bands: Sequence[int | str] | None
    channels: Literal["first", "last"] | None
    value_range: ValueRange | None
    offset: float | Literal["auto"] | None
    band_names: Sequence[str] | None
    max_pixels: int


def merge_options(given: Mapping[str, Any]) -> ImageOptions:
    """The options that the keyword arguments of :class:`ReadOptions` describe.

    Raises:
        InputError: a name is no image option, or a value means nothing.
    """
    fields = {name: value for name, value in given.items() if name != "options"}
    known = set(ImageOptions.__dataclass_fields__)
    unknown = sorted(set(fields) - known)
    if unknown:
        raise InputError(f"unknown option {unknown[0]!r}; images take {', '.join(sorted(known))}")
    return replace(given.get("options") or ImageOptions(), **fields)


def _checked_stretch(stretch: Any) -> Stretch | None:
    if stretch is None or (isinstance(stretch, str) and stretch in ("sentinel2", "percentile")):
        return cast("Stretch | None", stretch)
    if not isinstance(stretch, str) and isinstance(stretch, Sequence) and len(stretch) == 2:
        low, high = stretch
        if _is_finite(low) and _is_finite(high) and low < high:
            return float(low), float(high)
    raise InputError(f"stretch={stretch!r}: pass 'sentinel2', 'percentile', (low, high) with low < high, or None")


def _checked_bands(bands: Any) -> tuple[int | str, ...] | None:
    if bands is None:
        return None
    some = not isinstance(bands, (str, bytes)) and hasattr(bands, "__len__") and len(bands) in (1, 3)
    if not some or any(isinstance(band, bool) or not isinstance(band, (int, np.integer, str)) for band in bands):
        raise InputError(
            f"bands={bands!r}: pass three bands (red, green, blue) or one, as numbers counted from 1 or as names"
        )
    if any(not isinstance(band, str) and band < 1 for band in bands):
        raise InputError(f"bands={bands!r}: bands are counted from 1")
    return tuple(band if isinstance(band, str) else int(band) for band in bands)


def _is_finite(value: Any) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return number and math.isfinite(value)
