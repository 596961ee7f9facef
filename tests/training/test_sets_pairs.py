"""Tiles with all their bands for stage 1: GeoTIFFs, npz, EuroSAT's and two-page tiles."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from tile_files import bands as tile
from tile_files import geotiff, open_pairs, open_set, pack

from sattxt.errors import InputError
from sattxt.training.sets import describe


@pytest.mark.parametrize("memory", [True, False])
def test_geotiffs_by_their_descriptions(tmp_path, memory):
    names = ["B2", "green", "B4, 665 nm", "B8"]
    with_nan = tile(500).astype(np.float32)
    with_nan[0, 0, 0] = np.nan
    files = {
        "train/a.tif": geotiff(tile(100), names),
        "train/b.tif": geotiff(tile(200)[::-1].copy(), names[::-1]),  # the same bands in another order
        "train/c.tif": geotiff(with_nan, names),
        "train/d.tif": geotiff(tile(400, count=3), names[:3]),
        "train/e.tif": geotiff(tile(400, side=9), names),
        "train/f.tif": b"II*\0 no more",
        "train/g.tif": geotiff(tile(7), names, nodata=7),
        "train/h.tif": geotiff(tile(1300), names, tags={"PROCESSING_BASELINE": "05.09"}),
        "val/z.tif": geotiff(tile(900), names),
    }
    pack(tmp_path / "ms.zip", files)
    pairs = open_pairs({"name": "g", "kind": "geotiff", "path": "ms.zip", "memory": memory}, tmp_path, "train")
    assert pairs.bands == ("B02", "B03", "B04", "B08")
    wanted = torch.tensor([i for i, key in enumerate(pairs.keys) if key[6] in "abh"])
    assert pairs.spectral(wanted)[:, 0, 0, 0].tolist() == [100, 200, 300]  # the last has 1000 added, by its tags
    pairs.take(torch.arange(len(pairs)))
    reasons = dict(pairs.skipped)
    assert sorted(reasons) == [f"train/{x}.tif" for x in "cdefg"]
    assert "NaN" in reasons["train/c.tif"]
    assert "3 bands" in reasons["train/d.tif"] or "lacks" in reasons["train/d.tif"]
    assert "9x9" in reasons["train/e.tif"]
    assert "nodata" in reasons["train/g.tif"]
    assert len(open_pairs({"name": "g", "kind": "geotiff", "path": "ms.zip"}, tmp_path, "val")) == 1
    resampled = open_pairs({"name": "g", "kind": "geotiff", "path": "ms.zip", "size": 16}, tmp_path, "train")
    assert "train/e.tif" in resampled.keys
    assert resampled.spectral(torch.tensor([0])).shape == (1, 4, 16, 16)


def test_geotiffs_without_names_or_without_rgb(tmp_path):
    pack(tmp_path / "ms.zip", {"train/a.tif": geotiff(tile(100)), "train/b.tif": geotiff(tile(100, count=5))})
    entry = {"name": "g", "kind": "geotiff", "path": "ms.zip"}
    with pytest.raises(InputError, match=r"train/a\.tif: the names of its 4 bands are not known; pass them all in"):
        open_pairs(entry, tmp_path, "train")
    pairs = open_pairs({**entry, "bands": ["B02", "B03", "B04", "B08"], "scale": 2, "offset": 50}, tmp_path, "train")
    assert pairs.spectral(torch.tensor([0]))[0, :, 0, 0].tolist() == [100, 102, 104, 106]
    assert pairs.skipped == [("train/b.tif", "has 5 bands, 4 are named (B02, B03, B04, B08)")]
    with pytest.raises(InputError, match=r"needs the bands B02, B03 and B04 .* lacks B02; it has B05, B03"):
        open_pairs({**entry, "bands": ["B05", "B03", "B04", "B08"]}, tmp_path, "train")
    with pytest.raises(InputError, match="none of 2 tiles can be read"):
        open_pairs({**entry, "bands": ["B02", "B03", "B04"]}, tmp_path, "train")
    with pytest.raises(InputError, match=r"unknown key; did you mean 'bands'"):
        open_pairs({**entry, "band": ["B02"]}, tmp_path, "train")


def test_reflectance_between_0_and_1_wants_a_scale(tmp_path):
    names = ["B02", "B03", "B04", "B08"]
    pack(tmp_path / "r.zip", {"train/r.tif": geotiff(tile(100).astype(np.float32) / 10000, names)})
    entry = {"name": "n", "kind": "geotiff", "path": "r.zip"}
    with pytest.raises(InputError, match=r"holds reflectance in 0-1 .* pass scale: 10000"):
        open_pairs(entry, tmp_path, "train")
    pairs = open_pairs({**entry, "scale": 10000}, tmp_path, "train")
    assert pairs.spectral(torch.arange(1))[0, 1, 0, 0] == 101


@pytest.mark.tiles
def test_real_geotiffs_agree_with_the_reader_of_eurosat(data_dir, tmp_path):
    from sattxt.images.bands import EUROSAT_MS

    with zipfile.ZipFile(data_dir / "eurosat_ms.zip") as whole:
        names = [n for n in whole.namelist() if n.startswith("val/") and n.endswith(".tif")][:4]
        pack(tmp_path / "ms.zip", {n: whole.read(n) for n in names})
    known = open_pairs({"name": "e", "kind": "eurosat_ms", "path": "ms.zip"}, tmp_path, "val")
    entry = {"name": "g", "kind": "geotiff", "path": "ms.zip", "bands": list(EUROSAT_MS), "memory": False}
    pairs = open_pairs(entry, tmp_path, "val")
    index = torch.arange(4)
    assert torch.equal(known.spectral(index), pairs.spectral(index))
    assert torch.equal(known.take(index), pairs.take(index))


@pytest.mark.tiles
def test_real_two_page_tiles_and_a_broken_one(data_dir, tmp_path):
    pytest.importorskip("rasterio")
    with zipfile.ZipFile(data_dir / "s2_tiles.zip") as whole:
        names = [n for n in whole.namelist() if n.startswith("val/") and n.endswith(".tif")][:3]
        files = {n: whole.read(n) for n in names}
    pack(tmp_path / "s2.zip", {**files, "val/broken.tif": files[names[0]][:200]})
    entry = {"name": "s2", "kind": "s2", "path": "s2.zip"}
    tiles, pairs = open_set(entry, tmp_path, "val"), open_pairs(entry, tmp_path, "val")
    for opened in (tiles, pairs):
        assert len(opened) == 3
        assert [key for key, _ in opened.skipped] == ["val/broken.tif"]
    assert "bands B02 B03 B04 B08" in describe(pairs)
