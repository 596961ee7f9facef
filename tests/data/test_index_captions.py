"""Captions that tiles write of themselves, from their bands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tile_files import open_set

from sattxt.data.multispectral import index_captions
from sattxt.errors import ImageError


def tile(b02: float, b03: float, b04: float, b08: float, b11: float) -> dict[str, np.ndarray]:
    """Even bands, 8 x 8 at 10 m and 4 x 4 at 20 m, of reflectance in 0-1."""
    ten = {"B02": b02, "B03": b03, "B04": b04, "B08": b08}
    found = {name: np.full((8, 8), 10_000 * value, np.float32) for name, value in ten.items()}
    return {**found, "B11": np.full((4, 4), 10_000 * b11, np.float32)}


def test_captions_written_from_bands():
    assert "water" in index_captions(tile(0.06, 0.05, 0.04, 0.02, 0.01))[0]
    assert "vegetation" in index_captions(tile(0.04, 0.07, 0.04, 0.45, 0.2))[0]
    assert "bare soil" in index_captions(tile(0.12, 0.16, 0.2, 0.25, 0.33))[0]
    with pytest.raises(ImageError, match="lacks the bands B02, B11"):
        index_captions({name: band for name, band in tile(0, 0, 0, 0, 0).items() if name not in ("B02", "B11")})


@pytest.mark.tiles
def test_real_sentinel2_tiles(data_dir: Path):
    tiles = open_set({"name": "s2", "kind": "s2", "path": "s2_tiles.zip"}, data_dir, "val")
    assert tiles.pixels.shape == (333, 3, 64, 64)
    green = [i for i, c in enumerate(tiles.captions) if "dense green vegetation" in c[0] and "almost entirely" in c[0]]
    water = [i for i, c in enumerate(tiles.captions) if "by water" in c[0] and "almost entirely" in c[0]]
    assert len(green) > 20
    assert len(water) > 20
    excess = (2 * tiles.pixels[:, 1].float() - tiles.pixels[:, 0] - tiles.pixels[:, 2]).mean((1, 2))
    assert float(excess[green].median()) > float(excess[water].median()) + 5  # seen in RGB, derived from other bands
