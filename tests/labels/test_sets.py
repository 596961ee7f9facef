"""Named label sets: every one is there, sourced, usable as labels, and found by the names that people use."""

from __future__ import annotations

import pytest

from sattxt.errors import LabelError
from sattxt.labels.prompts import parse_labels
from sattxt.labels.sets import humanise, label_set, list_label_sets

SIZES = {
    "aid": 30,
    "bigearthnet-19": 19,
    "bigearthnet-43": 43,
    "corine-1": 5,
    "corine-2": 15,
    "corine-3": 44,
    "dynamicworld": 9,
    "eurosat": 10,
    "forestnet-12": 12,
    "resisc45": 45,
    "rsscn7": 7,
    "ucmerced": 21,
    "whu-rs19": 19,
    "worldcover": 11,
}


def test_every_label_set_is_there_with_its_classes() -> None:
    assert {name: len(label_set(name)) for name in list_label_sets()} == SIZES


@pytest.mark.parametrize("name", sorted(SIZES))
def test_label_sets_are_usable_and_sourced(name: str) -> None:
    chosen = label_set(name)
    assert chosen.reference
    assert chosen.url.startswith("http")
    assert chosen.licence
    assert chosen.multi_label == name.startswith("bigearthnet")
    # every set must pass the checks that a user's own labels pass
    assert list(parse_labels({label.name: label.prompts for label in chosen})) == chosen.names
    for label in chosen:
        assert label.name == label.name.strip()
        assert "_" not in label.name
        assert chosen.find(label.key) is label
        assert chosen.find(label.name) is label
        assert all(chosen.find(alias) is label for alias in label.aliases)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("EuroSAT-10", "eurosat"),
        ("UC Merced-21", "ucmerced"),
        ("NWPU_RESISC45", "resisc45"),
        ("ESA WorldCover", "worldcover"),
        ("Dynamic World", "dynamicworld"),
        ("BigEarthNet 43", "bigearthnet-43"),
        ("CORINE level 2", "corine-2"),
    ],
)
def test_usual_names_of_label_sets_work(text: str, name: str) -> None:
    assert label_set(text).name == name


def test_unknown_label_set_gets_near_matches() -> None:
    with pytest.raises(LabelError, match="did you mean 'eurosat'"):
        label_set("eurosatt")
    with pytest.raises(LabelError, match="bigearthnet-19"):
        label_set("bigearthnet")
    with pytest.raises(LabelError, match="worldcover"):
        label_set("zzzz")
    with pytest.raises(LabelError, match="not int"):
        label_set(10)


def test_classes_are_found_by_folder_name_and_code() -> None:
    assert label_set("aid").find("storage_tanks").name == "storage tanks"
    assert label_set("aid").find("StorageTanks").name == "storage tanks"
    assert label_set("ucmerced").find("mobilehomepark").name == "mobile home park"
    assert label_set("rsscn7").find("dRiverLake").name == "river or lake"
    assert label_set("eurosat").find("SeaLake").name == "sea or lake"
    assert label_set("worldcover").find(95).name == "mangroves"
    assert label_set("corine-3").find(311).key == "Broad-leaved forest"
    with pytest.raises(LabelError, match="did you mean 'forest'"):
        label_set("eurosat").find("forrest")


def test_corine_levels_nest() -> None:
    def codes(level: int) -> list[int]:
        return [label.code or 0 for label in label_set(f"corine-{level}")]

    assert codes(3) == sorted(codes(3))
    assert codes(2) == sorted({code // 10 for code in codes(3)})
    assert codes(1) == sorted({code // 10 for code in codes(2)})


@pytest.mark.tiles
@pytest.mark.parametrize(
    ("archive", "name"),
    [("eurosat_rgb", "eurosat"), ("ucm", "ucmerced"), ("aid_128", "aid"), ("resisc45_128", "resisc45")],
)
def test_folders_of_real_tiles_match_their_label_set(data_dir: object, archive: str, name: str) -> None:
    import zipfile

    with zipfile.ZipFile(f"{data_dir}/{archive}.zip") as tiles:
        folders = {entry.split("/")[1] for entry in tiles.namelist() if entry.count("/") == 2}
    assert {label_set(name).find(folder).key for folder in folders} == set(label_set(name).keys)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("HerbaceousVegetation", "herbaceous vegetation"),
        ("AnnualCrop", "annual crop"),
        ("SeaLake", "sea lake"),
        ("baseball_diamond", "baseball diamond"),
        ("railwayStation", "railway station"),
        ("snow-and-ice", "snow and ice"),
        ("StorageTanks", "storage tanks"),
        ("storagetanks", "storagetanks"),
        ("UCMerced", "uc merced"),
        ("  Bare   Land ", "bare land"),
    ],
)
def test_humanise_splits_words(name: str, words: str) -> None:
    assert humanise(name) == words


def test_published_codes_of_classes_are_kept() -> None:
    codes = {label.name: label.code for label in label_set("corine-1")}
    assert all(codes.values())
    assert len(set(codes.values())) == len(codes)
