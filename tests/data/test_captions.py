"""Caption sets as their authors publish them, and any other JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tile_files import COLOURS, pack, png, write

from sattxt.data.captions import jsonl_captions, published_captions
from sattxt.data.registry import open_data
from sattxt.errors import InputError

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
    data = open_data(tmp_path / "imgs", "captions", captions=tmp_path / "dataset.json", strict=False)
    assert [s.captions for s in data.split("train").samples] == [("text 1", "again"), ("text 2", "again")]
    assert data.skipped == (("4.png", "is not in imgs"), ("5.png", "is not in imgs"))
    assert [s.id for s in data.split("val").samples] == ["3.png"]
    inside = {
        **{f"imgs/{i}.png": png((i, i, i)) for i in (1, 2, 3)},
        "dataset.json": (tmp_path / "dataset.json").read_bytes(),
    }
    pack(tmp_path / "all.zip", inside)
    packed = open_data(tmp_path / "all.zip", "sydney-captions", strict=False).split("train")
    assert [s.captions for s in packed.samples] == [s.captions for s in data.split("train").samples]


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
    captions = tmp_path / "dataset_nwpu.json"
    train = open_data(tmp_path / "nwpu.zip", "nwpu-captions", captions=captions).split("train")
    assert [s.id for s in train.samples] == ["NWPU_images/lake/lake_001.png", "NWPU_images/wood/wood_001.png"]
    assert [s.captions for s in train.samples] == [("one", "two", "three", "last")] * 2
    assert [train.classes[k] for k in train.targets] == ["lake", "wood"]
    captions.write_text('{"lake": [{"filename": "x.png"}]}')
    with pytest.raises(InputError, match=r"dataset_nwpu\.json: expected .*'raw'"):
        open_data(tmp_path / "nwpu.zip", "nwpu-captions", captions=captions)


def test_a_line_that_is_no_caption_is_named():
    good = '{"image": "a.png", "captions": ["x "]}\n{"image": null, "captions": ["y"]}\n'
    assert [(row.image, row.captions) for row in jsonl_captions(good, "f")] == [("a.png", ("x",))]
    with pytest.raises(InputError, match="f:1: expected an object"):
        jsonl_captions('{"image": "a.png"}\n', "f")
