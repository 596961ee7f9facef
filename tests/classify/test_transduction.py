"""Tiles that are classified together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import ColourEncoder, write_folders
from hypothesis import given, settings
from hypothesis import strategies as st
from real_tiles import read_tiles

from sattxt import SatTxt, label_set
from sattxt.classify.transduction import transduce
from sattxt.errors import InputError


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def clouds(seed: int, sizes: tuple[int, ...] = (40, 80, 20), dim: int = 16) -> tuple[np.ndarray, ...]:
    """Embeddings in clouds of unlike sizes, their classes, and label vectors that lie beside the clouds' middles."""
    random = np.random.default_rng(seed)
    middles = unit(random.normal(size=(len(sizes), dim)))
    classes = np.repeat(np.arange(len(sizes)), sizes)
    tiles = unit(middles[classes] + 0.15 * random.normal(size=(len(classes), dim)))
    beside = unit(middles + 0.6 * random.normal(size=middles.shape) / np.sqrt(dim) + 0.5 * middles.mean(axis=0))
    return tiles, classes, beside


def test_tiles_put_right_what_the_words_get_wrong() -> None:
    alone, together = [], []
    for seed in range(20):
        tiles, classes, labels = clouds(seed)
        alone.append(np.mean((tiles @ labels.T).argmax(1) == classes))
        together.append(np.mean(transduce(tiles, labels, 5.0).argmax(1) == classes))
    assert np.mean(together) > np.mean(alone)
    assert np.median(together) == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 100), count=st.integers(4, 60), labels=st.integers(1, 4))
def test_rows_are_probabilities(seed: int, scale: float, count: int, labels: int) -> None:
    random = np.random.default_rng(seed)
    tiles, texts = unit(random.normal(size=(count, 8))), unit(random.normal(size=(labels, 8)))
    found = transduce(tiles, texts, scale)
    assert found.shape == (count, labels)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_no_tile_and_no_label_is_preferred_for_its_place() -> None:
    tiles, _, labels = clouds(2)
    found, again = transduce(tiles, labels, 10.0), transduce(tiles[::-1], labels[::-1], 10.0)
    np.testing.assert_allclose(found, again[::-1, ::-1], atol=1e-3)


def test_equal_tiles_are_classified_alike() -> None:
    tiles = np.tile(unit(np.eye(3, 8)), (5, 1))
    found = transduce(tiles, unit(np.eye(3, 8) + 0.1), 20.0)
    assert (found.argmax(1) == np.tile(np.arange(3), 5)).all()


def test_many_tiles_are_compared_block_by_block() -> None:
    tiles, _, labels = clouds(1)
    by_blocks = transduce(tiles, labels, 10.0, cosines_at_once=7 * len(tiles))
    np.testing.assert_allclose(by_blocks, transduce(tiles, labels, 10.0), atol=1e-5)


def test_fewer_tiles_than_labels_are_refused() -> None:
    tiles, _, labels = clouds(0)
    with pytest.raises(InputError, match=r"2 tiles for 3 labels: .* pass more tiles"):
        transduce(tiles[:2], labels, 10.0)


def test_a_classifier_takes_tiles_together(mini: SatTxt) -> None:
    random = np.random.default_rng(0)
    tiles = [random.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(5)]
    classifier = mini.classifier(["river", "forest"])
    batch = classifier.together(tiles)
    np.testing.assert_array_equal(batch.scores, classifier(tiles).scores)
    assert batch.probs.sum(1) == pytest.approx(np.ones(5), abs=1e-5)
    from_embeddings = classifier.together(mini.encode_image(tiles))
    np.testing.assert_allclose(from_embeddings.probs, batch.probs, atol=1e-4)
    left_out = classifier.together([*tiles, b"no image"], on_error="skip")
    assert (left_out.indices, left_out.failures[0].index) == ([0, 1, 2, 3, 4], 5)
    with pytest.raises(InputError, match="1 tiles for 2 labels"):
        classifier.together(tiles[0])
    with pytest.raises(InputError, match="without multi_label"):
        mini.classifier(["river", "forest"], multi_label=True).together(tiles)


def test_words_that_do_not_quite_fit_are_made_up_for_by_the_tiles(data_dir: Path, mini: SatTxt) -> None:
    """EuroSAT val by the first of the held-out phrases: copse, the sea, arable land, ..."""
    phrases = json.loads(
        (Path(__file__).parents[2] / "src/sattxt/training/recipes/eurosat_paraphrases.json").read_text()
    )
    tiles, classes = read_tiles(data_dir / "eurosat_rgb.zip", "val", 6)
    classifier = mini.classifier({key: several[0] for key, several in phrases.items()})
    right = np.array(classes)
    alone = np.mean(np.array(classifier(tiles).labels) == right)
    together = np.mean(np.array(classifier.together(tiles).labels) == right)
    assert together > alone + 0.01
    assert {label.key for label in label_set("eurosat").labels} == set(classifier.labels)


def test_the_command_classifies_together_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sattxt.cli import app
    from sattxt.cli.eval_options import Setup

    monkeypatch.setattr(Setup, "open_encoder", lambda self, image_size=None: ColourEncoder())
    data, out = write_folders(tmp_path / "x", 6), tmp_path / "out.json"
    command = ["eval", "zero-shot", "--data", str(data), "--together"]
    assert app.run([*command, "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["settings"]["together"] is True
    assert document["settings"]["transductive"] is True
    assert any("unlabelled" in note for note in document["notes"])
    assert document["top1"] == 100
    (tmp_path / "p.json").write_text("{}")
    assert app.run([*command, "--prompts", str(tmp_path / "p.json")]) == 2
    assert app.run([*command, "--centre-scores"]) == 2


def _by_hand(tiles: np.ndarray, labels: np.ndarray, scale: float) -> np.ndarray:
    """The updates of the paper, one number at a time where that is clearer."""
    count, classes = len(tiles), len(labels)
    logits = scale * tiles @ labels.T
    words = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    cosines = tiles @ tiles.T
    np.fill_diagonal(cosines, -2)
    near = np.argsort(-cosines, axis=1)[:, :3]
    assigned = np.exp(words)
    sure = [np.argsort(-assigned[:, k])[: min(8, count // classes)] for k in range(classes)]
    means = np.stack([unit(tiles[rows].mean(0)) for rows in sure])
    variance = np.full(tiles.shape[1], 1 / tiles.shape[1])
    for _ in range(10):
        likely = np.array([[-0.5 * ((x - m) ** 2 / variance).sum() for m in means] for x in tiles])
        for _ in range(5):
            friends = np.array([sum(max(cosines[i, j], 0) * assigned[j] for j in near[i]) for i in range(count)])
            powers = words + likely + friends
            assigned = np.exp(powers - powers.max(1, keepdims=True))
            assigned /= assigned.sum(1, keepdims=True)
        means = unit(assigned.T @ tiles)
        spread = sum(assigned[i, k] * (tiles[i] - means[k]) ** 2 for i in range(count) for k in range(classes))
        variance = np.maximum(spread / count, 1e-6)
    return assigned


def test_the_updates_are_those_of_the_paper() -> None:
    tiles, _, labels = clouds(3, sizes=(12, 20, 9), dim=6)
    # far apart clouds leave nothing to see: these overlap
    tiles = unit(tiles + 0.35 * np.random.default_rng(0).normal(size=tiles.shape))
    np.testing.assert_allclose(transduce(tiles, labels, 4.0), _by_hand(tiles, labels, 4.0), atol=2e-3)
