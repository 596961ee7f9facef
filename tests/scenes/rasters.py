"""Rasters made for tests: colours that tell where on the ground a pixel is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio import Affine

WEST, NORTH, METRES = 600_000.0, 5_000_000.0, 10.0


def ground(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 of places, the same for the same place."""
    red = np.floor(x / 10) * 7 % 251
    green = np.floor(y / 10) * 11 % 241
    return np.stack([red, green, (red * 3 + green) % 239], axis=-1).astype(np.uint8)


def write_raster(
    path: Path,
    width: int = 150,
    height: int = 130,
    *,
    transform: Affine | None = None,
    crs: str | None = "EPSG:32633",
    pixels: np.ndarray | None = None,
    descriptions: tuple[str, ...] = (),
    tags: dict[str, str] | None = None,
    driver: str = "GTiff",
    **options: Any,
) -> Path:
    """A raster whose pixels are those of the ground they lie on, or the (C, H, W) ``pixels``."""
    transform = transform or Affine(METRES, 0, WEST, 0, -METRES, NORTH)
    if pixels is None:
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        pixels = ground(*(transform * (columns, rows))).transpose(2, 0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    facts = {
        "count": count,
        "height": height,
        "width": width,
        "dtype": pixels.dtype,
        "crs": crs,
        "transform": transform,
    }
    with rasterio.open(path, "w", driver=driver, **facts, **options) as file:
        file.write(pixels)
        for band, name in enumerate(descriptions, 1):
            file.set_band_description(band, name)
        file.update_tags(**(tags or {}))
    return path
