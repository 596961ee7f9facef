"""Recipes: what is written is what is run, and what is written wrongly is named."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sattxt.data.registry import DATASETS
from sattxt.errors import InputError
from sattxt.training.objectives.align.model import AlignConfig
from sattxt.training.objectives.srd.model import SRDConfig
from sattxt.training.prompts import PromptConfig
from sattxt.training.recipe import Recipe, leave_out, read_recipe
from sattxt.training.schema import parse_override
from sattxt.training.sets import FieldsEntry, entry_config

FLOATS = st.floats(1e-6, 1.0, allow_nan=False)
COUNTS = st.integers(1, 5000)
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "align.steps": COUNTS,
    "align.pool": COUNTS,
    "align.seed": st.integers(0, 2**40),
    "align.head_lr": FLOATS,
    "align.text_noise": FLOATS,
    "align.freeze_backbone": st.booleans(),
    "align.text_start": st.sampled_from(["random", "isometric"]),
    "align.caption_share": FLOATS,
    "align.name_share": FLOATS,
    "align.augment.atmosphere_probability": FLOATS,
    "align.augment.min_area": FLOATS,
    "align.sets.aid.count": COUNTS,
    "align.templates": st.lists(
        st.text(st.characters(categories=["L"]), min_size=1).map(lambda w: w + " {}"), min_size=1, unique=True
    ),
    "srd.steps": COUNTS,
    "srd.patch_weight": FLOATS,
    "srd.pairs.s2.count": COUNTS,
    "srd.global_area": st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1.0)).map(list),
    "srd.teacher.month": st.integers(0, 11),
    "image.size": COUNTS,
    "head.ffn_dim": COUNTS,
    "text_encoder.max_length": COUNTS,
    "name": st.text(st.characters(categories=["L", "N"]), min_size=1),
}


def found(recipe: Recipe, key: str) -> Any:
    """What the parsed recipe has for a dotted key."""
    value: Any = recipe
    for part in key.split("."):
        if isinstance(value, tuple):
            value = next(entry for entry in value if entry.name == part)
        else:
            value = getattr(value, part)
    return value


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_an_override_of_any_key_is_what_the_recipe_then_has(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(KEYS)))
    value = data.draw(KEYS[key])
    recipe = read_recipe("mini", {key: value})
    got = found(recipe, key)
    assert (list(got) if isinstance(got, tuple) else got) == value
    assert read_recipe("mini", dict([parse_override(f"{key}={json.dumps(value, ensure_ascii=False)}")])) == recipe


PLACES = ["", "image", "vision", "head", "text_encoder", "srd", "srd.augment", "srd.teacher", "srd.pairs.s2", "align",
          "align.augment", "align.sets.eurosat", "align.sets.fields"]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(PLACES), st.from_regex(r"[a-z][a-z_]{2,12}", fullmatch=True), st.sampled_from([1, "x", None]))
def test_an_unknown_key_is_an_error_wherever_it_is(place: str, word: str, value: Any) -> None:
    key = f"{place}.zz_{word}".lstrip(".")
    with pytest.raises(InputError, match=f"zz_{word}"):
        read_recipe("mini", {key: value})


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("align.setps", 5, "did you mean .*'steps'"),
        ("steps", 5, "align.steps"),
        ("align.augment.min_are", 0.1, "'min_area'"),
        ("align.sets.eurosta.count", 3, "'eurosat'"),
        ("align.sets.eurosta", None, "'eurosat'"),
        ("align.sets.eurosat.cuont", 3, "'count'"),
        ("align.sets.eurosat.kind", "zpi", "'zip'"),
        ("align.sets.eurosat.vocabulary", "eurosatt", "'eurosat'"),
        ("align.sets.eurosat.count", 0, "1 or more"),
        ("align.text_start", "isometrc", "'isometric'"),
        ("align.steps", "many", "whole number"),
        ("align.steps", True, "whole number"),
        ("align.steps.more", 1, "it has no keys"),
        ("align.sizes", 64, "pass a list"),
        ("align.templates", ["a photo"], "{}"),
        ("align.counts", [1], "unknown key"),
        ("align.vocabulary", "nowhere.json", "no such file"),
        ("align.sets.s2.labels", {"water": ["train/a.tif"]}, "unknown key"),
        ("align.sets.aid.labels", {"water": ["a"]}, "unknown key"),
        ("align.name_share", 1.5, r"align\.name_share=1\.5: pass at most 1"),
        ("srd.global_area", [0.5], r"srd\.global_area\[1\]: missing"),
        ("srd.teacher.kind", "gallileo", "'galileo'"),
        ("srd.teacher.path", None, "srd.teacher.path: missing"),
        ("srd.pairs.s2.vocabulary", "eurosat", "unknown key"),
        ("text_encoder.kind", "llm", "llm2vec"),
        ("image.preset", "dinov3", "'dinov3-sat'"),
        ("image.std", [0.5, 0.5, 0.0], "above 0"),
        ("leave_out", "eurosatt", "'eurosat'"),
    ],
)
def test_a_bad_value_is_named_with_what_to_pass_instead(key: str, value: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        read_recipe("mini", {key: value})


def test_none_takes_out_what_the_recipe_says() -> None:
    recipe = read_recipe("mini", {"align.sets.eurosat": None, "srd": None, "image.mean": None})
    assert "eurosat" not in [entry.name for entry in recipe.align.sets]
    assert len(recipe.align.sets) == 5
    assert recipe.srd is None
    assert recipe.image.mean != (0.5, 0.5, 0.5)  # ImageConfig's default


def test_an_entry_can_be_added() -> None:
    mine = {"kind": "folder", "path": "tiles", "count": 8}
    recipe = read_recipe("mini", {"align.sets.mine": mine})
    assert recipe.align.sets[-1].model_dump(exclude_unset=True) == {"name": "mine", **mine}
    assert recipe.align.phrases("mine", ["AnnualCrop", "dense_residential"]) == [
        ("annual crop",),
        ("dense residential",),
    ]
    with pytest.raises(InputError, match=r"align\.sets\.eurosat: .* no phrases for class 'Rivr'.*'River'"):
        recipe.align.phrases("eurosat", ["Rivr"])


def test_values_on_the_command_line_are_yaml() -> None:
    assert parse_override("align.head_lr=5e-4") == ("align.head_lr", 5e-4)
    assert parse_override("srd=null") == ("srd", None)
    assert parse_override("align.sizes=[64, 96]") == ("align.sizes", [64, 96])
    assert parse_override("name=a=b") == ("name", "a=b")
    for text in ("align.steps", "=3", "align.sizes=[64"):
        with pytest.raises(InputError):
            parse_override(text)


def test_a_file_that_is_no_recipe_says_why(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text, why in (
        ("- a", "mapping"),
        ("a: [", "YAML"),
        ("name: x\nname: y", "twice"),
        ("name: x", "image: missing"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=why):
            read_recipe(path)
    with pytest.raises(InputError, match="'mini'"):
        read_recipe("mimi")


def test_leaving_a_data_set_out_takes_everything_of_it() -> None:
    recipe = read_recipe("mini")
    left = leave_out(recipe, "eurosat")
    assert [e.name for e in left.align.sets] == [e.name for e in recipe.align.sets if e.name != "eurosat"]
    assert set(left.align.vocabulary) == {"resisc45", "aid", "ucm", "dynamicworld"}
    assert left.srd is not None
    assert [e.name for e in left.srd.pairs] == ["s2"]  # eurosat-ms shows the same ground
    assert [e.count for e in left.srd.pairs] == [40]
    assert left == read_recipe("mini", {"leave_out": "eurosat"})
    assert "eurosat" in recipe.align.vocabulary  # the recipe itself is as it was
    assert leave_out(left, "s2").srd is None  # nothing is left to distil from


# -- the documentation ------------------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_recipe_of_the_documentation_reads(tmp_path: Path) -> None:
    text = DOCS.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "mine.yaml"
    path.write_text(textwrap.dedent(text))
    recipe = read_recipe(path)
    assert recipe.align.phrases("tiles", ["quarry"]) == [("quarry", "an open pit mine")]
    assert recipe.srd is None


def test_the_documentation_names_every_key_that_a_recipe_takes() -> None:
    text = DOCS.read_text(encoding="utf-8")
    told = set(re.findall(r"`(?:[a-z]+\.)*([a-z_]+)[^`]*`", text)) | set(re.findall(r"`([a-z_]+): ", text))
    fields = {key for cls in (AlignConfig, SRDConfig, PromptConfig) for key in cls.model_fields}
    keys = (
        fields | {key for kind in DATASETS for key in entry_config(kind).model_fields} | set(FieldsEntry.model_fields)
    )
    assert keys - told == set()
