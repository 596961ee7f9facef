"""Dynamic World tells land cover on L1C and L2A tiles, and refuses what it cannot use."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from sattxt.data.multispectral import with_bands
from sattxt.data.registry import open_data
from sattxt.errors import ImageError, WeightsError
from sattxt.training.teachers.dynamicworld import DynamicWorldTeacher

pytestmark = pytest.mark.tiles


@pytest.fixture(scope="module")
def teacher(data_dir):
    pytest.importorskip("onnxruntime")
    return DynamicWorldTeacher.from_folder(data_dir / "teachers" / "dynamicworld")


def test_it_names_what_eurosat_names(teacher, data_dir):
    tiles = with_bands(open_data(data_dir / "eurosat_ms.zip", "eurosat").split("val"))
    expected = {"Forest": "trees", "SeaLake": "water", "Industrial": "built", "Residential": "built"}
    for index, label in enumerate(tiles.targets.tolist()):
        if tiles.classes[label] in expected:
            shares = teacher.land_cover(tiles.bands(index), 16).mean(dim=(1, 2))
            assert teacher.classes[int(shares.argmax())] == expected[tiles.classes[label]], tiles.samples[index].id


def test_water_without_the_light_of_the_air_is_no_trees(teacher, data_dir):
    tiles = open_data(data_dir / "s2_tiles.zip", "s2").split("val", limit=60)
    seen = set()
    for index in range(len(tiles)):
        bands = tiles.bands(index)
        ndvi = np.median((bands["B08"] - bands["B04"]) / np.maximum(bands["B08"] + bands["B04"], 1))
        shares = teacher.land_cover(bands, 1)[:, 0, 0]
        name = teacher.classes[int(shares.argmax())]
        if shares.max() > 0.8 and name in ("water", "trees"):
            seen.add(name)
            assert (ndvi < 0.2) if name == "water" else (ndvi > 0.6), tiles.samples[index].id
    assert seen == {"water", "trees"}


def test_shares_are_probabilities_of_each_place(teacher, data_dir):
    bands = open_data(data_dir / "s2_tiles.zip", "s2").split("val").bands(0)
    shares = teacher.land_cover(bands, 8)
    assert shares.shape == (9, 8, 8)
    torch.testing.assert_close(shares.sum(0), torch.ones(8, 8))
    torch.testing.assert_close(
        teacher.land_cover(bands, 16).unflatten(1, (8, 2)).unflatten(3, (8, 2)).mean((2, 4)), shares
    )


def test_what_it_cannot_use_is_refused(teacher, data_dir, tmp_path):
    bands = open_data(data_dir / "s2_tiles.zip", "s2").split("val").bands(0)
    with pytest.raises(ImageError, match="lacks the bands B11"):
        teacher.land_cover({name: band for name, band in bands.items() if name != "B11"}, 8)
    with pytest.raises(ImageError, match="smaller than 128"):
        teacher.land_cover(bands, 128)
    for name in ("forward.onnx", "preprocess.json"):
        shutil.copyfile(data_dir / "teachers" / "dynamicworld" / name, tmp_path / name)
    (tmp_path / "forward.onnx").write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"forward\.onnx"):
        DynamicWorldTeacher.from_folder(tmp_path)
    (tmp_path / "preprocess.json").write_text(json.dumps({"p": [[1, 2]], "classes": ["water"]}))
    with pytest.raises(WeightsError, match="1 classes, 1 bands"):
        DynamicWorldTeacher.from_folder(tmp_path)
