"""The data sets of a recipe as tiles: class folders, splits held out, wrong entries, and what is told of them."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from tile_files import COLOURS, class_files, open_set, pack, png, table, write

from sattxt.errors import InputError
from sattxt.training.sets import describe


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_an_unsplit_data_set_is_split_alike_wherever_it_lies(tmp_path, form):
    files = class_files(30)
    path = write(tmp_path / "tiles", files) if form == "folder" else pack(tmp_path / f"tiles.{form}", files)
    entry = {"name": "t", "kind": "folder", "path": path.name, "size": 16, "val_share": 0.2}
    train, val = (open_set(entry, tmp_path, split) for split in ("train", "val"))
    assert sorted(train.keys + val.keys) == sorted(files)
    assert 5 <= len(val) <= 35
    reference = pack(tmp_path / "packed.zip", {f"deeper/{name}": content for name, content in files.items()})
    again = open_set({**entry, "path": reference.name}, tmp_path, "val")
    assert again.keys == [f"deeper/{key}" for key in val.keys]


def test_splits_share_their_labels(tmp_path):
    pack(tmp_path / "t.zip", {**class_files(2, "train/"), "val/wood/x.png": png(COLOURS["wood"])})
    val = open_set({"kind": "zip", "path": "t.zip", "size": 16}, tmp_path, "val")
    assert val.classes == ("lake", "sand", "wood")
    assert val.labels.tolist() == [2]
    assert isinstance(val.pixels, torch.Tensor)


@pytest.mark.parametrize("memory", [True, False])
def test_a_set_is_the_same_in_memory_or_not(tmp_path, memory):
    files = {
        **class_files(3, "train/"),
        "train/wood/broken.png": png((0, 90, 0))[:40],
        "train/stray.png": png((0, 0, 0)),
    }
    pack(tmp_path / "t.zip", files)
    table(tmp_path / "c.jsonl", [{"image": "train/lake/lake_1.png", "captions": ["blue", "water"]}])
    entry = {"name": "t", "kind": "folder", "path": "t.zip", "size": 16, "captions": "c.jsonl", "memory": memory}
    tiles = open_set(entry, tmp_path, "train")
    assert isinstance(tiles.pixels, torch.Tensor) is memory
    index = torch.tensor([i for i, key in enumerate(tiles.keys) if "broken" not in key])
    assert tiles.take(index)[:, :, 4, 4].tolist() == [list(COLOURS[tiles.keys[i].split("/")[1]]) for i in index]
    assert [tiles.classes[k] for k in tiles.labels[index]] == ["lake"] * 3 + ["sand"] * 3 + ["wood"] * 3
    assert tiles.captions[tiles.keys.index("train/lake/lake_1.png")] == ["blue", "water"]
    everything = torch.arange(len(tiles))
    tiles.take(everything)
    assert {key for key, _ in tiles.skipped} == {"train/wood/broken.png", "train/stray.png"}
    said = describe(tiles)
    assert said.startswith("t: ")
    assert "3 classes, 2 captions for 1 of them, 2 skipped, such as train/stray.png: lies in no class folder" in said


def test_a_lazy_set_survives_being_sent_to_another_process(tmp_path):
    write(tmp_path / "t", class_files(2, "train/"))
    entry = {"name": "t", "kind": "folder", "path": "t", "size": 16, "memory": False}
    tiles = open_set(entry, tmp_path, "train")
    copy = pickle.loads(pickle.dumps(tiles))
    assert torch.equal(copy.take(torch.tensor([0, 3])), tiles.take(torch.tensor([0, 3])))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "foldr"}, "kind='foldr': no such kind; did you mean 'folder' or"),
        ({"kind": None}, "kind='': no such kind; there are folder, table"),
        ({"pth": "x"}, "pth: unknown key; did you mean 'path'?"),
        ({"path": "absent.zip"}, "absent.zip: no such folder or archive"),
        ({"size": None}, "size: missing"),
        ({"size": 16.5}, "size=16.5: pass a whole number"),
        ({"val_share": 2}, "val_share=2: pass at most 0.9"),
        ({"memory": "yes"}, "memory='yes': pass 'auto' or true or false"),
        ({"captions": "c.jsonl"}, "none of its images is there; it names elsewhere.png, there is train/"),
        ({"stretch": "sentinel"}, "data set 't': stretch='sentinel'"),
    ],
)
def test_a_wrong_entry_says_what_is_wrong(tmp_path, change, said):
    pack(tmp_path / "t.zip", class_files(2, "train/"))
    table(tmp_path / "c.jsonl", [{"image": "elsewhere.png", "captions": ["x"]}])
    good = {"name": "t", "kind": "folder", "path": "t.zip", "size": 16}
    open_set(good, tmp_path, "train")
    with pytest.raises(InputError, match=re.escape(said)):
        open_set({**good, **change}, tmp_path, "train")


def test_an_empty_split_says_what_there_is(tmp_path):
    pack(tmp_path / "t.zip", class_files(20, "train/"))
    entry = {"name": "t", "kind": "folder", "path": "t.zip", "size": 16}
    with pytest.raises(InputError, match=r"no split 'val'; it has 'train'; pass val_share: 0\.1"):
        open_set(entry, tmp_path, "val")
    held = open_set({**entry, "val_share": 0.1}, tmp_path, "val")
    kept = open_set({**entry, "val_share": 0.1}, tmp_path, "train")
    assert len(held) + len(kept) == 60
    assert not set(held.keys) & set(kept.keys)
    pack(tmp_path / "empty.zip", {"readme.txt": b"x"})
    with pytest.raises(InputError, match="holds no image"):
        open_set({**entry, "path": "empty.zip"}, tmp_path, "train")


def test_drawn_tiles_differ_between_splits():
    entry = {"name": "drawn", "kind": "fields", "tiles": 20, "size": 32}
    train, val = (open_set(entry, Path(), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (20, 2)
    assert not torch.equal(train.take(torch.arange(2)), val.take(torch.arange(2)))


@pytest.mark.tiles
def test_real_folders_with_captions(data_dir, tmp_path):
    with zipfile.ZipFile(data_dir / "ucm.zip") as whole:
        names = [n for n in whole.namelist() if n.startswith("val/")][::40]
        pack(tmp_path / "ucm.zip", {n: whole.read(n) for n in names})
    rows = [json.loads(line) for line in (data_dir / "captions" / "ucm_captions.jsonl").read_text().splitlines()]
    table(tmp_path / "c.jsonl", [{"image": row["image"], "captions": row["captions"]} for row in rows])
    entry = {"name": "ucm", "kind": "zip", "path": "ucm.zip", "size": 64, "captions": "c.jsonl"}
    eager, later = (open_set({**entry, "memory": memory}, tmp_path, "val") for memory in (True, False))
    assert len(eager) == len(names)
    assert all(len(texts) >= 1 for texts in eager.captions)
    assert torch.equal(eager.take(torch.arange(len(eager))), later.take(torch.arange(len(later))))
    table(tmp_path / "t.jsonl", [row for row in rows if row["image"] in names])
    listed = open_set(
        {"name": "ucm", "kind": "table", "path": "t.jsonl", "images": "ucm.zip", "size": 64}, tmp_path, "val"
    )
    assert sorted(listed.keys) == sorted(eager.keys)
    assert listed.classes == tuple(sorted({row["class"] for row in rows if row["image"] in names}))
