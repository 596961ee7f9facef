"""The options that say how to understand an image, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict

import numpy as np

from sattxt.errors import InputError
from sattxt.images.bands import BAND_ORDERS

Stretch = Literal["sentinel2", "percentile"] | tuple[float, float]
ValueRange = Literal["0-1", "0-255", "0-10000"]

#: A full Sentinel-2 scene (10,980 x 10,980) passes.
MAX_PIXELS = 2**27


def _is_number(value: Any) -> bool:
    known = (int, float, np.integer, np.floating)
    return isinstance(value, known) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= least)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number that an argument called ``name`` was given; :class:`InputError` if it is none."""
    if not _is_count(value, least):
        raise InputError(f"{name}={value!r}: pass a whole number, {least} at least")
    return int(value)


def _is_stretch(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("sentinel2", "percentile")
    pair = isinstance(value, Sequence) and len(value) == 2 and all(map(_is_number, value))
    return pair and value[0] < value[1]


def _are_names(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() in BAND_ORDERS
    return hasattr(value, "__iter__") and all(isinstance(name, str) for name in value)


def _is_choice_of_bands(value: Any) -> bool:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or len(value) not in (1, 3):
        return False
    return all(isinstance(band, str) or _is_count(band) for band in value)


#: For each field: whether a value other than the default means something, and what to pass.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "stretch": (_is_stretch, "'sentinel2', 'percentile', (low, high) with low < high, or None"),
    "bands": (
        _is_choice_of_bands,
        "three bands (red, green, blue) or one, as numbers counted from 1 or as names",
    ),
    "channels": (lambda value: value in ("first", "last"), "'first', 'last' or None"),
    "value_range": (lambda value: value in ("0-1", "0-255", "0-10000"), "'0-1', '0-255', '0-10000' or None"),
    "offset": (lambda value: value in (None, "auto") or _is_number(value), "'auto', a number or None"),
    "band_names": (
        _are_names,
        f"the names of all bands in order, as strings, or one of {', '.join(map(repr, BAND_ORDERS))}",
    ),
    "max_pixels": (_is_count, "a positive whole number"),
}


@dataclass(frozen=True)
class ImageOptions:
    """How to understand images that do not explain themselves. The defaults read 8-bit grey and RGB pictures.

    stretch: how values that are not 8-bit become 0..255. By default "sentinel2" for 16-bit integers that are certainly
        Sentinel-2's, by their bands' names, their tags or the file's name (logged); else an error.
        ``"sentinel2"``: reflectance x 10,000, clipped to 0..2750 (as EuroSAT's RGB tiles were made). Integers are taken
        to be in that unit; floats need ``value_range`` "0-1" or "0-10000".
        ``"percentile"``: from the 2nd to the 98th percentile of all valid pixels of the three bands together, which
        keeps their balance. ``(low, high)``: from low to high, in the unit of the input.
    bands: the red, green and blue bands (or one, grey), as numbers counted from 1, as in rasterio, or as names.
        Sentinel-2 names match in any usual form: ``"B04"``, ``"B4"``, ``"red"``. By default, where names tell them for
        certain, red, green and blue (logged).
    channels: which axis of a 3-D array holds the channels, where it cannot be told from the shape.
    value_range: the range that float pixels are in (or integers wider than 8 bits, "0-255").
    offset: subtracted before stretching. Sentinel-2 products of processing baseline 04.00 and later add 1000 to
        reflectance x 10,000. ``"auto"`` subtracts what the file's tags, or ``_N0400_`` (or later) in its path, say was
        added, for integers stretched as "sentinel2" only. ``None`` or 0 subtracts nothing.
    band_names: the names of all bands in order, for inputs that carry none (or the wrong ones);
        or ``"l1c"``, ``"l2a"``, ``"eurosat"`` for these products' own order.
    max_pixels: files of more pixels (width x height) are refused before they are decoded.

    Raises:
        InputError: an option has a value that means nothing, or contradicts another.
    """

    stretch: Stretch | None = None
    bands: Sequence[int | str] | None = None
    channels: Literal["first", "last"] | None = None
    value_range: ValueRange | None = None
    offset: float | Literal["auto"] | None = "auto"
    band_names: str | Sequence[str] | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            holds, wanted = _RULES[field.name]
            if value is not field.default and not holds(value):
                raise InputError(f"{field.name}={value!r}: pass {wanted}")
        fitting = {"0-255": (None,), "0-10000": ("sentinel2",)}.get(self.value_range or "", (None, "sentinel2"))
        if self.value_range is not None and self.stretch not in fitting:
            raise InputError(
                f"value_range={self.value_range!r} means nothing with stretch={self.stretch!r}; '0-255' is for "
                "pictures without stretch=, '0-10000' for reflectance with stretch='sentinel2', '0-1' for both"
            )
        if self.offset not in (None, "auto", 0) and self.stretch is None:
            raise InputError(f"offset={self.offset!r} is subtracted before stretching; pass stretch= too")
        if self.bands is not None:
            object.__setattr__(self, "bands", tuple(b if isinstance(b, str) else int(b) for b in self.bands))
        if self.band_names is not None:
            known = BAND_ORDERS.get(self.band_names.lower()) if isinstance(self.band_names, str) else None
            object.__setattr__(self, "band_names", known or tuple(self.band_names))
        if isinstance(self.stretch, Sequence) and not isinstance(self.stretch, str):
            object.__setattr__(self, "stretch", tuple(map(float, self.stretch)))

    def subtracted(self, added: float | None, dtype: np.dtype[Any]) -> float:
        """What ``offset`` takes off pixels of a dtype, ``added`` being what their metadata say was added."""
        automatic = added if dtype.kind != "f" else None
        return float((automatic if self.offset == "auto" else self.offset) or 0)


class ReadOptions(TypedDict, total=False):
    """How to read images, as keyword arguments: ``options``, and single fields that replace its own."""

    options: ImageOptions | None
    stretch: Stretch | None
    bands: Sequence[int | str] | None
    channels: Literal["first", "last"] | None
    value_range: ValueRange | None
    offset: float | Literal["auto"] | None
    band_names: str | Sequence[str] | None
    max_pixels: int


def merge_options(given: Mapping[str, Any]) -> ImageOptions:
    """The options that the keyword arguments of :class:`ReadOptions` describe.

    Raises:
        InputError: a name is no image option, or a value means nothing.
    """
    chosen = {name: value for name, value in given.items() if name != "options"}
    if unknown := sorted(set(chosen) - set(_RULES)):
        raise InputError(f"unknown option {unknown[0]!r}; images take {', '.join(sorted(_RULES))}")
    return replace(given.get("options") or ImageOptions(), **chosen)
