"""BigEarthNet 1 and 2, written small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tile_files import write_geotiff

from sattxt.data.bigearthnet import MERGED
from sattxt.data.registry import open_data
from sattxt.errors import InputError
from sattxt.labels.sets import label_set


def _patch(folder: Path, patch: str, red: int) -> None:
    for band, value in (("B04", red), ("B03", 100), ("B02", 100), ("B08", 3000)):
        write_geotiff(folder / patch / f"{patch}_{band}.tif", np.full((1, 4, 4), value, np.uint16))


def test_bigearthnet_1_with_43_and_19_classes(tmp_path):
    root = tmp_path / "BigEarthNet-v1.0"
    given = {
        "S2A_1": ["Vineyards", "Olive groves", "Sea and ocean"],
        "S2A_2": ["Airports"],  # no place among the 19
        "S2A_3": ["Mixed forest"],
    }
    for patch, labels in given.items():
        _patch(root, patch, 2750)
        (root / patch / f"{patch}_labels_metadata.json").write_text(json.dumps({"labels": labels}))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "test.csv").write_text("S2A_1,S1A_1\nS2A_2,S1A_2\n")
    (tmp_path / "splits" / "train.csv").write_text("S2A_3\n")
    full = open_data(tmp_path, "bigearthnet-43").split("test")
    assert full.multi_label
    assert [[full.classes[k] for k in s.labels] for s in full.samples] == [
        sorted(given["S2A_1"], key=full.classes.index),
        ["Airports"],
    ]
    grouped = open_data(tmp_path, "bigearthnet").split("test")
    assert [[grouped.classes[k] for k in s.labels] for s in grouped.samples] == [["Permanent crops", "Marine waters"]]
    assert grouped.image(0)[0, 0].tolist() == pytest.approx([255, 9.27, 9.27], abs=0.01)


def test_every_merged_class_is_one_of_the_43_and_the_19():
    parts = [part for group in MERGED.values() for part in group]
    assert len(parts) == len(set(parts))
    assert all(label_set("bigearthnet-43").find(part).key == part for part in parts)
    assert all(label_set("bigearthnet-19").find(whole).key == whole for whole in MERGED)
    own = set(label_set("bigearthnet-19").keys) - set(MERGED)
    assert len(parts) + len(own) == 43 - 11


def test_bigearthnet_2_reads_metadata_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    tile = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
    _patch(tmp_path / "BigEarthNet-S2" / tile, f"{tile}_26_57", 2750)
    rows = [
        {"patch_id": f"{tile}_26_57", "labels": ["Urban fabric", "Inland waters"], "split": "validation"},
        {"patch_id": "not_unpacked", "labels": ["Urban fabric"], "split": "validation"},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    data = open_data(tmp_path, "bigearthnet-19").split("val")
    assert [[data.classes[k] for k in s.labels] for s in data.samples] == [["Urban fabric", "Inland waters"]]
    pixel = data.image(0)[0, 0].tolist()
    assert pixel == pytest.approx([255, 9.27, 9.27], abs=0.01), "N9999 is no baseline: nothing is taken off"
    with pytest.raises(InputError, match="19 classes"):
        open_data(tmp_path, "bigearthnet-43")
