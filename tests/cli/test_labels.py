"""``sattxt labels``: label sets, and label banks from build to use without the language model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_fakes import sattxt

from sattxt import LabelBank, TextCache


def test_label_sets_are_listed_and_shown(capsys):
    assert sattxt("labels", "sets", "--json") == 0
    listed = {each["name"]: each["labels"] for each in map(json.loads, capsys.readouterr().out.splitlines())}
    assert "river" in listed["eurosat"]
    assert sattxt("labels", "sets", "EuroSAT") == 0
    assert "HerbaceousVegetation" in capsys.readouterr().out
    assert sattxt("labels", "sets", "eurosta") == 2
    assert "'eurosat'" in capsys.readouterr().err


@pytest.fixture
def banks(tmp_path: Path) -> list[Path]:
    """Two banks of one encoder: one text in common."""
    river, lake, ice = np.eye(3, dtype=np.float32)
    water = {"water": ["a river", "a lake"]}
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    LabelBank("encoder", ["a river", "a lake"], np.stack([river, lake]), labels=water, model="M").save(paths[0])
    LabelBank("encoder", ["a lake", "ice"], np.stack([lake, ice]), labels={"ice": ["ice"]}, model="M").save(paths[1])
    return paths


def test_labels_show(banks, capsys):
    assert sattxt("labels", "show", banks[0]) == 0
    assert "a river; a lake" in capsys.readouterr().out
    assert sattxt("labels", "show", banks[0], "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["model"], facts["texts"], facts["dim"]) == ("M", 2, 3)
    assert facts["labels"] == {"water": ["a river", "a lake"]}


def test_labels_merge(banks, tmp_path, capsys):
    out = tmp_path / "all.safetensors"
    assert sattxt("labels", "merge", *banks, "-o", out) == 0
    merged = LabelBank.load(out)
    assert merged.texts == ("a river", "a lake", "ice")
    assert merged.labels == {"water": ["a river", "a lake"], "ice": ["ice"]}
    assert sattxt("labels", "merge", *banks, "-o", tmp_path / "all.txt") == 2


def test_labels_import_fills_the_text_cache_once(banks, capsys):
    assert sattxt("labels", "import", *banks, "--json") == 0
    assert [json.loads(line)["new"] for line in capsys.readouterr().out.splitlines()] == [2, 1]
    assert set(TextCache().get_many("encoder", ["a river", "ice"])) == {"a river", "ice"}


def test_labels_show_of_something_else_is_an_error(tiles, capsys):
    assert sattxt("labels", "show", tiles / "night.png") == 3
    assert capsys.readouterr().err.startswith("sattxt: error: ")


def test_from_release_files_to_labels_on_a_machine_without_the_llm(golden_dir, tmp_path, monkeypatch, capsys):
    """The whole way: convert, build a bank, lose the language model and the cache, classify all the same."""
    release = tmp_path / "release"
    shutil.copytree(golden_dir / "sattxt", release)
    model, bank, tile = tmp_path / "model", tmp_path / "bank.safetensors", release / "images" / "0_64x64.png"
    parts = ["--dinov3", release / "dinov3_vit_tiny_pretrain_sat.pth", "--llm", release / "llama"]
    parts += ["--vision-head", release / "sattxt_vision_head.pt", "--text-head", release / "sattxt_text_head.pt"]
    parts += ["--adapter", release / "llm2vec-mntp", "--adapter", release / "llm2vec-mntp-unsup-simcse"]
    assert sattxt("convert", *parts, "--out", model) == 0
    question = ["classify", tile, "-m", model, "--dtype", "float32", "--device", "cpu", "--json", "-k", "10"]
    build = ["labels", "build", "-m", model, "--dtype", "float32", "--label-set", "eurosat", "-o", bank]
    assert sattxt(*build) == 0
    capsys.readouterr()
    assert sattxt(*question, "--label-set", "eurosat") == 0
    expected = json.loads(capsys.readouterr().out)

    for part in ("llama", "llm2vec-mntp", "llm2vec-mntp-unsup-simcse"):
        shutil.rmtree(release / part)
    monkeypatch.setenv("SATTXT_CACHE", str(tmp_path / "another-machine"))
    assert sattxt(*question, "--label-set", "eurosat") == 4
    assert "labels build" in capsys.readouterr().err
    assert sattxt(*question, "--bank", bank) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert sattxt("labels", "import", bank) == 0
    capsys.readouterr()
    assert sattxt(*question, "--label-set", "eurosat") == 0
    assert json.loads(capsys.readouterr().out) == expected
