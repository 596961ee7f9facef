"""Zero-shot classification; coarser pixels and other input sizes."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_fakes import ColourEncoder, prompts, tile, write_folders
from PIL import Image

from sattxt.data.registry import open_data
from sattxt.errors import InputError, LabelError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.zero_shot import centred, phrasings, scale, zero_shot


def test_zero_shot_of_tiles_that_match_their_names_is_perfect(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 4)).split()
    document = zero_shot(embed, data, prompts(data)).to_dict()
    assert document["top1"] == 100
    assert document["balanced_accuracy"] == 100
    assert document["n"] == 12
    assert document["ci95"]["top1"] == [75.7499, 100.0], "twelve of twelve, Wilson"
    assert [row["n"] for row in document["per_class"]] == [4, 4, 4]
    assert document["per_class"][0]["name"] == "blue field"
    assert np.trace(np.array(document["confusion"])) == 12
    assert "top5" not in document, "of three classes, five mean nothing"


def test_zero_shot_counts_what_names_get_wrong(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 4)).split()
    words = {"BlueField": ["blue"], "GreenField": ["red stuff"], "RedField": ["green"]}
    document = zero_shot(embed, data, prompts(data, words=words)).to_dict()
    assert document["top1"] == pytest.approx(100 / 3, abs=1e-3)
    assert document["confusion"] == [[4, 0, 0], [0, 0, 4], [0, 4, 0]]
    assert [row["accuracy"] for row in document["per_class"]] == [100, 0, 0]


def test_centred_scores_by_hand():
    scores = np.array([[0.9, 0.2], [0.8, 0.3], [0.7, 0.4]], dtype=np.float32)
    expected = np.array([[0.1, -0.1], [0.0, 0.0], [-0.1, 0.1]])
    np.testing.assert_allclose(centred(scores), expected, atol=1e-6)
    assert centred(scores).dtype == np.float32
    np.testing.assert_allclose(scores[0], [0.9, 0.2], atol=1e-6)
    with pytest.raises(InputError, match="1 tiles for 2 classes"):
        centred(scores[:1])


def test_centring_scores_mends_a_label_that_is_near_to_everything(tmp_path, embed):
    for folder, colour in (("Green", (120, 110, 100)), ("Red", (140, 100, 100))):
        (tmp_path / "x" / folder).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (colour[0] + i, *colour[1:])).save(tmp_path / "x" / folder / f"{i}.png")
    data = open_data(tmp_path / "x").split()
    classes = prompts(data)
    plain = zero_shot(embed, data, classes).to_dict()
    assert plain["confusion"] == [[0, 3], [0, 3]], "reddish all of them"
    assert "transductive" not in plain["settings"]
    document = zero_shot(embed, data, classes, centre_scores=True).to_dict()
    assert document["confusion"] == [[3, 0], [0, 3]]
    assert document["top1"] == 100
    assert document["settings"]["transductive"] is True
    assert any("unlabelled" in note and "equally frequent" in note for note in document["notes"])


def test_centred_scores_are_for_one_label_a_tile(tmp_path, embed):
    Image.fromarray(tile("red", 0)).save(tmp_path / "0.png")
    Image.fromarray(tile("blue", 1)).save(tmp_path / "1.png")
    (tmp_path / "m.csv").write_text("path,labels\n0.png,red;blue\n1.png,blue")
    data = open_data(tmp_path / "m.csv").split()
    with pytest.raises(InputError, match="one label a tile"):
        zero_shot(embed, data, prompts(data), centre_scores=True)


def test_multi_label_figures_and_a_threshold_from_other_samples(tmp_path, embed):
    for i, labels in enumerate((["red"], ["blue"], ["red", "blue"], ["green"]) * 3):
        pixels = np.concatenate([tile(c, 10 * i + j) for j, c in enumerate(labels)], axis=1)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,{';'.join(x)}" for i, x in enumerate((["red"], ["blue"], ["red", "blue"], ["green"]) * 3)]
    (tmp_path / "m.csv").write_text("path,labels\n" + "\n".join(rows))
    data = open_data(tmp_path / "m.csv").split()
    document = zero_shot(embed, data, prompts(data)).to_dict()
    assert document["map_macro"] == 100
    assert document["f1_micro"] == pytest.approx(100, abs=12)
    assert document["always_negative"] == pytest.approx(100 * (1 - 15 / 36), abs=1e-3)
    assert [row["n"] for row in document["per_class"]] == [6, 3, 6]
    tuned = zero_shot(embed, data, prompts(data), tuning=data).to_dict()
    assert tuned["settings"]["threshold"]["chosen_on"] == "another split"
    assert tuned["f1_micro"] == 100


def test_phrasings_average_over_assignments_and_tell_phrases_apart(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 3)).split()
    words = {
        "BlueField": ["blue", "deep blue"],
        "GreenField": ["green", "grass green"],
        "RedField": ["red", "all blue"],
    }
    document = phrasings(embed, data, words, ColourEncoder.templates, draws=50).to_dict()
    table = {row["phrase"]: row["accuracy"] for row in document["per_phrase"]}
    assert table["red"] == 100
    assert table["blue"] == 100
    assert table["all blue"] == 0
    assert document["top1_max"] == 100
    assert document["top1_first"] == 100
    assert document["top1_min"] == pytest.approx(200 / 3, abs=1e-3)
    assert document["top1_min"] < document["top1"] < 100
    assert document["settings"]["assignments"] == 52
    assert document == phrasings(embed, data, words, ColourEncoder.templates, draws=50).to_dict() | {
        "date": document["date"]
    }
    with pytest.raises(LabelError, match=r"p\.json: has no entry for the class 'GreenField'"):
        phrasings(embed, data, {"BlueField": ["blue"]}, ColourEncoder.templates, source="p.json")


def test_scale_measures_every_factor_and_size(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 2)).split()
    sizes = []

    def open_at(size: int) -> Embedder:
        sizes.append(size)
        return embed

    document = scale(embed, data, prompts(data), factors=(1, 4), sizes=(32,), open_at=open_at).to_dict()
    assert (document["top1_x1"], document["top1_x4"], document["top1_32px"]) == (100, 100, 100)
    assert sizes == [32]
    assert [row["factor"] for row in document["gsd"]] == [1, 4]
    with pytest.raises(InputError, match="pass 1 or more"):
        scale(embed, data, prompts(data), factors=(0.5,), open_at=open_at)


def test_coarser_images_are_cached_beside_the_others(tmp_path):
    data, encoder = open_data(write_folders(tmp_path / "x", 2)).split(), ColourEncoder()
    for _ in range(2):
        scale(Embedder(encoder, cache=tmp_path / "cache"), data, prompts(data), factors=(1, 2, 4), open_at=Embedder)
    assert encoder.images_seen == 3 * 6
