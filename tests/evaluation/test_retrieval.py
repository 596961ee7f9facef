"""Retrieval by class names, and by captions."""

from __future__ import annotations

import json

import pytest
from evaluation_fakes import COLOURS, prompts, tile, write_folders
from PIL import Image

from sattxt.data.registry import open_data
from sattxt.evaluation.metrics import Figure
from sattxt.evaluation.retrieval import caption_retrieval, class_retrieval


def test_class_names_find_their_images(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 4)).split()
    document = class_retrieval(embed, data, prompts(data)).to_dict()
    assert document["map@100"] == 100
    assert document["p@100"] == pytest.approx(100 / 3, abs=1e-3), "all twelve are among the first hundred"
    shallow = class_retrieval(embed, data, prompts(data), depth=4).to_dict()
    assert shallow["p@4"] == 100


def test_captions_and_images_find_each_other(tmp_path, embed):
    lines = []
    for i, colour in enumerate(COLOURS):
        Image.fromarray(tile(colour, i)).save(tmp_path / f"{i}.png")
        lines.append({"image": f"{i}.png", "captions": [f"a {colour} field", f"all is {colour}", "a field"][: 3 - i]})
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = open_data(tmp_path / "c.jsonl").split()
    document = caption_retrieval(embed, data).to_dict()
    assert document["settings"] == {"queries": "captions", "captions": 6, "captions_shared_between_images": 0}
    assert document["i2t_r@1"] == 100
    assert document["t2i_r@1"] >= 100 * 5 / 6 - 1e-3, "all but the caption without a colour"
    assert document["t2i_r@5"] == 100
    assert document["mean_recall_perfect"] == 100
    for name in ("i2t_r@1", "t2i_r@1", "mean_recall"):
        assert Figure.from_dict(document["samples"]["figures"][name]).value == pytest.approx(document[name], abs=1e-3)


def test_equal_captions_are_wrong_by_the_protocol_and_right_when_shared(tmp_path, embed):
    lines = []
    for i in range(4):
        Image.fromarray(tile("red", 0)).save(tmp_path / f"{i}.png")
        lines.append({"image": f"{i}.png", "captions": ["a red field"]})
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    document = caption_retrieval(embed, open_data(tmp_path / "c.jsonl").split()).to_dict()
    assert document["i2t_r@1"] == document["t2i_r@1"] == 25
    assert document["mean_recall_shared"] == 100
    assert document["mean_recall_perfect"] == 75, "one in four is first, all are among five"
    assert document["settings"]["captions_shared_between_images"] == 4
