"""Class folders, caption sets and ForestNet as their authors publish them, and what is none of these."""

from __future__ import annotations

import json

import numpy as np
import pytest
from evaluation_fakes import write_folders
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tile_files import COLOURS, pack, png, write, write_geotiff, write_png, zipped

from sattxt.data.labelled import published_captions
from sattxt.data.registry import open_data
from sattxt.data.tables import read_rows
from sattxt.errors import InputError
from sattxt.labels.sets import label_set

# Class folders


def test_hidden_and_mac_files_are_no_images(tmp_path):
    folder = write_folders(tmp_path / "x", 1)
    write_png(folder / "__MACOSX" / "RedField" / "._a.png")
    write_png(folder / ".cache" / "a.png")
    (folder / "RedField" / "readme.txt").write_text("no image")
    assert len(open_data(folder).split()) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.mkdir(), "holds no image"),
        (lambda p: write_png(p / "a.png"), "a.png lies in no class folder"),
        (lambda p: write_png(p / "val" / "a.png"), "lies in no class folder"),
        (lambda p: p.write_bytes(b"Rar!"), "is no zip or tar; unpack it"),
    ],
)
def test_what_is_no_class_folder_says_so(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(InputError, match=message):
        open_data(tmp_path / "x")


def test_eurosat_keeps_all_ten_classes(tmp_path):
    folder = tmp_path / "EuroSAT" / "2750"
    for name in ("AnnualCrop_1", "SeaLake_2"):
        write_png(folder / name.split("_")[0] / f"{name}.jpg")
    data = open_data(zipped(tmp_path / "EuroSAT"), "eurosat").split()
    assert data.classes == tuple(label_set("eurosat").keys)
    assert [s.id for s in data.samples] == ["2750/AnnualCrop/AnnualCrop_1.jpg", "2750/SeaLake/SeaLake_2.jpg"]
    assert data.targets.tolist() == [0, 9]


def test_a_folder_that_is_no_class_of_the_named_set_is_an_error(tmp_path):
    write_png(tmp_path / "x" / "Volcano" / "a.png")
    with pytest.raises(InputError, match=r"label set 'eurosat' has no label 'Volcano'.*; pass --dataset folder"):
        open_data(tmp_path / "x", "eurosat")


@pytest.mark.parametrize(
    ("dataset", "file", "key"),
    [
        ("ucmerced", "UCMerced_LandUse/Images/golfcourse/golfcourse00.tif", "golfcourse"),
        ("resisc45", "NWPU-RESISC45/sea_ice/sea_ice_001.jpg", "sea_ice"),
        ("aid", "AID/BareLand/bareland_1.jpg", "BareLand"),
        ("rsscn7", "RSSCN7/dRiverLake/d001.jpg", "dRiverLake"),
        ("WHU-RS19", "WHU-RS19/footballField/footballField_01.jpg", "footballField"),
    ],
)
def test_published_folders_of_scene_sets(tmp_path, dataset, file, key):
    write_png(tmp_path / "x" / file)
    data = open_data(tmp_path / "x", dataset).split()
    assert data.classes[data.targets[0]] == key
    assert data.classes == tuple(label_set(dataset).keys)


def test_eurosat_ms_is_seen_through_bands_4_3_2(tmp_path):
    bands = np.full((13, 4, 4), 100, np.uint16)
    bands[3] = 2750  # B04
    write_geotiff(tmp_path / "x" / "Forest" / "Forest_1.tif", bands)
    image = open_data(tmp_path / "x", "eurosat-ms").split().image(0)
    assert image[0, 0].tolist() == pytest.approx([255, 9.27, 9.27], abs=0.01)


# Captions

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["images", "filename", "sentences", "raw", "raw_1", "split", "lake"]), inner),
    ),
    max_leaves=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=values)
def test_any_json_is_a_caption_file_or_an_input_error(tmp_path, data):
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(data))
    for parse in (lambda: published_captions(json.dumps(data), "f.json"), lambda: read_rows(path)[0]):
        try:
            rows = parse()
        except InputError:
            continue
        assert all(isinstance(text, str) and text for row in rows for text in row.captions)


def test_a_caption_that_is_one_string_is_one_caption(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"image": "a.png", "captions": "two words; and more"}\n')
    assert read_rows(tmp_path / "c.jsonl")[0][0].captions == ("two words; and more",)


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


def test_a_line_that_is_no_caption_is_named(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"image": "a.png", "captions": ["x "]}\n{"image": null, "captions": ["y"]}\n')
    assert [(row.image, row.captions) for row in read_rows(path)[0]] == [("a.png", ("x",))]
    path.write_text('{"image": "a.png"}\n')
    with pytest.raises(InputError, match=r"c\.jsonl: no column label, labels, caption or captions; it has image"):
        read_rows(path)
    path.write_text('{"image": "a.png", "captions": ["x"]}\n{"image": "b.png", "captions": {"y": 1}}\n')
    assert read_rows(path)[1] == [("row 2", "'captions' is {'y': 1}, not a text or a list of texts")]


def test_published_caption_json_and_jsonl(tmp_path):
    for name in ("airport_1.jpg", "park_1.jpg"):
        write_png(tmp_path / "x" / "RSICD_images" / name)
    published = {
        "images": [
            {"filename": "airport_1.jpg", "split": "test", "sentences": [{"raw": "an airport ."}, {"raw": "planes"}]},
            {"filename": "park_1.jpg", "split": "val", "sentences": [{"raw": "a park"}]},
        ]
    }
    (tmp_path / "x" / "dataset_rsicd.json").write_text(json.dumps(published))
    data = open_data(zipped(tmp_path / "x"), "rsicd")
    assert data.split("test").samples[0].captions == ("an airport .", "planes")
    assert len(data.split("val")) == 1
    lines = [{"image": "train/airport/airport_1.jpg", "captions": ["a"]}, {"image": None, "captions": ["text only"]}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert len(open_data(tmp_path / "x", captions=tmp_path / "c.jsonl").split("all")) == 1
    (tmp_path / "d.jsonl").write_text(json.dumps({"image": "gone.jpg", "captions": ["a"]}))
    with pytest.raises(InputError, match=r"d\.jsonl: none of its 1 images can be used, such as gone\.jpg: is not in x"):
        open_data(tmp_path / "x", captions=tmp_path / "d.jsonl")


# ForestNet


def test_forestnet_in_12_and_4_classes(tmp_path):
    root = tmp_path / "deep" / "downloads" / "ForestNetDataset"
    write_png(root / "examples" / "-1.0_104.0" / "images" / "visible" / "composite.png")
    header = "label,merged_label,latitude,longitude,year,example_path\n"
    (root / "test.csv").parent.mkdir(parents=True, exist_ok=True)
    (root / "test.csv").write_text(header + "Timber plantation,Plantation,-1.0,104.0,2014,examples/-1.0_104.0\n")
    twelve, four = (open_data(tmp_path, name).split("test") for name in ("forestnet", "forestnet-4"))
    assert twelve.classes[twelve.targets[0]] == "Timber plantation"
    assert len(twelve.classes) == 12
    assert four.classes[four.targets[0]] == "Plantation"
    with (root / "val.csv").open("w") as file:
        file.write(header + "Mining,Other,0,0,2014,examples/0_0\n")
    with pytest.raises(InputError, match=r"0_0/images/visible/composite\.png is not in"):
        open_data(tmp_path, "forestnet")
