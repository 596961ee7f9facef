"""Published layouts written small, and what the readers make of them."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import tile, write_folders
from PIL import Image

from sattxt.data.bigearthnet import MERGED
from sattxt.data.registry import open_data
from sattxt.errors import ImageError, InputError
from sattxt.labels.sets import label_set


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


def png(path: Path, colour: str = "red", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tile(colour, seed)).save(path)
    return path


def geotiff(path: Path, bands: np.ndarray, **profile: object) -> Path:
    rasterio = pytest.importorskip("rasterio")
    path.parent.mkdir(parents=True, exist_ok=True)
    profile.setdefault("transform", rasterio.Affine(10, 0, 0, 0, -10, 100))
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=str(bands.dtype), **profile
    ) as file:
        file.write(bands)
    return path


def test_folder_zip_and_tar_of_the_same_files_are_the_same_data(tmp_path):
    folder = write_folders(tmp_path / "tiles", 2, ("train", "val"))
    archives = [folder, zipped(folder)]
    for suffix, mode in ((".tar", "w"), (".tar.gz", "w:gz")):
        archives.append(tmp_path / f"tiles{suffix}")
        with tarfile.open(archives[-1], mode) as archive:
            archive.add(folder, arcname=".")
    found = [open_data(path).split("val") for path in archives]
    assert [len(data) for data in found] == [6] * 4
    assert len({data.fingerprint for data in found}) == 1
    assert len({data.image(5).tobytes() for data in found}) == 1
    assert found[0].classes == ("BlueField", "GreenField", "RedField")
    assert [data.name for data in found] == ["tiles"] * 4


def test_another_pixel_or_label_is_another_fingerprint(tmp_path):
    folder = write_folders(tmp_path / "tiles", 2)
    before = open_data(folder).split()
    fingerprint = before.fingerprint
    changed = folder / before.samples[0].id
    moved = folder / "RedField" / "moved.png"
    changed.rename(moved)
    relabelled = open_data(folder).split()
    assert relabelled.fingerprint != fingerprint
    pixels = relabelled.pixels_fingerprint
    png(moved, "green", 99)
    assert open_data(folder).split().pixels_fingerprint != pixels


def test_split_defaults_to_val_then_test_then_everything(tmp_path):
    for names, chosen, count in (
        (("train", "validation", "test"), "val", 3),
        (("train", "test"), "test", 3),
        (("",), "", 3),
    ):
        data = open_data(write_folders(tmp_path / "-".join(names) / "x", 1, names))
        assert (data.split().split, len(data.split())) == (chosen, count)
        assert len(data.split("all")) == 3 * len(names)
    with pytest.raises(InputError, match="no splits"):
        data.split("val")


def test_limit_is_spread_over_all_classes(tmp_path):
    data = open_data(write_folders(tmp_path / "x", 6)).split(limit=3)
    assert sorted(data.targets.tolist()) == [0, 1, 2]


def test_hidden_and_mac_files_are_no_images(tmp_path):
    folder = write_folders(tmp_path / "x", 1)
    png(folder / "__MACOSX" / "RedField" / "._a.png")
    png(folder / ".cache" / "a.png")
    (folder / "RedField" / "readme.txt").write_text("no image")
    assert len(open_data(folder).split()) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.mkdir(), "holds no image"),
        (lambda p: png(p / "a.png"), "a.png lies in no class folder"),
        (lambda p: png(p / "val" / "a.png"), "lies in no class folder"),
        (lambda p: p.write_bytes(b"Rar!"), "is no zip or tar; unpack it"),
    ],
)
def test_what_is_no_class_folder_says_so(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(InputError, match=message):
        open_data(tmp_path / "x")


def test_a_broken_image_is_named(tmp_path):
    folder = write_folders(tmp_path / "x", 1)
    (folder / "RedField" / "broken.png").write_bytes(b"\x89PNG nonsense")
    data = open_data(folder).split()
    with pytest.raises(ImageError, match=r"RedField/broken\.png"):
        data.image(len(data) - 1)


def test_eurosat_keeps_all_ten_classes_and_reads_published_lists_beside_its_zip(tmp_path):
    folder = tmp_path / "EuroSAT" / "2750"
    for name in ("AnnualCrop_1", "AnnualCrop_2", "SeaLake_1", "SeaLake_2"):
        png(folder / name.split("_")[0] / f"{name}.jpg")
    archive = zipped(tmp_path / "EuroSAT")
    (tmp_path / "eurosat-train.txt").write_text("AnnualCrop_1.jpg\nSeaLake_1.jpg\n")
    (tmp_path / "eurosat-test.txt").write_text("SeaLake_2.jpg\n")
    data = open_data(archive, "eurosat")
    assert data.split("test").classes == tuple(label_set("eurosat").keys)
    assert [s.id for s in data.split().samples] == ["2750/SeaLake/SeaLake_2.jpg"]
    assert data.split().targets.tolist() == [9]
    assert len(data.split("train")) == 2


def test_split_tables_among_the_images_give_the_splits(tmp_path):
    folder = write_folders(tmp_path / "x", 2)
    rows = [["", "Filename", "Label"], ["0", "RedField/RedField_00.png", "1"], ["1", "BlueField/BlueField_01.png", "0"]]
    with (folder / "test.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert [s.id for s in open_data(folder).split("test").samples] == [
        "BlueField/BlueField_01.png",
        "RedField/RedField_00.png",
    ]


def test_a_folder_that_is_no_class_of_the_named_set_is_an_error(tmp_path):
    png(tmp_path / "x" / "Volcano" / "a.png")
    with pytest.raises(InputError, match="'Volcano' is none of the 10 classes of eurosat"):
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
    png(tmp_path / "x" / file)
    data = open_data(tmp_path / "x", dataset).split()
    assert data.classes[data.targets[0]] == key
    assert data.classes == tuple(label_set(dataset).keys)


def test_eurosat_ms_is_seen_through_bands_4_3_2(tmp_path):
    bands = np.full((13, 4, 4), 100, np.uint16)
    bands[3] = 2750  # B04
    geotiff(tmp_path / "x" / "Forest" / "Forest_1.tif", bands)
    image = open_data(tmp_path / "x", "eurosat-ms").split().image(0)
    assert image[0, 0].tolist() == pytest.approx([255, 9.27, 9.27], abs=0.01)


def test_manifests_of_every_kind(tmp_path):
    png(tmp_path / "a.png", "red")
    png(tmp_path / "deep" / "b.png", "blue")
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
    png(tmp_path / "a.png")
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
    png(tmp_path / "a.png")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        open_data(tmp_path / "m.csv")


def test_published_caption_json_and_jsonl(tmp_path):
    for name in ("airport_1.jpg", "park_1.jpg"):
        png(tmp_path / "x" / "RSICD_images" / name)
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


def _patch(folder: Path, patch: str, red: int) -> None:
    for band, value in (("B04", red), ("B03", 100), ("B02", 100), ("B08", 3000)):
        geotiff(folder / patch / f"{patch}_{band}.tif", np.full((1, 4, 4), value, np.uint16))


def test_bigearthnet_1_with_43_and_19_classes(tmp_path):
    root = tmp_path / "BigEarthNet-v1.0"
    given = {
        "S2A_1": ["Vineyards", "Olive groves", "Sea and ocean"],
        "S2A_2": ["Airports"],  # no place among the 19
        "S2A_3": ["Mixed forest"],
    }
    for patch, labels in given.items():
        _patch(root, patch, 2750)
        (root / patch / f"{patch}_labels_metadata.json").write_text(json.dumps({"labels": labels}))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "test.csv").write_text("S2A_1,S1A_1\nS2A_2,S1A_2\n")
    (tmp_path / "splits" / "train.csv").write_text("S2A_3\n")
    full = open_data(tmp_path, "bigearthnet-43").split("test")
    assert full.multi_label
    assert [[full.classes[k] for k in s.labels] for s in full.samples] == [
        sorted(given["S2A_1"], key=full.classes.index),
        ["Airports"],
    ]
    grouped = open_data(tmp_path, "bigearthnet").split("test")
    assert [[grouped.classes[k] for k in s.labels] for s in grouped.samples] == [["Permanent crops", "Marine waters"]]
    assert grouped.image(0)[0, 0].tolist() == pytest.approx([255, 9.27, 9.27], abs=0.01)


def test_every_merged_class_is_one_of_the_43_and_the_19():
    parts = [part for group in MERGED.values() for part in group]
    assert len(parts) == len(set(parts))
    assert all(label_set("bigearthnet-43").find(part).key == part for part in parts)
    assert all(label_set("bigearthnet-19").find(whole).key == whole for whole in MERGED)
    own = set(label_set("bigearthnet-19").keys) - set(MERGED)
    assert len(parts) + len(own) == 43 - 11


def test_bigearthnet_2_reads_metadata_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    tile = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
    _patch(tmp_path / "BigEarthNet-S2" / tile, f"{tile}_26_57", 2750)
    rows = [
        {"patch_id": f"{tile}_26_57", "labels": ["Urban fabric", "Inland waters"], "split": "validation"},
        {"patch_id": "not_unpacked", "labels": ["Urban fabric"], "split": "validation"},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    data = open_data(tmp_path, "bigearthnet-19").split("val")
    assert [[data.classes[k] for k in s.labels] for s in data.samples] == [["Urban fabric", "Inland waters"]]
    pixel = data.image(0)[0, 0].tolist()
    assert pixel == pytest.approx([255, 9.27, 9.27], abs=0.01), "N9999 is no baseline: nothing is taken off"
    with pytest.raises(InputError, match="19 classes"):
        open_data(tmp_path, "bigearthnet-43")


def test_forestnet_in_12_and_4_classes(tmp_path):
    root = tmp_path / "deep" / "downloads" / "ForestNetDataset"
    png(root / "examples" / "-1.0_104.0" / "images" / "visible" / "composite.png")
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


def test_a_damaged_zip_is_named(tmp_path):
    folder = write_folders(tmp_path / "x", 1)
    archive = zipped(folder)
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as opened:
        first = opened.infolist()[-1]
    content[first.header_offset + 60 : first.header_offset + 100] = bytes(40)
    archive.write_bytes(bytes(content))
    data = open_data(archive).split()
    with pytest.raises((InputError, ImageError), match=r"x\.zip"):
        [data.image(i) for i in range(len(data))]
