"""Whether any label fits: on real tiles, with and without their class among the labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from real_tiles import read_tiles
from safetensors.torch import load_file, save_file

from sattxt import SatTxt, label_set
from sattxt.classify.fit import FitReference
from sattxt.errors import WeightsError

if TYPE_CHECKING:
    from sattxt import ZeroShotBatch
NONSENSE = ["a unicorn", "happiness", "a bowl of soup", "an electric guitar"]


@pytest.fixture(scope="module")
def eurosat(data_dir: Path, mini: SatTxt) -> tuple[np.ndarray, list[str]]:
    """Embeddings and class names of EuroSAT val tiles, every class alike often."""
    tiles, keys = read_tiles(data_dir / "eurosat_rgb.zip", "val", 12)
    return mini.encode_image(tiles), [label_set("eurosat").find(key).name for key in keys]


def share_refused(batch: ZeroShotBatch) -> float:
    return float(np.mean([result.fits is False for result in batch]))


@pytest.mark.tiles
def test_tiles_of_the_labels_fit(mini: SatTxt, eurosat: tuple[np.ndarray, list[str]]) -> None:
    images, _ = eurosat
    assert share_refused(mini.zero_shot(images, label_set="eurosat")) < 0.15


@pytest.mark.tiles
def test_tiles_whose_class_is_absent_are_refused(mini: SatTxt, eurosat: tuple[np.ndarray, list[str]]) -> None:
    images, truth = eurosat
    refused = []
    for name in label_set("eurosat").names:
        others = [other for other in label_set("eurosat").names if other != name]
        own = images[[label == name for label in truth]]
        refused += [result.fits is False for result in mini.zero_shot(own, others)]
    assert np.mean(refused) > 0.85


@pytest.mark.tiles
def test_words_that_nothing_looks_like_are_refused(mini: SatTxt, eurosat: tuple[np.ndarray, list[str]]) -> None:
    batches = [mini.zero_shot(eurosat[0], [word]) for word in NONSENSE]
    assert np.mean([share_refused(batch) for batch in batches]) > 0.9
    assert "(weak match)" in str(next(result for result in batches[0] if not result.fits))


@pytest.mark.tiles
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_fit_is_told_everywhere(mini: SatTxt, eurosat: tuple[np.ndarray, list[str]], multi_label: bool) -> None:
    images, _ = eurosat
    batch = mini.zero_shot(images[:4], ["forest", "river"], multi_label=multi_label)
    alone = mini.zero_shot(images[0], ["forest", "river"], multi_label=multi_label)
    assert alone.fit == pytest.approx(batch[0].fit, abs=1e-5)
    assert all(0 <= result.fit <= 1 for result in batch)
    assert json.loads(batch.to_json())["results"][0]["fits"] == batch[0].fits
    more = mini.zero_shot(images[:4], ["forest", "river", "city"], multi_label=multi_label)
    assert all(wide.fit >= narrow.fit for wide, narrow in zip(more, batch, strict=True))


def test_a_model_that_cannot_tell_says_none(model: SatTxt, tiles: list[np.ndarray]) -> None:
    result = model.zero_shot(tiles[0], ["forest", "river"])
    assert result.fit is None
    assert result.fits is None
    assert "weak" not in str(result)


def test_the_reference_goes_with_the_model(mini: SatTxt, tiles: list[np.ndarray], tmp_path: Path) -> None:
    copy = mini.save_pretrained(tmp_path / "copy")
    opened = SatTxt.from_pretrained(copy, dtype="float32", text_cache=False)
    ours, theirs = (m.zero_shot(tiles[0], ["forest", "river"]).fit for m in (mini, opened))
    assert ours == pytest.approx(theirs, abs=1e-6)
    (copy / "fit.safetensors").unlink()
    sums = (copy / "SHA256SUMS").read_text().splitlines(keepends=True)
    (copy / "SHA256SUMS").write_text("".join(line for line in sums if "fit.safetensors" not in line))
    without = SatTxt.from_pretrained(copy, dtype="float32", text_cache=False)
    assert without.zero_shot(tiles[0], ["forest", "river"]).fit is None
    assert without.fingerprint == mini.fingerprint, "no embedding depends on it"


def test_a_reference_that_does_not_fit_the_model_is_refused(mini: SatTxt, tmp_path: Path) -> None:
    from sattxt.weights.checksums import write_sums

    copy = mini.save_pretrained(tmp_path / "copy")
    tensors = load_file(copy / "fit.safetensors")
    save_file({**tensors, "words": tensors["words"][:, :-1].contiguous()}, copy / "fit.safetensors")
    write_sums(copy)
    with pytest.raises(WeightsError, match=r"fit\.safetensors.*words"):
        SatTxt.from_pretrained(copy)


def test_the_fit_is_that_of_the_formula() -> None:
    words = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    pictures = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.8, 0.6]])
    numbers = {name: torch.tensor(value) for name, value in {"floor": 0.25, "scale": 4.0, "bias": -0.5}.items()}
    reference = FitReference.of({"words": words.half(), "pictures": pictures.half(), **numbers})
    images = np.array([[0.8, 0.6, 0.0], [0.0, 0.6, 0.8]], np.float32)
    labels = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], np.float32)
    best_pictures = reference.best_pictures(labels)
    assert best_pictures == pytest.approx([0.6, 0.25], abs=1e-3)  # nothing looks like the second: the floor
    scores = images @ labels.T
    best_words = [0.8 * 0.6 + 0.6 * 0.8, 0.6 * 0.8]
    margins = [[2 * scores[i, k] - best_words[i] - best_pictures[k] for k in range(2)] for i in range(2)]
    assert reference.margins(images, scores, best_pictures) == pytest.approx(np.array(margins), abs=1e-3)
    expected = [1 / (1 + np.exp(0.5 - 4 * max(row))) for row in margins]
    found = reference.measure(images, scores, best_pictures)
    assert found == pytest.approx(expected, abs=1e-3)
    assert found.dtype == np.float32
