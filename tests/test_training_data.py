"""Where training data come from: every kind of entry, in memory and lazily, and what bad input gets."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sattxt.data.tables import jsonl_captions, published_captions, table_columns, table_rows
from sattxt.errors import InputError, MissingExtraError
from sattxt.training.data import LazyTiles, TileSet
from sattxt.training.pairs import LazyPairs, PairSet
from sattxt.training.sources import describe, open_pairs, open_set
from sattxt.training.sources.entry import Entry
from sattxt.training.sources.tables import Columns, find_columns, parse_rows

COLOURS = {"lake": (0, 0, 200), "wood": (0, 100, 0), "sand": (220, 180, 120)}


def png(colour: tuple[int, int, int], side: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as out:
            for name, content in files.items():
                out.writestr(name, content)
    else:
        with tarfile.open(path, "w") as out:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
    return path


def class_files(count: int = 12, prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}{name}/{name}_{i}.png": png(c) for name, c in COLOURS.items() for i in range(count)}


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


# Lazy sets


def lazy(broken: set[int], count: int = 6) -> LazyTiles:
    def decode(index: int) -> np.ndarray:
        if index in broken:
            raise OSError("truncated")
        return np.full((3, 8, 8), index, np.uint8)

    return LazyTiles(
        "made", [f"t{i}" for i in range(count)], decode, 8,
        labels=torch.arange(count), classes=[str(i) for i in range(count)], captions=[[f"c{i}"] for i in range(count)],
    )  # fmt: skip


def test_what_stands_in_for_a_bad_tile_brings_its_own_label_and_captions():
    tiles = lazy({2, 3})
    index = torch.tensor([0, 2, 5])
    assert tiles.take(index)[:, 0, 0, 0].tolist() == [0, 4, 5]
    assert tiles.labels[index].tolist() == [0, 4, 5]
    assert [tiles.captions[i] for i in index.tolist()] == [["c0"], ["c4"], ["c5"]]
    assert tiles.actual(index).tolist() == [0, 4, 5]
    assert sorted(tiles.skipped) == [("t2", "truncated"), ("t3", "truncated")]
    assert tiles.take(torch.tensor([3]))[0, 0, 0, 0] == 4
    assert len(tiles.skipped) == 2  # counted once


def test_what_stands_in_does_not_depend_on_what_was_asked_before():
    one, other = lazy({5, 0}), lazy({5, 0})
    other.take(torch.tensor([0, 1, 2, 3, 4]))
    assert torch.equal(one.take(torch.tensor([5, 0])), other.take(torch.tensor([5, 0])))
    assert one.labels[[5, 0]].tolist() == [1, 1]


def test_a_bad_tile_is_logged_once(caplog):
    tiles = lazy({2})
    for _ in range(3):
        tiles.take(torch.tensor([2, 2]))
    assert [r.message for r in caplog.records] == ["made: t2 is left out: truncated"]


def test_when_nothing_can_be_read_that_is_an_error():
    with pytest.raises(InputError, match="made: none of 6 tiles can be read, first t0: truncated"):
        lazy(set(range(6))).take(torch.tensor([4]))
    with pytest.raises(InputError, match="none of 6 tiles"):
        lazy(set(range(6))).in_memory()


def test_a_missing_package_is_no_bad_tile():
    def decode(index: int) -> np.ndarray:
        raise MissingExtraError("geo", "rasterio", "reading")

    with pytest.raises(MissingExtraError):
        LazyTiles("made", ["a"], decode, 8).take(torch.tensor([0]))


def test_in_memory_leaves_bad_tiles_out():
    tiles = lazy({1}).in_memory()
    assert tiles.images[:, 0, 0, 0].tolist() == [0, 2, 3, 4, 5]
    assert tiles.labels.tolist() == [0, 2, 3, 4, 5]
    assert tiles.captions[1] == ["c2"]
    assert tiles.skipped == [("t1", "truncated")]
    assert torch.equal(tiles.take(torch.tensor([1])), tiles.images[1:2])


def test_no_tiles_asked_for_are_none():
    assert lazy(set()).take(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 8, 8)


# Class folders


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
    assert isinstance(val, TileSet)


@pytest.mark.parametrize("memory", [True, False])
def test_a_set_is_the_same_in_memory_or_not(tmp_path, memory):
    files = {
        **class_files(3, "train/"),
        "train/wood/broken.png": png((0, 90, 0))[:40],
        "train/stray.png": png((0, 0, 0)),
    }
    pack(tmp_path / "t.zip", files)
    jsonl(tmp_path / "c.jsonl", [{"image": "train/lake/lake_1.png", "captions": ["blue", "water"]}])
    entry = {"name": "t", "kind": "folder", "path": "t.zip", "size": 16, "captions": "c.jsonl", "memory": memory}
    tiles = open_set({**entry, "names": {"lake": "a lake"}}, tmp_path, "train")
    assert isinstance(tiles, TileSet if memory else LazyTiles)
    index = torch.tensor([i for i, key in enumerate(tiles.keys) if "broken" not in key])
    assert tiles.take(index)[:, :, 4, 4].tolist() == [list(COLOURS[tiles.keys[i].split("/")[1]]) for i in index]
    assert [tiles.classes[k] for k in tiles.labels[index]] == ["a lake"] * 3 + ["sand"] * 3 + ["wood"] * 3
    assert tiles.captions[tiles.keys.index("train/lake/lake_1.png")] == ["blue", "water"]
    everything = torch.arange(len(tiles))
    tiles.take(everything)
    assert {key for key, _ in tiles.skipped} == {"train/wood/broken.png", "train/stray.png"}
    said = describe([tiles])[0]
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
        ({"kind": "foldr"}, "data set 't': unknown kind 'foldr'; did you mean 'folder'?"),
        ({"kind": None}, "data set 't': kind is missing"),
        ({"pth": "x"}, "data set 't': pth: unknown key of kind 'folder'; did you mean 'path'?"),
        ({"path": "absent.zip"}, "absent.zip: no such file or folder"),
        ({"size": None}, "size: missing"),
        ({"size": 16.5}, "size: 16.5; pass a whole number"),
        ({"val_share": 2}, "val_share: 2; pass a number from 0 to 0.9"),
        ({"memory": "yes"}, "memory: 'yes'; pass auto, true or false"),
        ({"names": {"wod": "wood"}}, "names: 'wod' is none of the classes; did you mean 'wood'?"),
        ({"captions": "c.jsonl"}, "none of its images is there; it names elsewhere.png, there is train/"),
        ({"stretch": "sentinel"}, "data set 't': stretch='sentinel'"),
    ],
)
def test_a_wrong_entry_says_what_is_wrong(tmp_path, change, said):
    pack(tmp_path / "t.zip", class_files(2, "train/"))
    jsonl(tmp_path / "c.jsonl", [{"image": "elsewhere.png", "captions": ["x"]}])
    good = {"name": "t", "kind": "folder", "path": "t.zip", "size": 16}
    open_set(good, tmp_path, "train")
    with pytest.raises(InputError, match=re.escape(said)):
        open_set({**good, **change}, tmp_path, "train")


def test_an_empty_split_says_what_there_is(tmp_path):
    pack(tmp_path / "t.zip", class_files(20, "train/"))
    entry = {"name": "t", "kind": "folder", "path": "t.zip", "size": 16}
    with pytest.raises(InputError, match=r"nothing is in split 'val'; it has train; pass val_share: 0\.1"):
        open_set(entry, tmp_path, "val")
    held = open_set({**entry, "val_share": 0.1}, tmp_path, "val")
    kept = open_set({**entry, "val_share": 0.1}, tmp_path, "train")
    assert len(held) + len(kept) == 60
    assert not set(held.keys) & set(kept.keys)
    pack(tmp_path / "empty.zip", {"readme.txt": b"x"})
    with pytest.raises(InputError, match="holds no image"):
        open_set({**entry, "path": "empty.zip"}, tmp_path, "train")


# Tables


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        return jsonl(path, rows)
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(dict.fromkeys(k for row in rows for k in row)))
            writer.writeheader()
            cells = [{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
            writer.writerows(cells)
        return path
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "captions": ["a lake, blue", "water\nand more"], "label": "lake", "split": "train"},
    {"image": "b.png", "captions": ["trees"], "label": "wood", "split": "training"},
    {"image": "gone.png", "captions": ["nothing"], "label": "wood", "split": "train"},
    {"image": "", "captions": ["no image"], "label": "wood", "split": "train"},
    {"image": "c.png", "captions": ["more trees"], "label": "wood", "split": "validation"},
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    files = {"a.png": png(COLOURS["lake"]), "b.png": png(COLOURS["wood"]), "c.png": png(COLOURS["wood"])}
    pack(tmp_path / "images.tar", files)
    return write(tmp_path / "images", files)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("where", ["images", "images.tar"])
def test_a_table_gives_tiles_captions_and_labels(tmp_path, images, suffix, where):
    table(tmp_path / f"t.{suffix}", ROWS)
    entry = {"name": "t", "kind": "table", "path": f"t.{suffix}", "images": where, "size": 16}
    tiles = open_set(entry, tmp_path, "train")
    assert tiles.keys == ["a.png", "b.png"]
    assert tiles.captions == [["a lake, blue", "water\nand more"], ["trees"]]
    assert [tiles.classes[k] for k in tiles.labels] == ["lake", "wood"]
    assert tiles.take(torch.tensor([0]))[0, :, 0, 0].tolist() == list(COLOURS["lake"])
    assert sorted(tiles.skipped) == [("gone.png", f"not in {where}"), ("row 4", "names no image in 'image'")]
    assert open_set(entry, tmp_path, "val").captions == [["more trees"]]


def test_images_that_no_row_names_are_counted(tmp_path, images, caplog):
    table(tmp_path / "t.jsonl", ROWS[1:])
    entry = {"name": "t", "kind": "table", "path": "t.jsonl", "images": "images", "size": 16}
    with caplog.at_level("INFO", logger="sattxt"):
        open_set(entry, tmp_path, "train")
    assert re.search(r"t: 1 images in .*images are named by no row of t\.jsonl", caplog.text)


def test_a_table_without_a_column_of_captions_or_labels_says_what_it_has(tmp_path, images):
    table(images / "t.csv", [{"image": "a.png", "description": "a lake"}])
    entry = {"name": "t", "kind": "table", "path": "images/t.csv", "size": 16, "val_share": 0}
    with pytest.raises(InputError, match=r"no column of captions or labels; it has image, description"):
        open_set(entry, tmp_path, "train")
    assert open_set({**entry, "caption_columns": ["description"]}, tmp_path, "train").captions == [["a lake"]]


def test_captions_in_several_columns_and_rows_make_one_tile(tmp_path, images):
    rows = [
        {"file": "a.png", "caption": "one", "caption_1": "two", "caption_2": ""},
        {"file": "a.png", "caption": "three", "caption_1": "one", "caption_2": ""},
        {"file": "b.png", "caption": "", "caption_1": "", "caption_2": ""},
    ]
    table(images / "t.csv", rows)
    tiles = open_set(
        {"name": "t", "kind": "table", "path": "images/t.csv", "size": 16, "val_share": 0}, tmp_path, "train"
    )
    assert tiles.keys == ["a.png"]
    assert tiles.captions == [["one", "two", "three"]]
    assert tiles.skipped == [("b.png", "has neither caption nor label")]


def test_columns_can_be_named_and_missing_ones_are(tmp_path, images):
    table(tmp_path / "t.csv", [{"picture": "a.png", "note": "a lake", "kind of": "lake"}])
    entry = {"name": "t", "kind": "table", "path": "t.csv", "images": "images", "size": 16, "val_share": 0}
    with pytest.raises(
        InputError, match=r"t\.csv: no image column .*; it has picture, note, kind of; name it with image"
    ):
        open_set(entry, tmp_path, "train")
    named = {**entry, "image_column": "picture", "caption_columns": ["note"], "label_column": "kind of"}
    tiles = open_set(named, tmp_path, "train")
    assert (tiles.captions, tiles.classes) == ([["a lake"]], ("lake",))
    with pytest.raises(
        InputError, match=r"caption_columns: .*no column 'notes'; did you mean 'note'\?; it has picture"
    ):
        open_set({**named, "caption_columns": "notes"}, tmp_path, "train")


def test_parallel_files_must_be_of_one_length(tmp_path, images):
    (tmp_path / "names.txt").write_text("a.png\nb.png\n")
    (tmp_path / "captions.txt").write_text("a lake\ntrees\n")
    entry = {
        "name": "t",
        "kind": "table",
        "path": "names.txt",
        "captions": "captions.txt",
        "images": "images",
        "size": 16,
    }
    tiles = open_set({**entry, "val_share": 0}, tmp_path, "train")
    assert dict(zip(tiles.keys, tiles.captions, strict=True)) == {"a.png": ["a lake"], "b.png": ["trees"]}
    (tmp_path / "captions.txt").write_text("a lake\n")
    with pytest.raises(InputError, match=r"captions\.txt has 1 captions for the 2 images of .*names\.txt"):
        open_set(entry, tmp_path, "train")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"image": "x.png", "captions": ["x"], "split": "train"}], "none of 1 images of split 'train' can be used"),
        ([{"image": "a.png", "captions": ["x"], "split": "test"}], "nothing is in split 'train'; it has test"),
        ([{"image": None, "captions": ["x"]}], "no row can be used, row 1 names no image"),
        ([{"image": "a.png", "captions": [1]}], "no row can be used, row 1 'captions' holds something that is no text"),
        ([{"image": "a.png", "captions": {"a": 1}}], "row 1 'captions' is {'a': 1}, not a text or a list of texts"),
        ([{"image": "a.png", "label": "x"}, {"image": "a.png", "label": "y"}], "a.png has several labels: x, y"),
    ],
)
def test_tables_without_a_usable_row(tmp_path, images, rows, said):
    jsonl(tmp_path / "t.jsonl", rows)
    entry = {"name": "t", "kind": "table", "path": "t.jsonl", "images": "images", "size": 16, "val_share": 0}
    with pytest.raises(InputError, match=re.escape(said)):
        open_set(entry, tmp_path, "train")


cell = st.one_of(
    st.none(), st.text(max_size=8), st.integers(), st.floats(), st.booleans(),
    st.lists(st.one_of(st.text(max_size=5), st.integers()), max_size=3),
)  # fmt: skip
table_row = st.fixed_dictionaries(
    {},
    optional={
        "image": st.one_of(st.sampled_from(["a.png", "b.png"]), cell),
        "captions": cell,
        "label": cell,
        "split": cell,
    },
)


@settings(deadline=None)
@given(rows=st.lists(table_row, max_size=8))
def test_every_row_is_used_or_counted(rows):
    try:
        columns = find_columns(Entry({"name": "t"}, Path(), ()), table_columns(rows), "t")
    except InputError:
        assert not any("image" in row for row in rows)
        return
    good, bad = parse_rows(rows, columns)
    assert len(good) + len(bad) == len(rows)
    assert all(row.image and all(text.strip() for text in row.captions) for row in good)


@given(
    content=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)),
    suffix=st.sampled_from(["csv", "jsonl"]),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_file_is_a_table_or_an_input_error(tmp_path, content, suffix):
    path = tmp_path / f"t.{suffix}"
    path.write_bytes(content)
    try:
        rows = table_rows(path)
    except InputError:
        return
    good, bad = parse_rows(rows, Columns("image", ("captions",)))
    assert len(good) + len(bad) == len(rows)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["images", "filename", "sentences", "raw", "raw_1", "split", "lake"]), inner),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(data=values)
def test_any_json_is_a_caption_file_or_an_input_error(data):
    for parse in (published_captions, jsonl_captions):
        try:
            rows = parse(json.dumps(data), "f.json")
        except InputError:
            continue
        assert all(isinstance(text, str) and text for row in rows for text in row.captions)


def test_a_caption_that_is_one_string_is_one_caption():
    assert jsonl_captions('{"image": "a.png", "captions": "two words"}\n', "f")[0].captions == ("two words",)


# Published caption sets


def test_the_form_of_rsicd_rsitmd_ucm_and_sydney(tmp_path):
    write(tmp_path / "imgs", {"1.png": png((1, 1, 1)), "2.png": png((2, 2, 2)), "3.png": png((3, 3, 3))})
    images = [
        {"filename": f"{i}.png", "split": split, "sentences": [{"raw": f" text {i} "}, {"raw": "again"}]}
        for i, split in ((1, "train"), (2, "train"), (3, "val"), (4, "train"), (5, "test"))
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images, "dataset": "x"}))
    entry = {"name": "sydney", "kind": "captions", "path": "imgs", "captions": "dataset.json", "size": 16}
    train = open_set(entry, tmp_path, "train")
    assert train.captions == [["text 1", "again"], ["text 2", "again"]]
    assert train.skipped == [("4.png", "not in imgs")]
    assert open_set(entry, tmp_path, "val").keys == ["3.png"]
    inside = {
        **{f"imgs/{i}.png": png((i, i, i)) for i in (1, 2, 3)},
        "dataset.json": (tmp_path / "dataset.json").read_bytes(),
    }
    pack(tmp_path / "all.zip", inside)
    packed = open_set({"name": "s", "kind": "captions", "path": "all.zip", "size": 16}, tmp_path, "train")
    assert packed.captions == train.captions


def test_the_form_of_nwpu_captions(tmp_path):
    data = {
        name: [
            {
                "filename": f"{name}_00{i}.png",
                "split": split,
                "raw": "one",
                "raw_1": "two",
                "raw_10": "last",
                "raw_2": "three",
            }
            for i, split in ((1, "train"), (2, "val"))
        ]
        for name in ("lake", "wood")
    }
    (tmp_path / "dataset_nwpu.json").write_text(json.dumps(data))
    files = {f"NWPU_images/{name}/{name}_00{i}.png": png(COLOURS[name]) for name in ("lake", "wood") for i in (1, 2)}
    pack(tmp_path / "nwpu.zip", files)
    entry = {"name": "nwpu", "kind": "captions", "path": "nwpu.zip", "captions": "dataset_nwpu.json", "size": 16}
    train = open_set(entry, tmp_path, "train")
    assert train.keys == ["NWPU_images/lake/lake_001.png", "NWPU_images/wood/wood_001.png"]
    assert train.captions == [["one", "two", "three", "last"]] * 2
    assert [train.classes[k] for k in train.labels] == ["lake", "wood"]
    (tmp_path / "dataset_nwpu.json").write_text('{"lake": [{"filename": "x.png"}]}')
    with pytest.raises(InputError, match=r"dataset_nwpu\.json: expected .*'raw'"):
        open_set(entry, tmp_path, "train")


# SSL4EO-S12 v1.1

L2A = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
SIDE = 16


def reflectance(sample: int, time: int, bands: int = 12) -> np.ndarray:
    """(bands, SIDE, SIDE) int16 without offset, telling sample, time and band."""
    tile = np.full((bands, SIDE, SIDE), 100 * sample + 10 * time, np.int16)
    return tile + np.arange(1, bands + 1, dtype=np.int16)[:, None, None] + np.arange(SIDE, dtype=np.int16)


def zarr_zip(path: Path, arrays: dict[str, np.ndarray], chunks: tuple[int, ...]) -> None:
    zarr = pytest.importorskip("zarr")
    store = zarr.storage.ZipStore(path, mode="w")
    group = zarr.create_group(store, zarr_format=2)
    for name, values in arrays.items():
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=chunks if name == "bands" else values.shape or "auto"
        )
        array[...] = values
    store.close()


IDS = np.array(["0080717", "0000012", "0000013"])


@pytest.fixture
def chunk_files(tmp_path: Path) -> Path:
    for modality, dtype, bands in (("S2L2A", np.int16, L2A), ("S2RGB", np.uint8, ["red", "green", "blue"])):
        folder = tmp_path / "ssl4eo" / "train" / modality
        folder.mkdir(parents=True)
        stack = np.stack([[reflectance(s, t, len(bands)) for t in range(4)] for s in range(3)])
        stack = (stack + 1000 if modality == "S2L2A" else stack % 200).astype(dtype)
        if modality == "S2L2A":
            stack[2, 3] = 0  # no data
        arrays = {"bands": stack, "sample": IDS, "band": np.array(bands), "time": np.arange(4)}
        zarr_zip(folder / "ssl4eos12_train_seasonal_data_000001.zarr.zip", arrays, (1, 1, len(bands), SIDE, SIDE))
    return tmp_path


@pytest.fixture
def tar_shards(tmp_path: Path) -> Path:
    folder = tmp_path / "wds" / "train" / "S2L2A"
    folder.mkdir(parents=True)
    members = {}
    for s in range(3):
        stack = np.stack([reflectance(s, t) for t in range(4)])
        single = tmp_path / "one.zarr.zip"
        zarr_zip(single, {"bands": stack, "sample": np.array(IDS[s]), "band": np.array(L2A)}, (1, 12, SIDE, SIDE))
        members[f"ssl4eos12_train_seasonal_data_{s + 1:07d}.zarr.zip"] = single.read_bytes()
    pack(folder / "ssl4eos12_shard_000001.tar", members)
    return tmp_path


def caption_table(path: Path, rows: list[tuple[int, int]]) -> Path:
    return table(
        path,
        [
            {
                "caption": f"at {s} {t}",
                "question_1": "Q? A.",
                "file": "f.zarr.zip",
                "sample_id": s,
                "time_id": t,
                "tags": "x",
            }
            for s, t in rows
        ],
    )


def test_chunk_files_give_rgb_with_captions(chunk_files):
    caption_table(chunk_files / "captions.csv", [(80717, 0), (80717, 1), (12, 2), (999, 0)])
    entry = {"name": "ssl4eo", "kind": "ssl4eo", "path": "ssl4eo", "captions": "captions.csv", "size": SIDE}
    tiles = open_set(entry, chunk_files, "train")
    assert len(tiles) == 12
    assert tiles.keys[5] == "ssl4eos12_train_seasonal_data_000001/01_1"
    assert tiles.captions[:7] == [["at 80717 0"], ["at 80717 1"], [], [], [], [], ["at 12 2"]]
    assert tiles.take(torch.tensor([5]))[0, :, 3, 0].tolist() == (reflectance(1, 1, 3) % 200)[:, 3, 0].tolist()
    assert "3 captions for 3 of them" in describe([tiles])[0]
    asked = open_set({**entry, "times": [2], "caption_columns": ["caption", "question_1"]}, chunk_files, "train")
    assert asked.captions == [[], ["at 12 2", "Q? A."], []]


@pytest.mark.parametrize("memory", [True, False])
def test_both_layouts_give_the_same_reflectance(chunk_files, tar_shards, memory):
    chunked = open_pairs(
        {"name": "c", "kind": "ssl4eo", "path": "ssl4eo", "size": SIDE, "memory": memory}, chunk_files, "train"
    )
    packed = open_pairs(
        {"name": "p", "kind": "ssl4eo", "path": "wds", "size": SIDE, "memory": memory}, chunk_files, "train"
    )
    assert isinstance(packed, PairSet if memory else LazyPairs)
    assert packed.bands == tuple(L2A)
    assert (len(packed), packed.size) == (12, SIDE)
    index = torch.tensor([0, 6, 9])
    expected = torch.from_numpy(np.stack([reflectance(0, 0), reflectance(1, 2), reflectance(2, 1)])).float()
    assert torch.equal(packed.spectral(index), expected)
    assert torch.equal(chunked.spectral(index), expected)  # the 1000 that chunk files add is off
    assert torch.equal(chunked.take(index), packed.take(index))
    red = (expected[:, 3] * 255 / 2750).round().to(torch.uint8)
    assert torch.equal(packed.take(index)[:, 0], red)
    if memory:
        assert [reason for _, reason in chunked.skipped] == ["holds no data, only 0"]
        assert len(chunked) == 11
    else:
        chunked.take(torch.tensor([11]))
        assert torch.equal(chunked.spectral(torch.tensor([11])), expected[:1])  # the next readable: the first
        assert chunked.actual(torch.tensor([11])).tolist() == [0]


def test_tar_shards_join_captions_by_the_location_in_them(tar_shards):
    (tar_shards / "captions").mkdir()
    caption_table(tar_shards / "captions" / "train.parquet", [(13, 1), (80717, 3)])
    entry = {"name": "w", "kind": "ssl4eo", "path": "wds", "modality": "S2L2A", "captions": "captions", "size": SIDE}
    tiles = open_set(entry, tar_shards, "train")
    assert {k: c for k, c in zip(tiles.keys, tiles.captions, strict=True) if c} == {
        "ssl4eos12_train_seasonal_data_0000001_3": ["at 80717 3"],
        "ssl4eos12_train_seasonal_data_0000003_1": ["at 13 1"],
    }
    assert tiles.take(torch.tensor([0]))[0, 2, 0, 0] == round((reflectance(0, 0)[1, 0, 0]) * 255 / 2750)
    caption_table(tar_shards / "captions" / "train.parquet", [(1, 1)])
    with pytest.raises(InputError, match="captions: none of 1 captions is of any of the 12 patches"):
        open_set(entry, tar_shards, "train")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modality": "S2L1C"}, "path: .*no shard .* of S2L1C"),
        ({"modality": "S1GRD"}, "modality: 'S1GRD'; pass one of S2L1C, S2L2A, S2RGB"),
        ({"times": [4]}, r"times: \[4\]; pass some of 0, 1, 2, 3"),
        ({"captions": "wrong.csv"}, r"wrong\.csv: no column 'sample_id'; it has a, b"),
    ],
)
def test_ssl4eo_entries_that_do_not_fit(chunk_files, change, said):
    (chunk_files / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=said):
        open_set({"name": "s", "kind": "ssl4eo", "path": "ssl4eo", "size": SIDE, **change}, chunk_files, "train")


def test_without_zarr_the_extra_is_named(chunk_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'sattxt[train]'")):
        open_set({"name": "s", "kind": "ssl4eo", "path": "ssl4eo"}, chunk_files, "train")


# Multispectral files


def geotiff(values: np.ndarray, names: list[str] | None = None, **options: Any) -> bytes:
    rasterio = pytest.importorskip("rasterio")
    with rasterio.MemoryFile() as memory:
        shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
        tags = options.pop("tags", {})
        with memory.open(driver="GTiff", **shape, **options) as out:
            out.write(values)
            out.update_tags(**tags)
            if names:
                out.descriptions = names
        return bytes(memory.read())


def tile(first: int, side: int = 8, count: int = 4) -> np.ndarray:
    return (first + np.arange(count)[:, None, None] + np.zeros((count, side, side))).astype(np.uint16)


@pytest.mark.parametrize("memory", [True, False])
def test_geotiffs_by_their_descriptions(tmp_path, memory):
    names = ["B2", "green", "B4, 665 nm", "B8"]
    with_nan = tile(500).astype(np.float32)
    with_nan[0, 0, 0] = np.nan
    files = {
        "train/a.tif": geotiff(tile(100), names),
        "train/b.tif": geotiff(tile(200)[::-1].copy(), names[::-1]),  # the same bands in another order
        "train/c.tif": geotiff(with_nan, names),
        "train/d.tif": geotiff(tile(400, count=3), names[:3]),
        "train/e.tif": geotiff(tile(400, side=9), names),
        "train/f.tif": b"II*\0 no more",
        "train/g.tif": geotiff(tile(7), names, nodata=7),
        "train/h.tif": geotiff(tile(1300), names, tags={"PROCESSING_BASELINE": "05.09"}),
        "val/z.tif": geotiff(tile(900), names),
    }
    pack(tmp_path / "ms.zip", files)
    pairs = open_pairs({"name": "g", "kind": "geotiff", "path": "ms.zip", "memory": memory}, tmp_path, "train")
    assert pairs.bands == ("B02", "B03", "B04", "B08")
    wanted = torch.tensor([i for i, key in enumerate(pairs.keys) if key[6] in "abh"])
    assert pairs.spectral(wanted)[:, 0, 0, 0].tolist() == [100, 200, 300]  # the last has 1000 added, by its tags
    pairs.take(torch.arange(len(pairs)))
    reasons = dict(pairs.skipped)
    assert sorted(reasons) == [f"train/{x}.tif" for x in "cdefg"]
    assert "NaN" in reasons["train/c.tif"]
    assert "3 bands" in reasons["train/d.tif"] or "lacks" in reasons["train/d.tif"]
    assert "9x9" in reasons["train/e.tif"]
    assert "nodata" in reasons["train/g.tif"]
    assert len(open_pairs({"name": "g", "kind": "geotiff", "path": "ms.zip"}, tmp_path, "val")) == 1
    resampled = open_pairs({"name": "g", "kind": "geotiff", "path": "ms.zip", "size": 16}, tmp_path, "train")
    assert "train/e.tif" in resampled.keys
    assert resampled.spectral(torch.tensor([0])).shape == (1, 4, 16, 16)


def test_geotiffs_without_names_or_without_rgb(tmp_path):
    pack(tmp_path / "ms.zip", {"train/a.tif": geotiff(tile(100)), "train/b.tif": geotiff(tile(100, count=5))})
    entry = {"name": "g", "kind": "geotiff", "path": "ms.zip"}
    with pytest.raises(InputError, match=r"train/a\.tif: its 4 bands have no names; give bands"):
        open_pairs(entry, tmp_path, "train")
    pairs = open_pairs({**entry, "bands": ["B02", "B03", "B04", "B08"], "scale": 2, "offset": 50}, tmp_path, "train")
    assert pairs.spectral(torch.tensor([0]))[0, :, 0, 0].tolist() == [100, 102, 104, 106]
    assert pairs.skipped == [("train/b.tif", "has 5 bands, 4 are named (B02, B03, B04, B08)")]
    with pytest.raises(InputError, match=r"bands: needs the bands B02, B03 and B04 .* lacks B02; it has B05, B03"):
        open_pairs({**entry, "bands": ["B05", "B03", "B04", "B08"]}, tmp_path, "train")
    with pytest.raises(InputError, match="none of 2 tiles can be read"):
        open_pairs({**entry, "bands": ["B02", "B03", "B04"]}, tmp_path, "train")
    with pytest.raises(InputError, match=r"unknown key of kind 'geotiff'; did you mean 'bands'"):
        open_pairs({**entry, "band": ["B02"]}, tmp_path, "train")


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_npz_with_one_or_many_tiles(tmp_path):
    names = ["B02", "B03", "B04", "B08"]
    many = np.stack([tile(100), tile(200), tile(300)]).astype(np.float32)
    many[1, 0, 0, 0] = np.inf
    write(tmp_path / "npz", {"train/a.npz": npz(x=many, bands=names), "train/b.npz": npz(x=tile(400), bands=names)})
    (tmp_path / "npz" / "train" / "c.npz").write_bytes(b"PK broken")
    pairs = open_pairs({"name": "n", "kind": "npz", "path": "npz"}, tmp_path, "train")
    assert pairs.keys == ["train/a.npz#0", "train/a.npz#2", "train/b.npz"]
    assert pairs.spectral(torch.arange(3))[:, 1, 0, 0].tolist() == [101, 301, 401]
    assert [key for key, _ in pairs.skipped] == ["train/a.npz#1", "train/c.npz"]
    (tmp_path / "one.npz").write_bytes(npz(x=many[:1], y=many[:1]))
    single = {"name": "n", "kind": "npz", "path": "one.npz"}
    with pytest.raises(InputError, match="holds 2 arrays of 3 or 4 axes"):
        open_pairs({**single, "bands": names}, tmp_path, "train")
    with pytest.raises(InputError, match="has no band names"):
        open_pairs({**single, "array": "x"}, tmp_path, "train")
    assert len(open_pairs({**single, "array": "x", "bands": names}, tmp_path, "train")) == 1


def test_reflectance_between_0_and_1_wants_a_scale(tmp_path):
    names = ["B02", "B03", "B04", "B08"]
    (tmp_path / "r.npz").write_bytes(npz(x=tile(100)[None].astype(np.float32) / 10000, bands=names))
    entry = {"name": "n", "kind": "npz", "path": "r.npz"}
    with pytest.raises(InputError, match=r"holds reflectance in 0-1 .* pass scale: 10000"):
        open_pairs(entry, tmp_path, "train")
    pairs = open_pairs({**entry, "scale": 10000}, tmp_path, "train")
    assert pairs.spectral(torch.arange(1))[0, 1, 0, 0] == 101


# Real tiles


@pytest.mark.tiles
def test_real_folders_with_captions(data_dir, tmp_path):
    with zipfile.ZipFile(data_dir / "ucm.zip") as whole:
        names = [n for n in whole.namelist() if n.startswith("val/")][::40]
        pack(tmp_path / "ucm.zip", {n: whole.read(n) for n in names})
    rows = [json.loads(line) for line in (data_dir / "captions" / "ucm_captions.jsonl").read_text().splitlines()]
    jsonl(tmp_path / "c.jsonl", [{"image": row["image"], "captions": row["captions"]} for row in rows])
    entry = {"name": "ucm", "kind": "zip", "path": "ucm.zip", "size": 64, "captions": "c.jsonl"}
    eager, later = (open_set({**entry, "memory": memory}, tmp_path, "val") for memory in (True, False))
    assert len(eager) == len(names)
    assert all(len(texts) >= 1 for texts in eager.captions)
    assert torch.equal(eager.take(torch.arange(len(eager))), later.take(torch.arange(len(later))))
    jsonl(tmp_path / "t.jsonl", [row for row in rows if row["image"] in names])
    listed = open_set(
        {"name": "ucm", "kind": "table", "path": "t.jsonl", "images": "ucm.zip", "size": 64}, tmp_path, "val"
    )
    assert sorted(listed.keys) == sorted(eager.keys)
    assert listed.classes == tuple(sorted({row["class"] for row in rows if row["image"] in names}))


@pytest.mark.tiles
def test_real_geotiffs_agree_with_the_reader_of_eurosat(data_dir, tmp_path):
    from sattxt.images.bands import EUROSAT_MS

    with zipfile.ZipFile(data_dir / "eurosat_ms.zip") as whole:
        names = [n for n in whole.namelist() if n.startswith("val/") and n.endswith(".tif")][:4]
        pack(tmp_path / "ms.zip", {n: whole.read(n) for n in names})
    known = open_pairs({"name": "e", "kind": "eurosat_ms", "path": "ms.zip"}, tmp_path, "val")
    entry = {"name": "g", "kind": "geotiff", "path": "ms.zip", "bands": list(EUROSAT_MS), "memory": False}
    pairs = open_pairs(entry, tmp_path, "val")
    index = torch.arange(4)
    assert torch.equal(known.spectral(index), pairs.spectral(index))
    assert torch.equal(known.take(index), pairs.take(index))


@pytest.mark.tiles
def test_real_two_page_tiles_and_a_broken_one(data_dir, tmp_path):
    pytest.importorskip("rasterio")
    with zipfile.ZipFile(data_dir / "s2_tiles.zip") as whole:
        names = [n for n in whole.namelist() if n.startswith("val/") and n.endswith(".tif")][:3]
        files = {n: whole.read(n) for n in names}
    pack(tmp_path / "s2.zip", {**files, "val/broken.tif": files[names[0]][:200]})
    entry = {"name": "s2", "kind": "s2", "path": "s2.zip"}
    tiles, pairs = open_set(entry, tmp_path, "val"), open_pairs(entry, tmp_path, "val")
    for opened in (tiles, pairs):
        assert len(opened) == 3
        assert [key for key, _ in opened.skipped] == ["val/broken.tif"]
    assert "bands B02 B03 B04 B08" in describe([pairs])[0]


def test_drawn_tiles_differ_between_splits():
    entry = {"name": "drawn", "kind": "fields", "tiles": 20, "size": 32}
    train, val = (open_set(entry, Path(), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (20, 2)
    assert not torch.equal(train.take(torch.arange(2)), val.take(torch.arange(2)))


def test_rgb_alone_needs_eurosats_stretch_and_gives_three_bands(tmp_path):
    pack(tmp_path / "t.zip", class_files(2, "train/"))
    pairs = open_pairs({"name": "r", "kind": "rgb", "path": "t.zip", "size": 16}, tmp_path, "train")
    assert pairs.bands == ("B04", "B03", "B02")
    lake = pairs.keys.index("train/lake/lake_0.png")
    expected = torch.tensor([0, 0, 199 * 2750 / 254])
    torch.testing.assert_close(pairs.spectral(torch.tensor([lake]))[0, :, 0, 0], expected)


def test_a_tar_whose_last_member_is_a_zip_is_a_tar(tmp_path):
    from sattxt.data.archive import open_store

    inner = pack(tmp_path / "inner.zip", {"a.txt": b"inside"})
    outer = pack(tmp_path / "outer.tar", {"first.txt": b"1", "inner.zip": inner.read_bytes()})
    assert open_store(outer).names() == ["first.txt", "inner.zip"]
    assert open_store(inner).names() == ["a.txt"]
