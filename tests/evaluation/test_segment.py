"""Segmentation against label maps, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import ColourEncoder, prompts, tile, write_folders
from PIL import Image

from sattxt.data.labelled import read_masks
from sattxt.data.registry import open_data
from sattxt.errors import InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.encoder import SatTxtEncoder
from sattxt.evaluation.segment import segment


class Painter(SatTxtEncoder):
    """Labels every pixel with the colour it is nearest to."""

    name = "painter"
    templates = ColourEncoder.templates

    def __init__(self) -> None:
        self.colours = ColourEncoder()

    def describe(self):
        return {"name": self.name, "fingerprint": "p" * 64}

    def segment(self, image, prompts, **options):
        from types import SimpleNamespace

        weights = self.colours.encode_texts([texts[0] for texts in prompts.values()])
        return SimpleNamespace(label_map=(image.astype(float) @ weights.T).argmax(axis=-1))


def _seen_by(encoder) -> Embedder:
    return Embedder(encoder, cache=False)


def masked(folder: Path, names: dict[str, str]) -> Path:
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "val" / "masks").mkdir()
    pixels = np.concatenate([tile("red", 0, noise=0), tile("blue", 1, noise=0)], axis=1)
    Image.fromarray(pixels).save(folder / "val" / "images" / "a.png")
    mask = np.zeros((8, 16), np.uint8)
    mask[:, :6] = 1  # two red columns are unlabelled
    mask[:, 8:] = 2
    mask[0, 8:] = 1  # eight blue pixels are said to be red
    Image.fromarray(mask).save(folder / "val" / "masks" / "a.png")
    (folder / "classes.json").write_text(json.dumps(names))
    return folder


def test_mean_iou_by_hand_with_unlabelled_pixels_left_out(tmp_path):
    dataset = read_masks(masked(tmp_path / "x", {"0": "unlabelled", "1": "red roof", "2": "blue water"}))
    data = dataset.split()
    assert data.classes == ("blue water", "red roof")[::-1]
    result = segment(_seen_by(Painter()), data, prompts(data))
    red, blue = 48 / 56, 56 / 64
    assert result.to_dict()["miou"] == pytest.approx(100 * (red + blue) / 2, abs=1e-3)
    assert (data.mask(0) == -1).sum() == 16
    with pytest.raises(InputError, match="patch tokens"):
        segment(_seen_by(ColourEncoder()), data, prompts(data))


def test_masks_that_do_not_fit_say_so(tmp_path):
    folder = masked(tmp_path / "x", {"0": "unlabelled", "1": "red"})
    with pytest.raises(InputError, match=r"masks/a\.png: value 2 is no class"):
        read_masks(folder).split().mask(0)
    (folder / "val" / "masks" / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"masks/a\.png: cannot be read as an image"):
        read_masks(folder).split().mask(0)
    Image.new("RGB", (16, 8)).save(folder / "val" / "masks" / "a.png")
    with pytest.raises(InputError, match="has 3 bands"):
        read_masks(folder).split().mask(0)
    Image.new("L", (16, 9)).save(folder / "val" / "masks" / "a.png")
    data = read_masks(folder).split()
    with pytest.raises(InputError, match=r"is \(8, 16\) pixels, its mask \(9, 16\)"):
        segment(_seen_by(Painter()), data, prompts(data))
    (folder / "val" / "masks" / "a.png").rename(folder / "val" / "masks" / "b.png")
    with pytest.raises(InputError, match="in pairs; val/a has no partner"):
        read_masks(folder)
    (folder / "classes.json").write_text('{"one": "red"}')
    with pytest.raises(InputError, match="number to class name is needed"):
        read_masks(folder)


def test_an_image_without_a_label_counts_for_nothing(tmp_path):
    folder = masked(tmp_path / "x", {"0": "unlabelled", "1": "red roof", "2": "blue water"})
    before = read_masks(folder).split()
    alone = segment(_seen_by(Painter()), before, prompts(before)).figures["miou"]
    Image.new("RGB", (16, 8)).save(folder / "val" / "images" / "b.png")
    Image.new("L", (16, 8)).save(folder / "val" / "masks" / "b.png")
    data = read_masks(folder).split()
    assert segment(_seen_by(Painter()), data, prompts(data)).figures["miou"] == alone


def test_data_without_masks_are_not_segmented(tmp_path):
    data = open_data(write_folders(tmp_path / "x", 1)).split()
    with pytest.raises(InputError, match="has no label maps"):
        segment(_seen_by(Painter()), data, prompts(data))
