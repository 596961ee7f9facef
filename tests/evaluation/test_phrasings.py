"""One phrase a class at a time."""

from __future__ import annotations

import pytest
from evaluation_fakes import ColourEncoder, write_folders

from sattxt.data.registry import open_data
from sattxt.errors import LabelError
from sattxt.evaluation.phrasings import phrasings

TEMPLATE = ColourEncoder.templates


def test_phrasings_average_over_assignments_and_tell_phrases_apart(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 3)).split()
    words = {
        "BlueField": ["blue", "deep blue"],
        "GreenField": ["green", "grass green"],
        "RedField": ["red", "all blue"],
    }
    document = phrasings(embed, data, words, TEMPLATE, draws=50).to_dict()
    table = {row["phrase"]: row["accuracy"] for row in document["per_phrase"]}
    assert table["red"] == 100
    assert table["blue"] == 100
    assert table["all blue"] == 0
    assert document["top1_max"] == 100
    assert document["top1_first"] == 100
    assert document["top1_min"] == pytest.approx(200 / 3, abs=1e-3)
    assert document["top1_min"] < document["top1"] < 100
    assert document["settings"]["assignments"] == 52
    assert document == phrasings(embed, data, words, TEMPLATE, draws=50).to_dict() | {"date": document["date"]}
    with pytest.raises(LabelError, match=r"p\.json: has no entry for the class 'GreenField'"):
        phrasings(embed, data, {"BlueField": ["blue"]}, TEMPLATE, source="p.json")
