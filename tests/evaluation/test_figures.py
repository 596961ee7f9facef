"""Every figure of every task, pinned: on arithmetic embeddings, and the published ones on real tiles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation_cases import GOLDEN, measure

from sattxt.cli import app

PINNED = json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return json.loads(json.dumps(measure(tmp_path_factory.mktemp("cases"))))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number, text and key of a document with the path to it."""
    if isinstance(value, dict | list):
        yield f"{path} of", sorted(value) if isinstance(value, dict) else len(value)
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, f"{path}/{key}")
    else:
        yield path, value


@pytest.mark.parametrize("task", PINNED)
def test_figures_are_what_they_were(measured, task):
    found, expected = dict(_leaves(measured[task])), dict(_leaves(PINNED[task]))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path] == (pytest.approx(value, abs=2e-4) if isinstance(value, float) else value), path


@pytest.mark.tiles
@pytest.mark.parametrize(
    ("command", "published"),
    [
        ("zero-shot --data DATA/ucm.zip --label-set ucmerced", {"top1": 98.2, "top5": 100.0}),
        (
            "retrieval --data DATA/ucm.zip --captions DATA/captions/ucm_captions.jsonl",
            {"mean_recall": 47.7, "mean_recall_shared": 69.2, "i2t_r@10": 72.4, "t2i_r@10": 78.3},
        ),
        ("spectral --data DATA/eurosat_ms.zip --dataset eurosat", {"r2": 0.827, "r2_mean_rgb": 0.427}),
    ],
)
def test_published_figures_of_the_bundled_model(data_dir: Path, tmp_path: Path, command, published):
    out = tmp_path / "out.json"
    words = [word.replace("DATA", str(data_dir)) for word in command.split()]
    assert app.run(["eval", *words, "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    for name, value in published.items():
        assert document[name] == pytest.approx(value, abs=0.006 if value < 1 else 0.6), name
    if "mean_recall" in published:
        assert document["mean_recall_perfect"] == pytest.approx(78.1, abs=0.05), "of the captions alone"
