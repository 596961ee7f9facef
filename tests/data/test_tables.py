"""Images that a table lists: columns, splits, captions and labels, and tables that cannot be used."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tile_files import COLOURS, pack, png, table, write, write_png

from sattxt.data.dataset import Dataset
from sattxt.data.registry import open_data
from sattxt.data.tables import table_rows
from sattxt.errors import InputError

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


def read(path: Path, **more: Any) -> Dataset:
    return open_data(path, "table", strict=False, **more)


def captions(data: Dataset) -> dict[str, list[str]]:
    return {sample.id: list(sample.captions) for samples in data.splits.values() for sample in samples}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("where", ["images", "images.tar"])
def test_a_table_gives_images_captions_and_labels(tmp_path, images, suffix, where):
    path = table(tmp_path / f"t.{suffix}", ROWS)
    data = read(path, images=tmp_path / where)
    train = data.split("train")
    assert [(s.id, list(s.captions)) for s in train.samples] == [
        ("a.png", ["a lake, blue", "water\nand more"]), ("b.png", ["trees"]),
    ]  # fmt: skip
    assert [train.classes[k] for k in train.targets] == ["lake", "wood"]
    assert train.image(0)[0, 0].tolist() == list(COLOURS["lake"])
    assert sorted(data.skipped) == [("gone.png", f"is not in {where}"), ("row 4", "names no image in 'image'")]
    assert data.split("val").samples[0].captions == ("more trees",)
    with pytest.raises(InputError, match=r"row 4 names no image in 'image', as 1 more of its files cannot be used"):
        open_data(path, images=tmp_path / where)


def test_a_table_without_a_column_of_captions_or_labels_says_what_it_has(images):
    path = table(images / "t.csv", [{"image": "a.png", "description": "a lake"}])
    with pytest.raises(InputError, match=r"no column label, labels, caption or captions; it has image, description"):
        read(path)
    assert captions(read(path, caption_columns=("description",))) == {"a.png": ["a lake"]}


def test_captions_in_several_columns_and_rows_make_one_sample(images):
    rows = [
        {"file": "a.png", "caption": "one", "caption_1": "two", "caption_2": ""},
        {"file": "a.png", "caption": "three", "caption_1": "one", "caption_2": ""},
        {"file": "b.png", "caption": "", "caption_1": "", "caption_2": ""},
    ]
    data = read(table(images / "t.csv", rows))
    assert captions(data) == {"a.png": ["one", "two", "three", "one"]}, "one said twice counts twice"
    assert data.skipped == (("b.png", "has neither caption nor label"),)


def test_columns_can_be_named_and_missing_ones_are(tmp_path, images):
    path = table(tmp_path / "t.csv", [{"picture": "a.png", "note": "a lake", "kind of": "lake"}])
    with pytest.raises(InputError, match=r"t\.csv: no column path, .*; it has picture, note, kind of; name the image"):
        read(path, images=images)
    named = {"images": images, "image_column": "picture", "caption_columns": ("note",), "label_column": "kind of"}
    data = read(path, **named)
    assert (captions(data), data.classes) == ({"a.png": ["a lake"]}, ("lake",))
    with pytest.raises(InputError, match=r"caption_columns: .*no column 'notes'; did you mean 'note'\?; it has pictu"):
        read(path, **{**named, "caption_columns": "notes"})


def test_parallel_files_must_be_of_one_length(tmp_path, images):
    (tmp_path / "names.txt").write_text("a.png\nb.png\n")
    (tmp_path / "captions.txt").write_text("a lake\ntrees\n")
    more = {"images": images, "captions": tmp_path / "captions.txt"}
    assert captions(read(tmp_path / "names.txt", **more)) == {"a.png": ["a lake"], "b.png": ["trees"]}
    (tmp_path / "captions.txt").write_text("a lake\n")
    with pytest.raises(InputError, match=r"captions\.txt has 1 captions for the 2 images of .*names\.txt"):
        read(tmp_path / "names.txt", **more)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"image": "x.png", "captions": ["x"]}], "none of its 1 images can be used, such as x.png: is not in images"),
        ([{"image": " ", "captions": ["x"]}], "such as row 1: names no image"),
        ([{"image": None, "captions": ["x"]}], "none of its 0 images can be used, it names none"),
        ([{"image": "a.png", "captions": [1]}], "row 1: 'captions' is [1], not a text or a list of texts"),
        ([{"image": "a.png", "captions": {"a": 1}}], "row 1: 'captions' is {'a': 1}, not a text or a list of texts"),
        ([{"image": "a.png", "label": "x"}, {"image": "a.png", "label": "y"}], "a.png has several labels: x, y"),
        ([{"image": "a.png", "label": "x", "split": s} for s in ("val", "train")], "is in split 'train' and 'val'"),
        ([{"image": "a.png", "label": True}], "row 1: 'label' is True, not a text or a list"),
    ],
)
def test_tables_without_a_usable_row(tmp_path, images, rows, said):
    with pytest.raises(InputError, match=re.escape(said)):
        read(table(tmp_path / "t.jsonl", rows), images=images)


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


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(table_row, max_size=8))
def test_every_row_is_used_or_counted(images, rows):
    path = table(images.parent / "t.jsonl", rows)
    try:
        data = read(path, images=images)
    except InputError:
        return
    told = captions(data)
    assert set(told) <= {"a.png", "b.png"}
    assert all(text.strip() for texts in told.values() for text in texts)
    assert len(told) + len(data.skipped) <= len(rows)
    for row in rows:
        if row.get("image") in [*told] and isinstance(text := row.get("captions"), str) and not text.startswith("["):
            assert not text.strip() or text.strip() in told[row["image"]] or data.skipped


@given(
    content=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)),
    suffix=st.sampled_from(["csv", "jsonl"]),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_file_is_a_table_or_an_input_error(tmp_path, content, suffix):
    path = tmp_path / f"t.{suffix}"
    path.write_bytes(content)
    for read_any in (table_rows, read):
        try:
            read_any(path)
        except InputError:
            continue


def test_manifests_of_every_kind(tmp_path):
    write_png(tmp_path / "a.png", "red")
    write_png(tmp_path / "deep" / "b.png", "blue")
    rows = [
        {"path": "a.png", "label": "lava", "split": "test"},
        {"path": "deep/b.png", "label": "sea", "split": "train"},
    ]
    with (tmp_path / "m.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "m.parquet")
    prints = set()
    for name in ("m.csv", "m.jsonl", "m.parquet"):
        data = open_data(tmp_path / name)
        assert [s.id for s in data.split("test").samples] == ["a.png"]
        assert data.split("all").classes == ("lava", "sea")
        prints.add(data.split("all").fingerprint)
    assert len(prints) == 1


def test_manifest_with_several_labels_and_with_captions(tmp_path):
    write_png(tmp_path / "a.png")
    (tmp_path / "m.csv").write_text("file,labels\na.png,forest; water\n")
    data = open_data(tmp_path / "m.csv").split()
    assert data.multi_label
    assert data.indicators.tolist() == [[True, True]]
    (tmp_path / "c.jsonl").write_text(json.dumps({"image": "a.png", "captions": ["a forest", "a lake"]}))
    assert open_data(tmp_path / "c.jsonl").split().samples[0].captions == ("a forest", "a lake")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na.png,x\n", "no column path, image"),
        ("path,colour\na.png,x\n", "no column label"),
        ("path,label\nmissing.png,x\n", r"m\.csv: none of its 1 images can be used, such as missing\.png: is not in"),
        ("path,label\na.png,\n", "a.png: has neither caption nor label"),
    ],
)
def test_a_manifest_that_lacks_something_says_what(tmp_path, text, message):
    write_png(tmp_path / "a.png")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        open_data(tmp_path / "m.csv")
