"""Two results side by side, written and read."""

from __future__ import annotations

import pytest
from evaluation_fakes import prompts, write_folders

from sattxt.data.registry import open_data
from sattxt.errors import InputError
from sattxt.evaluation.result import compare, read_result, write_result
from sattxt.evaluation.zero_shot import zero_shot


def test_a_result_reads_back_and_compares_with_another(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 4)).split()
    good = zero_shot(embed, data, prompts(data))
    words = {"BlueField": ["blue"], "GreenField": ["red"], "RedField": ["green"]}
    bad = zero_shot(embed, data, prompts(data, words=words))
    a, b = (read_result(write_result(tmp_path / f"{i}.json", r.to_dict())) for i, r in enumerate((bad, good)))
    assert a["samples"]["ids"] == [s.id for s in data.samples]
    found = compare(a, b)
    rows = {row["figure"]: row for row in found["figures"]}
    assert rows["top1"]["difference"] == pytest.approx(200 / 3, abs=1e-3)
    assert rows["top1"]["low"] > 0
    assert rows["balanced_accuracy"]["difference"] == pytest.approx(200 / 3, abs=1e-3)
    assert rows["ece"]["low"] is None
    assert found["paired"] == 12
    assert any("names_from differ" in warning for warning in found["warnings"])


def test_results_of_other_samples_are_compared_on_what_both_have(tmp_path, embed):
    collection = open_data(write_folders(tmp_path / "x", 4))
    whole = collection.split()
    part = whole.take(range(0, 12, 2))
    documents = [
        read_result(write_result(tmp_path / f"{len(d)}.json", zero_shot(embed, d, prompts(d)).to_dict()))
        for d in (whole, part)
    ]
    found = compare(*documents)
    assert found["paired"] == 6
    assert any("only 6 of up to 12" in warning for warning in found["warnings"])
    with pytest.raises(InputError, match="nothing to compare"):
        compare(documents[0], documents[0] | {"task": "probe"})


def test_what_is_no_result_says_so(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("nonsense")
    for name in ("a.json", "b.json", "missing.json"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_result(tmp_path / name)
