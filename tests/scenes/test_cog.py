"""Rasters of one band as COGs: read back by rasterio, and valid by rio-cogeo."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rio_cogeo import cog_validate

from sattxt.errors import DiskFullError, InputError
from sattxt.scenes.cog import write_cog

PLACE: dict[str, Any] = {"crs": "EPSG:32633", "transform": from_origin(600_000, 5_000_000, 10, 10)}


def test_classes_with_their_colours(tmp_path: Path) -> None:
    classes = np.zeros((700, 1100), np.uint8)
    classes[:, 400:] = 1
    classes[:90] = 255
    colours = {0: (30, 100, 200), 1: (20, 110, 45)}

    path = write_cog(
        tmp_path / "map.tif", classes, **PLACE, nodata=255, tags={"labels": '["wood", "ü"]'},
        band_tags={"CLASS_0": "wood"}, colours=colours, overviews="mode",
    )  # fmt: skip

    assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), classes)
        assert file.nodata == 255
        assert file.crs.to_epsg() == 32633
        assert file.transform == PLACE["transform"]
        assert [file.colormap(1)[i][:3] for i in colours] == list(colours.values())
        assert file.tags()["labels"] == '["wood", "ü"]'
        assert file.tags(1)["CLASS_0"] == "wood"
        assert file.overviews(1)
    assert os.listdir(tmp_path) == ["map.tif"]


def test_numbers_of_which_nan_means_none(tmp_path: Path) -> None:
    heat = np.random.default_rng(0).random((520, 600)).astype(np.float32)
    heat[:9] = np.nan
    path = write_cog(
        tmp_path / "heat.tif", heat, crs=None, transform=rasterio.Affine.identity(), nodata=np.nan, overviews="average"
    )
    assert cog_validate(path, strict=True)[0]
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), heat, equal_nan=True)
        assert np.isnan(file.nodata)


def test_what_is_there_stays_unless_asked_for_and_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, classes = tmp_path / "map.tif", np.zeros((64, 64), np.uint8)
    path.write_text("earlier")
    with pytest.raises(InputError, match="overwrite=True"):
        write_cog(path, classes, **PLACE, nodata=255)

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda self, mode: Full(self, mode))
    with pytest.raises(DiskFullError, match="map"):
        write_cog(path, classes, **PLACE, nodata=255, overwrite=True)
    monkeypatch.undo()
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["map.tif"]
