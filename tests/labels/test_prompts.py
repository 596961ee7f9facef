"""Labels, templates and label sets: what a user passes, and what is encoded or said in return."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sattxt.errors import InputError, LabelError
from sattxt.labels.prompts import (
    TEMPLATES,
    apply_templates,
    humanise,
    label_prompts,
    label_set,
    list_label_sets,
    parse_labels,
    parse_templates,
)

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


def test_prompts_do_not_import_torch() -> None:
    code = "import sys, sattxt.labels.prompts as p; p.label_set('eurosat'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Templates


def test_templates_wrap_a_label() -> None:
    assert apply_templates("river") == ["a satellite image of river"]
    assert apply_templates("river", ["{} from above", "{}"]) == ["river from above", "river"]
    assert len(set(apply_templates("river", "ensemble"))) == len(TEMPLATES["ensemble"])


def test_braces_in_a_label_are_kept() -> None:
    assert apply_templates("{odd} {}", "a photo of {}") == ["a photo of {odd} {}"]


def test_default_templates_are_used_only_where_none_is_given() -> None:
    assert parse_templates(None, default=("x {}",)) == ("x {}",)
    assert parse_templates("y {}", default=("x {}",)) == ("y {}",)
    assert parse_templates("reference", default=("x {}",)) == ("a satellite image of {}",)


@pytest.mark.parametrize(
    ("templates", "says"),
    [
        ("a photo of", "no {}"),
        ("ensembel", "did you mean 'ensemble'"),
        (["{} and {}"], "exactly once"),
        (["a photo of {label}"], "exactly once"),
        ([], "empty"),
        (["{}", "{}"], "twice"),
        ([3], "templates[0] must be a text"),
        (7, "not int"),
    ],
)
def test_bad_templates_are_refused(templates: object, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_templates(templates)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# Labels


def test_list_dict_and_label_set_give_prompts_in_order() -> None:
    assert label_prompts(parse_labels([" forest", "river"]), "a photo of {}") == {
        "forest": ["a photo of forest"],
        "river": ["a photo of river"],
    }
    grouped = parse_labels({"water": ["river", "lake"], "built": "houses"})
    assert grouped.names == ["water", "built"]
    assert label_prompts(grouped, ["{}", "{} above"]) == {
        "water": ["river", "river above", "lake", "lake above"],
        "built": ["houses", "houses above"],
    }
    named = parse_labels(label_set="eurosat")
    assert named.names == label_set("eurosat").names
    assert named.label_set is label_set("eurosat")
    assert parse_labels(label_set("eurosat")) == named
    assert parse_labels(label_set=label_set("eurosat")) == named


def test_any_iterable_of_texts_will_do() -> None:
    assert parse_labels(name for name in ("forest", "river")).names == ["forest", "river"]
    assert parse_labels({"forest": 1, "river": 2}.keys()).names == ["forest", "river"]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([], "empty"),
        ({}, "empty"),
        (None, "label_set='eurosat'"),
        (["forest", "Forest "], "duplicate label 'Forest' (as 'forest'"),
        (["sea ice", "river", "sea  ice"], "duplicate label 'sea  ice'"),
        ({"forest": "a", "FOREST": "b"}, "duplicate label 'FOREST'"),
        ({"water": ["lake", "lake"]}, "label 'water'"),
        ({"water": ["lake", "sea"], "wet": ["sea", "lake"]}, "'water' and 'wet'"),
        (["forest", " "], "labels[1] is empty"),
        ({"water": []}, "labels['water'] is empty"),
        ({"water": ["lake", ""]}, "labels['water'][1] is empty"),
        (["forest", 3], "labels[1] must be a text, not int"),
        ({"water": 3}, "labels['water']"),
        ("forest, river,city", "['forest', 'river', 'city']"),
        ("EuroSAT", "label_set='EuroSAT'"),
        (b"forest", "bytes"),
        ({"forest", "river"}, "no order"),
        (5, "not int"),
    ],
)
def test_bad_labels_are_refused(labels: object, says: str) -> None:
    with pytest.raises(LabelError) as caught:
        parse_labels(labels)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_and_label_set_exclude_each_other() -> None:
    with pytest.raises(LabelError, match="both"):
        parse_labels(["forest"], label_set="eurosat")
    with pytest.raises(LabelError, match="both"):
        parse_labels(label_set("aid"), label_set="eurosat")


# Label sets


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
    assert parse_labels({label.name: label.prompts for label in chosen}).names == chosen.names
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
