"""The words for a data set's classes."""

from __future__ import annotations

import pytest
from evaluation_fakes import write_folders

from sattxt.data.dataset import Samples
from sattxt.data.registry import open_data
from sattxt.errors import InputError, LabelError
from sattxt.evaluation.prompts import class_prompts, find_texts, matching_sets

TEMPLATES = ["a satellite image of {}"]


@pytest.fixture
def data(tmp_path) -> Samples:
    classes = {"AnnualCrop": "green", "SeaLake": "blue"}
    return open_data(write_folders(tmp_path / "x", 1, classes=classes)).split()


def test_class_words_from_folders_and_label_sets(data):
    plain = class_prompts(data, templates=TEMPLATES)
    assert plain.prompts == (("a satellite image of annual crop",), ("a satellite image of sea lake",))
    assert matching_sets(data.classes) == ["eurosat"]
    named = class_prompts(data, named_set="eurosat", templates=TEMPLATES)
    assert named.names == ("annual crop land", "sea or lake")
    assert named.describe() == {"templates": TEMPLATES, "names_from": "label set eurosat"}
    with pytest.raises(LabelError, match="no label 'AnnualCrop'"):
        class_prompts(data, named_set="ucmerced", templates=TEMPLATES)


def test_class_words_of_the_user(data):
    words = {"AnnualCrop": ["wheat"], "sea lake": ["the sea", "a lake"], "Other": ["x"]}
    mapped = class_prompts(data, words=words, templates="{}")
    assert mapped.prompts == (("wheat",), ("the sea", "a lake"))
    assert mapped.names == ("wheat", "the sea")
    with pytest.raises(LabelError, match=r"n\.json: has no entry for the class 'SeaLake'; it has 'AnnualCrop'"):
        find_texts({"AnnualCrop": ["wheat"]}, data.classes, "n.json")
    with pytest.raises(LabelError, match="same texts"):
        class_prompts(data, words={"AnnualCrop": ["water"], "SeaLake": ["water"]}, templates=TEMPLATES)
    with pytest.raises(InputError, match="where the label goes"):
        class_prompts(data, words=words, templates="no place")
