"""Bands that colour tells of, and others."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from evaluation_fakes import ColourEncoder, spectral_tiles
from sklearn.metrics import r2_score

from sattxt.data.multispectral import with_bands
from sattxt.data.registry import open_data
from sattxt.errors import ImageError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.spectral import band_means, ridge, spectral
from sattxt.images.bands import EUROSAT_MS
from sattxt.images.options import ImageOptions


class RawColour(ColourEncoder):
    """Mean colour beside a constant, so that brightness survives the unit length."""

    def encode_images(self, images):
        rows = np.array([np.asarray(image, dtype=float).reshape(-1, 3).mean(axis=0) / 255 for image in images])
        padded = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
        return (padded / np.linalg.norm(padded, axis=1, keepdims=True)).astype(np.float32)


def test_bands_that_colour_tells_are_told_and_others_not(tmp_path):
    data = open_data(spectral_tiles(tmp_path / "x"), "folder")
    with pytest.raises(ImageError, match="names of its 13 bands are not known"):
        spectral(Embedder(RawColour(), cache=False), data.split("train"), data.split("val"))

    data = open_data(tmp_path / "x", "folder", options=ImageOptions(band_names=EUROSAT_MS))
    result = spectral(Embedder(RawColour(), cache=False), data.split("train"), data.split("val")).to_dict()
    rows = {row["target"]: row for row in result["per_target"]}
    assert rows["NIR B08"]["mean_rgb"] > 0.99
    assert rows["NIR B08"]["features"] > 0.9
    assert rows["SWIR B12"]["features"] < 0.3
    assert {"NDVI", "NDWI"} <= set(rows)


def test_training_tiles_that_are_measured_too_are_left_out(tmp_path):

    root = spectral_tiles(tmp_path / "x")
    shutil.copy(root / "val" / "Field" / "0.tif", root / "train" / "Field" / "copy.tif")
    from sattxt.images.bands import EUROSAT_MS

    data = open_data(root, "folder", options=ImageOptions(band_names=EUROSAT_MS))
    result = spectral(Embedder(RawColour(), cache=False), data.split("train"), data.split("val"))
    assert result.settings["train"] == 30
    assert result.settings["train_repeats_left_out"] == 1


@pytest.mark.tiles
def test_two_page_tiles_give_all_ten_bands(data_dir):
    data = with_bands(open_data(data_dir / "s2_tiles.zip").split("val", limit=3))
    bands = data.bands(0)
    assert set(bands) == {"B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12"}
    assert bands["B11"].shape == (32, 32)
    assert data.image(0).shape == (64, 64, 3)
    assert 0 <= band_means(bands)["NIR B08"] < 1
    assert -1 <= band_means(bands)["NDVI"] <= 1


def test_ridge_recovers_a_linear_relation_on_unseen_samples():
    random = np.random.default_rng(7)
    features, unseen = random.normal(size=(80, 5)), random.normal(size=(40, 5))
    mix = random.normal(size=(5, 2))
    found = ridge(features, features @ mix + 3, unseen)
    assert r2_score(unseen @ mix + 3, found, multioutput="raw_values").min() > 0.999
