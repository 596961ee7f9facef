"""From pixel values in whatever unit they come to 0..255, as the caller says and never by a guess."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import ImageError
from sattxt.images.bands import log_once
from sattxt.images.options import ImageOptions, Stretch, ValueRange

Pixels = NDArray[Any]

#: EuroSAT's own stretch: reflectance x 10,000, clipped to this, becomes 0..255.
SENTINEL2_RANGE = (0.0, 2750.0)
_SLACK = 1e-3  # of the range: what resampling and half precision overshoot


def to_255(
    pixels: Pixels,
    valid: NDArray[np.bool_] | None,
    options: ImageOptions,
    added: float | None,
    where: str,
    *,
    sentinel2: bool = False,
) -> Pixels:
    """Scale ``pixels`` to 0..255: uint8 where they were, else float32 without rounding. C-contiguous.

    Args:
        pixels: (H, W, 3), any integer or float dtype.
        valid: (H, W), False where a pixel holds no data; such pixels become 0 (black) and count for nothing.
        options: of them ``stretch``, ``value_range`` and ``offset``.
        added: what ``offset="auto"`` stands for: the offset that metadata tell of, subtracted from integers before
            the "sentinel2" stretch.
        where: what error messages call the image.
        sentinel2: the pixels are certainly a Sentinel-2 product's: 16-bit integers are then stretched so by default.

    Raises:
        ImageError: NaN or infinite values, no valid pixel, or a unit that takes a guess.
    """
    seen = pixels if valid is None else pixels[valid]
    if seen.size == 0:
        raise ImageError(f"{where}: every pixel is nodata")
    if pixels.dtype.kind not in "uif":
        raise ImageError(f"{where}: has dtype {pixels.dtype}; pass uint8, or integers or floats with stretch=")
    is_float = pixels.dtype.kind == "f"
    if is_float and not np.isfinite(seen).all():
        raise ImageError(f"{where}: has NaN or infinite pixels; replace them, or pass a masked array")
    if not is_float and options.value_range == "0-1":
        raise ImageError(f"{where}: is {pixels.dtype}, value_range='0-1' is for floats; leave it out")

    stretch = options.stretch
    if stretch is None and options.value_range is None and sentinel2 and not is_float and pixels.dtype.itemsize == 2:
        stretch = "sentinel2"
        log_once("16-bit Sentinel-2 pixels are read as reflectance x 10000, stretch='sentinel2'; pass stretch= if not")
        if options.offset == "auto" and added is None:
            log_once("no metadata tell the processing baseline; pass offset=1000 for 04.00 (January 2022) and later")
    if stretch is None:
        out = _unstretched(pixels, seen, options.value_range, where)
    else:
        values = pixels.astype(np.float32)
        if stretch == "sentinel2":
            values *= _reflectance_unit(pixels.dtype, seen, options.value_range, where)
        if offset := options.subtracted(added if stretch == "sentinel2" else None, pixels.dtype):
            values -= np.float32(offset)
        low, high = _limits(stretch, values if valid is None else values[valid], where)
        np.clip(values, low, high, out=values)
        values -= np.float32(low)
        values *= np.float32(255.0 / (high - low))
        out = np.minimum(values, np.float32(255), out=values)
    if valid is not None and not valid.all():
        out = np.where(valid[..., None], out, out.dtype.type(0))
    return np.ascontiguousarray(out)


def _unstretched(pixels: Pixels, seen: Pixels, value_range: ValueRange | None, where: str) -> Pixels:
    if pixels.dtype == np.uint8:
        return pixels
    is_float = pixels.dtype.kind == "f"
    low, high = float(seen.min()), float(seen.max())
    if value_range is None:
        raise ImageError(
            f"{where}: floats from {low:.4g} to {high:.4g} could be of any range; pass value_range='0-1' or "
            "value_range='0-255' for a picture, or stretch= for reflectance"
            if is_float
            else f"{where}: {pixels.dtype} pixels from {low:.0f} to {high:.0f} need stretch='sentinel2' (reflectance x "
            "10000), stretch='percentile' or stretch=(low, high); or value_range='0-255' if they are 8-bit values"
        )
    top = 1.0 if value_range == "0-1" else 255.0
    if low < -_SLACK * top or high > (1 + _SLACK) * top:
        raise ImageError(
            f"{where}: pixels go from {low:.4g} to {high:.4g}, outside value_range={value_range!r}; pass the range "
            "they are in, or stretch=(low, high)"
        )
    if is_float and top == 255.0 and 0 < high <= 1 and (seen % 1 != 0).any():
        raise ImageError(
            f"{where}: floats from {low:.4g} to {high:.4g} are black in value_range='0-255'; pass "
            "value_range='0-1', or stretch=(0, 255) if it is that dark"
        )
    if not is_float:
        return np.clip(pixels, 0, 255).astype(np.uint8)
    values = pixels.astype(np.float32)
    np.clip(values, 0, top, out=values)
    if top == 1.0:
        values *= np.float32(255)
    return values


def _reflectance_unit(dtype: np.dtype[Any], seen: Pixels, value_range: ValueRange | None, where: str) -> np.float32:
    """What makes reflectance x 10,000 of the pixels."""
    if dtype.itemsize == 1:
        raise ImageError(
            f"{where}: {dtype} pixels are stretched already, stretch='sentinel2' is for reflectance x 10000; "
            "leave stretch= out, or pass numbers"
        )
    if dtype.kind != "f":
        return np.float32(1)
    if value_range is None:
        raise ImageError(
            f"{where}: float reflectance with stretch='sentinel2' needs its unit: value_range='0-1', "
            "or value_range='0-10000' if it is multiplied by 10000"
        )
    high = float(seen.max())
    if value_range == "0-1" and high > 20:
        raise ImageError(f"{where}: reaches {high:.4g}, which is no reflectance in 0..1; is it value_range='0-10000'?")
    if value_range == "0-10000" and 0 < high <= 2:
        raise ImageError(f"{where}: reaches only {high:.4g}, which is no reflectance x 10000; is it value_range='0-1'?")
    return np.float32(10000 if value_range == "0-1" else 1)


def _limits(stretch: Stretch, values: Pixels, where: str) -> tuple[float, float]:
    if stretch == "sentinel2":
        return SENTINEL2_RANGE
    if stretch == "percentile":
        low, high = np.percentile(values, (2, 98)).tolist()
        if not low < high:
            raise ImageError(
                f"{where}: stretch='percentile' needs contrast, most pixels are {low:.4g}; pass stretch=(low, high)"
            )
        return low, high
    return float(stretch[0]), float(stretch[1])
