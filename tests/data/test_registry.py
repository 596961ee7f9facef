"""Data sets by name, and one of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tile_files import COLOURS, open_set, png, write

from sattxt.data import registry
from sattxt.data.archive import open_store
from sattxt.data.dataset import Dataset, Sample, by_split
from sattxt.data.registry import open_data, register
from sattxt.errors import InputError
from sattxt.images.options import ImageOptions


def read_flat(path: Path, *, facts: Path | None = None, tag: str = "", options: ImageOptions | None = None) -> Dataset:
    """Files called CLASS-number.png; ``facts``: a JSON object of file to caption."""
    store = open_store(path)
    texts = json.loads(facts.read_text()) if facts else {}
    classes = sorted({name.split("-")[0] for name in store.names()})
    samples = [
        ("train", Sample((name,), (classes.index(name.split("-")[0]),), (tag + texts.get(name, ""),)))
        for name in store.names()
    ]
    return Dataset("flat", store, by_split(samples), tuple(classes), options=options or ImageOptions())


@pytest.fixture
def flat(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(registry, "DATASETS", dict(registry.DATASETS))
    write(tmp_path / "tiles", {f"{name}-{i}.png": png(c) for name, c in COLOURS.items() for i in range(2)})
    (tmp_path / "facts.json").write_text(json.dumps({"lake-1.png": "a deep lake"}))
    register("flat-files", read_flat, aliases=("flat",))
    return tmp_path


def test_a_registered_data_set_is_opened_by_name(flat):
    data = open_data(flat / "tiles", "Flat", facts=flat / "facts.json").split("train")
    assert (data.name, data.classes) == ("flat-files", ("lake", "sand", "wood"))
    assert data.samples[1].captions == ("a deep lake",)
    assert data.image(0)[0, 0].tolist() == list(COLOURS["lake"])
    with pytest.raises(InputError, match="fact goes with other data than --dataset flat, which takes facts, tag"):
        open_data(flat / "tiles", "flat", fact=1)


def test_a_registered_data_set_is_a_kind_of_a_recipe(flat):
    entry = {"name": "mine", "kind": "flat_files", "path": "tiles", "size": 16, "facts": "facts.json", "tag": "x "}
    tiles = open_set(entry, flat, "train")
    assert (tiles.classes, tiles.labels.tolist()) == (("lake", "sand", "wood"), [0, 0, 1, 1, 2, 2])
    assert tiles.captions[1] == ["x a deep lake"]
    with pytest.raises(InputError, match="tag=3: pass a text"):
        open_set({**entry, "tag": 3}, flat, "train")
    with pytest.raises(InputError, match="tags: unknown key; did you mean 'tag'"):
        open_set({**entry, "tags": "x"}, flat, "train")


def test_a_registered_data_set_is_suggested(flat):
    with pytest.raises(InputError, match="did you mean 'flat-files'"):
        open_data(flat, "flat-fils")


def test_an_unknown_data_set_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(InputError, match="did you mean 'eurosat'"):
        open_data(tmp_path, "eurosta")


@pytest.mark.tiles
def test_the_real_sets_have_the_splits_their_readme_states(data_dir):
    for name, dataset, train, val in (
        ("eurosat_rgb.zip", "eurosat", 17280, 4320),
        ("resisc45_128.zip", "resisc45", 22120, 3188),
        ("aid_128.zip", "aid", 8104, 869),
        ("ucm.zip", "ucmerced", 1344, 336),
    ):
        data = open_data(data_dir / name, dataset)
        assert {split: len(samples) for split, samples in data.splits.items()} == {"train": train, "val": val}
        assert data.split().image(0).shape[2] == 3
    captions = open_data(data_dir / "ucm.zip", captions=data_dir / "captions" / "ucm_captions.jsonl")
    assert len(captions.split("val")) == 336
