"""Class folders as published, and what is no class folder."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_fakes import write_folders
from tile_files import write_geotiff, write_png, zipped

from sattxt.data.registry import open_data
from sattxt.errors import InputError
from sattxt.labels.sets import label_set


def test_hidden_and_mac_files_are_no_images(tmp_path):
    folder = write_folders(tmp_path / "x", 1)
    write_png(folder / "__MACOSX" / "RedField" / "._a.png")
    write_png(folder / ".cache" / "a.png")
    (folder / "RedField" / "readme.txt").write_text("no image")
    assert len(open_data(folder).split()) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.mkdir(), "holds no image"),
        (lambda p: write_png(p / "a.png"), "a.png lies in no class folder"),
        (lambda p: write_png(p / "val" / "a.png"), "lies in no class folder"),
        (lambda p: p.write_bytes(b"Rar!"), "is no zip or tar; unpack it"),
    ],
)
def test_what_is_no_class_folder_says_so(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(InputError, match=message):
        open_data(tmp_path / "x")


def test_eurosat_keeps_all_ten_classes(tmp_path):
    folder = tmp_path / "EuroSAT" / "2750"
    for name in ("AnnualCrop_1", "SeaLake_2"):
        write_png(folder / name.split("_")[0] / f"{name}.jpg")
    data = open_data(zipped(tmp_path / "EuroSAT"), "eurosat").split()
    assert data.classes == tuple(label_set("eurosat").keys)
    assert [s.id for s in data.samples] == ["2750/AnnualCrop/AnnualCrop_1.jpg", "2750/SeaLake/SeaLake_2.jpg"]
    assert data.targets.tolist() == [0, 9]


def test_a_folder_that_is_no_class_of_the_named_set_is_an_error(tmp_path):
    write_png(tmp_path / "x" / "Volcano" / "a.png")
    with pytest.raises(InputError, match=r"label set 'eurosat' has no label 'Volcano'.*; pass --dataset folder"):
        open_data(tmp_path / "x", "eurosat")


@pytest.mark.parametrize(
    ("dataset", "file", "key"),
    [
        ("ucmerced", "UCMerced_LandUse/Images/golfcourse/golfcourse00.tif", "golfcourse"),
        ("resisc45", "NWPU-RESISC45/sea_ice/sea_ice_001.jpg", "sea_ice"),
        ("aid", "AID/BareLand/bareland_1.jpg", "BareLand"),
        ("rsscn7", "RSSCN7/dRiverLake/d001.jpg", "dRiverLake"),
        ("WHU-RS19", "WHU-RS19/footballField/footballField_01.jpg", "footballField"),
    ],
)
def test_published_folders_of_scene_sets(tmp_path, dataset, file, key):
    write_png(tmp_path / "x" / file)
    data = open_data(tmp_path / "x", dataset).split()
    assert data.classes[data.targets[0]] == key
    assert data.classes == tuple(label_set(dataset).keys)


def test_eurosat_ms_is_seen_through_bands_4_3_2(tmp_path):
    bands = np.full((13, 4, 4), 100, np.uint16)
    bands[3] = 2750  # B04
    write_geotiff(tmp_path / "x" / "Forest" / "Forest_1.tif", bands)
    image = open_data(tmp_path / "x", "eurosat-ms").split().image(0)
    assert image[0, 0].tolist() == pytest.approx([255, 9.27, 9.27], abs=0.01)
