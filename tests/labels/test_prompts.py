"""Labels and templates: what a user passes, and what is encoded or said in return."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sattxt.errors import InputError, LabelError
from sattxt.labels.prompts import TEMPLATES, find_doubts, label_prompts, parse_labels, parse_templates
from sattxt.labels.sets import label_set


def test_prompts_do_not_import_torch() -> None:
    code = "import sys, sattxt.labels.prompts as p; p.label_prompts(label_set='eurosat'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Templates


def test_templates_wrap_a_label() -> None:
    assert label_prompts(["river"]) == {"river": ["a satellite image of river"]}
    assert label_prompts(["river"], templates=["{} from above", "{}"]) == {"river": ["river from above", "river"]}
    assert len(set(label_prompts(["river"], templates="ensemble")["river"])) == len(TEMPLATES["ensemble"])


def test_braces_in_a_label_are_kept() -> None:
    assert label_prompts(["{odd} {}"], templates="a photo of {}") == {"{odd} {}": ["a photo of {odd} {}"]}


def test_the_models_templates_are_used_where_none_is_given() -> None:
    assert label_prompts(["river"], default=["{} seen by day"]) == {"river": ["river seen by day"]}
    assert label_prompts(["river"], templates="{}", default=["{} seen by day"]) == {"river": ["river"]}
    with pytest.raises(InputError, match="exactly once"):
        label_prompts(["river"], templates=["{} {}"])


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
    assert label_prompts([" forest", "river"], templates="a photo of {}") == {
        "forest": ["a photo of forest"],
        "river": ["a photo of river"],
    }
    grouped = parse_labels({"water": ["river", "lake"], "built": "houses"})
    assert grouped == {"water": ("river", "lake"), "built": ("houses",)}
    assert label_prompts(grouped, templates=["{}", "{} above"]) == {
        "water": ["river", "river above", "lake", "lake above"],
        "built": ["houses", "houses above"],
    }
    named = parse_labels(label_set="eurosat")
    assert list(named) == label_set("eurosat").names
    assert parse_labels(label_set("eurosat")) == parse_labels(label_set=label_set("eurosat")) == named
    assert list(label_prompts(label_set="eurosat")) == list(named)


def test_any_iterable_of_texts_will_do() -> None:
    assert list(parse_labels(name for name in ("forest", "river"))) == ["forest", "river"]
    assert list(parse_labels({"forest": 1, "river": 2}.keys())) == ["forest", "river"]


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
        (["forest", "ri\0ver"], "labels[1] has a character that does not show, U+0000"),
        (["\u202eforest"], "U+202E (right-to-left override): pass '\\u202eforest' without it"),
        (["two\nlines"], "U+000A"),
        (["\ud800"], "U+D800"),
        ({"water": ["lake", "se\u200fa"]}, "labels['water'][1] has a character that does not show"),
        (["forest", "x" * 5000], "has 5,000 characters, a label at most 200"),
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


def test_long_texts_stand_for_a_short_label_and_emoji_keep_their_joiners() -> None:
    assert parse_labels({"harbour": "x" * 5000})["harbour"] == ("x" * 5000,)
    assert list(parse_labels(["\U0001f468\u200d\U0001f33e"])) == ["\U0001f468\u200d\U0001f33e"]


@pytest.mark.parametrize(
    ("labels", "multi_label", "says"),
    [
        (["forest"], False, ["'forest' is the only label, so its probability is always 1.00"]),
        (["forest"], True, []),
        (["forest", "s\u00e9chage", "SeaLake 2", "forest \U0001f332"], False, []),
        (["\u68ee\u6797", "\u063a\u0627\u0628\u0629", "river"], False, ["2 of 3 labels (\u68ee\u6797, "]),
        (["\U0001f332", "123"], True, ["2 of 2 labels"]),
        ({"\u68ee\u6797": ["forest"], "b": ["\u68ee\u6797", "wood"]}, False, []),
    ],
)
def test_labels_that_will_mislead_are_told(labels: object, multi_label: bool, says: list[str]) -> None:
    told = find_doubts(parse_labels(labels), multi_label=multi_label)
    assert len(told) == len(says)
    assert all(part in doubt for part, doubt in zip(says, told, strict=True))
