"""Classifiers and their results, on the miniature release."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sattxt import SatTxt
from sattxt.classify.classifier import Calibration
from sattxt.errors import ImageError, InputError, LabelError

LABELS = ["forest", "river", "city"]


def test_zero_shot_results(model: SatTxt, tiles: list[np.ndarray]) -> None:
    result = model.zero_shot(tiles[0], LABELS)
    assert result.label in LABELS
    assert result.probs.sum() == pytest.approx(1, abs=1e-5)
    assert [label for label, _ in result.top(2)] == [LABELS[i] for i in np.argsort(-result.probs)[:2]]
    batch = model.zero_shot(tiles, LABELS)
    assert len(batch) == 5
    assert batch[0].label == result.label
    assert json.loads(batch.to_json())["results"][0]["label"] == result.label


def test_a_classifier_takes_images_or_their_embeddings(model: SatTxt, tiles: list[np.ndarray]) -> None:
    classifier = model.classifier({"water": ["river", "lake"], "built": ["houses", "factory"]})
    from_images = classifier(tiles)
    from_embeddings = classifier(model.encode_image(tiles))
    assert np.allclose(from_images.scores, from_embeddings.scores, atol=1e-5)
    assert classifier(model.encode_image(tiles[0])).label == from_images[0].label
    with pytest.raises(InputError, match=f"of width 3 was passed; this model's are {model.embed_dim} wide"):
        classifier(np.ones(3, dtype=np.float32))
    with pytest.raises(InputError, match="an all-zero vector"):
        classifier(np.zeros(model.embed_dim, dtype=np.float32))
    vectors = list(model.encode_image(tiles))
    assert np.allclose(classifier(vectors).scores, from_images.scores, atol=1e-5)
    grey = tiles[0].mean(axis=2)
    assert np.allclose(classifier(grey, stretch=(0, 255)).scores, classifier(grey.astype(np.uint8)).scores, atol=0.05)
    assert len(classifier(grey.astype(np.uint8)).labels) == 2


def test_synonyms_are_averaged_and_renormalised(model: SatTxt) -> None:
    classifier = model.classifier({"water": ["river", "lake"], "wood": "forest"})
    vectors = model.encode_text(["a satellite image of river", "a satellite image of lake"])
    mean = vectors.mean(0)
    assert np.allclose(classifier.weights[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_multi_label_probabilities_are_independent_of_the_other_labels(model: SatTxt, tiles: list[np.ndarray]) -> None:
    few = model.zero_shot(tiles[0], ["forest", "river"], multi_label=True)
    several = model.zero_shot(tiles, ["forest", "river"], multi_label=True)
    assert several[0].probs == pytest.approx(few.probs, abs=1e-5), "and of the other tiles"
    more = model.zero_shot(tiles[0], ["forest", "river", "city", "desert"], multi_label=True)
    assert few.probs[:2] == pytest.approx(more.probs[:2], abs=1e-5)
    assert few.above(0.0) == [label for label, _ in few.top(2)]


def test_a_named_label_set(model: SatTxt, tiles: list[np.ndarray]) -> None:
    assert len(model.zero_shot(tiles[0], label_set="eurosat").labels) == 10


@pytest.mark.parametrize("labels", [[], ["river", "River"], ["river", ""]])
def test_bad_labels(model: SatTxt, tiles: list[np.ndarray], labels: list[str]) -> None:
    with pytest.raises(LabelError):
        model.zero_shot(tiles[0], labels)


def test_a_bad_template(model: SatTxt, tiles: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match=r"\{\}"):
        model.zero_shot(tiles[0], LABELS, templates="a satellite image")


def test_skipping_the_only_tile_leaves_nothing_to_answer_with(model: SatTxt, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.png"):
        model.zero_shot(tmp_path / "bad.png", LABELS, on_error="skip")
    assert [f.index for f in model.zero_shot([tmp_path / "bad.png"], LABELS, on_error="skip").failures] == [0]


def test_probabilities_of_very_sharp_models_stay_finite() -> None:
    sharp = Calibration(1e5, scale=2.0, bias=-1.0)
    assert sharp.softmax(np.array([[0.9, -0.9, 0.1]], np.float32)).tolist() == [[1, 0, 0]]
    contrast = sharp.contrast(np.array([[0.9, -0.9]], np.float32), np.array([[0.5, 0.4]], np.float32))
    assert contrast[0] == pytest.approx([1, 0], abs=1e-6)


def test_probabilities_are_those_of_the_formulas() -> None:
    scores, backgrounds = np.array([[0.3, 0.1]], np.float32), np.array([[0.2, 0.05]], np.float32)
    calibration = Calibration(10, scale=1.5, bias=-0.5)
    powers = np.exp([3.0, 1.0])
    assert calibration.softmax(scores)[0] == pytest.approx(powers / powers.sum(), abs=1e-6)
    level = np.log(np.mean(np.exp([2.0, 0.5])))
    expected = [1 / (1 + np.exp(-(1.5 * (logit - level) - 0.5))) for logit in (3.0, 1.0)]
    assert calibration.contrast(scores, backgrounds)[0] == pytest.approx(expected, abs=1e-6)


def test_a_label_seen_before_under_a_dict_is_found_again(model: SatTxt) -> None:
    water = model.classifier({"water": ["river", "lake"]})
    assert model.classifier({"water": ["river", "lake"]}) is water
    assert model.classifier({"water": ["river"]}) is not water
    assert model.classifier({"wet": ["river", "lake"]}).labels == ("wet",)


def test_a_bank_names_its_model(model: SatTxt, tmp_path: Path) -> None:
    assert model.export_labels(tmp_path / "bank.safetensors", ["forest"]).model == model.config.name


def test_a_label_alone_and_letters_that_are_not_english_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    model, tile = SatTxt.from_pretrained(), np.full((64, 64, 3), 90, np.uint8)
    tile[::2] = 40
    for _ in range(2):
        model.zero_shot(tile, ["forest"])
        model.zero_shot(tile, ["\u68ee\u6797", "river"])
        model.zero_shot(tile, ["forest"], multi_label=True)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("'forest' is the only label")
    assert told[1].startswith("1 of 2 labels (\u68ee\u6797) are not in Latin letters")


def test_a_batch_tells_the_first_ten_and_what_could_not_be_read(model: SatTxt, tiles: list[np.ndarray]) -> None:
    batch = model.zero_shot([*tiles, *tiles, *tiles[:2], b"no image"], LABELS, on_error="skip")
    lines = str(batch).splitlines()
    assert len(lines) == 12
    assert lines[:10] == [str(result) for result in batch[:10]]
    assert lines[10:] == ["... and 2 more", "1 could not be read, first image 12"]
    assert str(model.zero_shot([], LABELS)) == "no results"
    best, second, third = batch[0].top(3)
    assert lines[0] == ", ".join(f"{label} {100 * prob:.1f} %" for label, prob in (best, second, third))
    assert batch[0].top(0) == batch[0].top(-1) == []
    assert batch[0].above(second[1]) == [best[0], second[0]]
    for threshold in (-0.1, 1.1):
        with pytest.raises(InputError, match=f"threshold={threshold}: pass a probability"):
            batch[0].above(threshold)


def test_the_latest_classifiers_are_remembered(model: SatTxt) -> None:
    first, *others = ([f"label {i}", "river"] for i in range(33))
    made = model.classifier(first)
    for labels in others[:31]:
        model.classifier(labels)
    assert model.classifier(first) is made
    model.classifier(others[31])
    assert model.classifier(first) is not made
