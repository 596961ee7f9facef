"""Embeddings that are computed once, and images that cannot be read."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import ColourEncoder, write_folders
from PIL import Image

from sattxt import SatTxt
from sattxt.data.registry import open_data
from sattxt.errors import ImageError
from sattxt.evaluation.embeddings import Embedder, degrade
from sattxt.evaluation.encoder import SatTxtEncoder


def test_embeddings_are_computed_once_and_kept(tmp_path):
    data = open_data(write_folders(tmp_path / "x", 2)).split()
    encoder = ColourEncoder()
    first = Embedder(encoder, cache=tmp_path / "cache")(data)[1]
    assert encoder.images_seen == 6
    again = Embedder(encoder, cache=tmp_path / "cache")
    assert np.array_equal(again(data)[1], first)
    assert encoder.images_seen == 6
    other = ColourEncoder()
    other.fingerprint = "d" * 64
    Embedder(other, cache=tmp_path / "cache")(data)
    assert other.images_seen == 6, "another model has its own"
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(Embedder(encoder, cache=tmp_path / "cache")(data)[1], first)
    assert encoder.images_seen == 12, "a damaged file is not used"


def test_images_a_model_refuses_are_left_out_too(golden_model_dir, tmp_path):
    folder = write_folders(tmp_path / "x", 1)
    Image.new("RGB", (200, 2)).save(folder / "RedField" / "strip.png")
    data = open_data(folder).split()
    encoder = SatTxtEncoder(SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False))
    with pytest.raises(ImageError, match="cut it into tiles"):
        Embedder(encoder, cache=False)(data)
    embed = Embedder(encoder, cache=tmp_path / "cache", on_error="skip")
    kept, vectors = embed(data)
    assert [s.id for s in kept.samples] == [s.id for s in data.samples if "strip" not in s.id]
    assert [f.source for f in embed.skipped] == ["RedField/strip.png"]
    assert np.allclose(vectors, Embedder(encoder, cache=False)(kept)[1], atol=1e-5)


def test_a_damaged_archive_member_is_one_unreadable_image(tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "x"), "zip", write_folders(tmp_path / "x", 2)))
    with zipfile.ZipFile(archive) as opened:
        first = next(i for i in opened.infolist() if i.filename.endswith(".png"))
    content = bytearray(archive.read_bytes())
    content[first.header_offset + 60 : first.header_offset + 100] = bytes(40)
    archive.write_bytes(bytes(content))
    embed = Embedder(ColourEncoder(), cache=False, on_error="skip")
    assert len(embed(open_data(archive).split())[0]) == 5
    assert [f.source for f in embed.skipped] == [first.filename]


def test_without_a_cache_nothing_is_written(tmp_path):
    data = open_data(write_folders(tmp_path / "x", 1)).split()
    Embedder(ColourEncoder(), cache=False)(data)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_embeddings_come_in_the_order_of_the_samples(tmp_path):
    data = open_data(write_folders(tmp_path / "x", 4)).split()
    embed = Embedder(ColourEncoder(), cache=False, workers=3)
    backwards = data.take(range(len(data))[::-1])
    assert np.array_equal(embed(backwards)[1][::-1], embed(data)[1])


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    data = open_data(write_folders(tmp_path / "x", 1)).split()
    (tmp_path / "cache").write_text("no folder")
    assert Embedder(ColourEncoder(), cache=tmp_path / "cache")(data)[1].shape == (3, 3)


def test_an_image_that_was_mended_is_read_again(tmp_path):
    folder = write_folders(tmp_path / "x", 2)
    broken, encoder = folder / "RedField" / "RedField_00.png", ColourEncoder()
    good = broken.read_bytes()
    broken.write_bytes(b"no picture")
    data = open_data(folder).split()
    embed = Embedder(encoder, cache=tmp_path / "cache", on_error="skip")
    assert len(embed(data)[0]) == 5
    again = Embedder(encoder, cache=tmp_path / "cache", on_error="skip")
    assert len(again(open_data(folder).split())[0]) == 5
    assert encoder.images_seen == 5, "only what could not be read is tried again"
    broken.write_bytes(good)
    assert len(again(open_data(folder).split())[0]) == 6


def test_degrading_averages_the_pixels_it_merges():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2] = 200
    image[0, 0] = 0
    found = degrade(image, 2)
    assert found.shape == (2, 2, 3)
    assert found[..., 0].tolist() == [[150, 0], [0, 0]]
    assert np.allclose(degrade(image.astype(np.float32), 2), found)
    assert np.array_equal(degrade(image, 1), image)
    assert degrade(image, 100).shape == (1, 1, 3)
