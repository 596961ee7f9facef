"""Samples by split, their fingerprints, and images that cannot be read."""

from __future__ import annotations

import tarfile

import pytest
from evaluation_fakes import write_folders
from tile_files import write_png, zipped

from sattxt.data.registry import open_data
from sattxt.errors import ImageError, InputError


def test_folder_zip_and_tar_of_the_same_files_are_the_same_data(tmp_path):
    folder = write_folders(tmp_path / "tiles", 2, ("train", "val"))
    archives = [folder, zipped(folder), tmp_path / "tiles.tar"]
    with tarfile.open(archives[-1], "w") as archive:
        archive.add(folder, arcname=".")
    found = [open_data(path).split("val") for path in archives]
    assert [len(data) for data in found] == [6] * 3
    assert len({data.fingerprint for data in found}) == 1
    assert len({data.image(5).tobytes() for data in found}) == 1
    assert found[0].classes == ("BlueField", "GreenField", "RedField")
    assert [data.name for data in found] == ["tiles"] * 3


def test_another_pixel_or_label_is_another_fingerprint(tmp_path):
    folder = write_folders(tmp_path / "tiles", 2)
    before = open_data(folder).split()
    fingerprint = before.fingerprint
    changed = folder / before.samples[0].id
    moved = folder / "RedField" / "moved.png"
    changed.rename(moved)
    relabelled = open_data(folder).split()
    assert relabelled.fingerprint != fingerprint
    pixels = relabelled.pixels_fingerprint
    write_png(moved, "green", 99)
    assert open_data(folder).split().pixels_fingerprint != pixels


def test_split_defaults_to_val_then_test_then_everything(tmp_path):
    for names, chosen, count in (
        (("train", "validation", "test"), "val", 3),
        (("train", "test"), "test", 3),
        (("",), "", 3),
    ):
        data = open_data(write_folders(tmp_path / "-".join(names) / "x", 1, names))
        assert (data.split().split, len(data.split())) == (chosen, count)
        assert len(data.split("all")) == 3 * len(names)
    with pytest.raises(InputError, match="no splits"):
        data.split("val")


def test_limit_is_spread_over_all_classes(tmp_path):
    data = open_data(write_folders(tmp_path / "x", 6)).split(limit=3)
    assert sorted(data.targets.tolist()) == [0, 1, 2]


def test_a_broken_image_is_named(tmp_path):
    folder = write_folders(tmp_path / "x", 1)
    (folder / "RedField" / "broken.png").write_bytes(b"\x89PNG nonsense")
    data = open_data(folder).split()
    with pytest.raises(ImageError, match=r"RedField/broken\.png"):
        data.image(len(data) - 1)
