"""Recipes, prompts and text banks: what is written is what is run, and what is written wrongly is named."""

from __future__ import annotations

import json
import logging
import re
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from release_files import ADAPTERS, BACKBONE, LLM, write_transformers_checkpoint
from safetensors.torch import load_file, save_file

from sattxt.data.registry import DATASETS
from sattxt.errors import InputError, OfflineError, WeightsError
from sattxt.text.llm2vec import LLM2VecEncoder
from sattxt.training import prompts
from sattxt.training.objectives.align.config import AlignConfig
from sattxt.training.objectives.align.losses import positive_pairs
from sattxt.training.objectives.srd.config import SRDConfig
from sattxt.training.prompts import Prompt, PromptBook, PromptConfig, SetTexts, phrases_of
from sattxt.training.recipe import Recipe, leave_out, read_recipe
from sattxt.training.recipe_yaml import parse_override
from sattxt.training.run import AlignRun, SRDRun
from sattxt.training.sets import FieldsEntry, entry_config
from sattxt.training.teachers.registry import start_teacher
from sattxt.training.text_bank import build_bank
from sattxt.training.text_start import start_text
from sattxt.training.vision_start import load_vision
from sattxt.vision.mobilenet import MobileNetV1

#: The full-size recipe made small by overrides alone.
TINY: dict[str, Any] = {
    "image.size": 32,
    "vision.random": True,
    "vision.model_type": "dinov3_vit",
    "vision.options": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_register_tokens": 4,
    },
    "head": {"dim": 32, "depth": 1, "heads": 2, "ffn_dim": 64},
    "text_encoder.random": True,
    "srd.teacher": {"kind": "random"},
}


def plain_recipe(**overrides: Any) -> Recipe:
    return read_recipe("mini", overrides)


# -- reading and overriding ----------------------------------------------------------------------------------------

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
        ("head.heads", 3, "multiple"),
        ("leave_out", "eurosatt", "'eurosat'"),
    ],
)
def test_a_bad_value_is_named_with_what_to_pass_instead(key: str, value: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        read_recipe("mini", {key: value})


def test_none_takes_out_what_the_recipe_says() -> None:
    recipe = read_recipe("mini", {"align.sets.eurosat": None, "srd": None, "image.mean": None})
    assert "eurosat" not in [entry.name for entry in recipe.align.sets]
    assert len(recipe.align.counts) == len(recipe.align.sets) == 5
    assert recipe.srd is None
    assert recipe.image.mean != (0.5, 0.5, 0.5)  # ImageConfig's default


def test_an_entry_can_be_added() -> None:
    mine = {"kind": "folder", "path": "tiles", "count": 8}
    recipe = read_recipe("mini", {"align.sets.mine": mine})
    assert recipe.align.sets[-1].entry() == {"name": "mine", **mine}
    assert recipe.align.counts[-1] == 8
    assert recipe.align.phrases("mine", ["AnnualCrop", "dense_residential"]) == [
        ("annual crop",),
        ("dense residential",),
    ]


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
    assert set(left.align.vocabulary) == {"resisc45", "aid", "ucm"}
    assert len(left.align.counts) == len(left.align.sets)
    assert left.srd is not None
    assert [e.name for e in left.srd.pairs] == ["s2"]  # eurosat-ms shows the same ground
    assert len(left.srd.counts) == 1
    assert left == read_recipe("mini", {"leave_out": "eurosat"})
    assert "eurosat" in recipe.align.vocabulary  # the recipe itself is as it was
    assert leave_out(left, "s2").srd is None  # nothing is left to distil from


# -- prompts -------------------------------------------------------------------------------------------------------


def test_shipped_templates_and_instructions_are_fit_for_use() -> None:
    assert len(prompts.TEMPLATES) >= 12
    assert 8 <= len(prompts.INSTRUCTIONS) <= 12
    config = PromptConfig(instructions=prompts.INSTRUCTIONS)  # checks them
    assert len(set(config.templates)) == len(config.templates)


def test_a_texts_instructions_are_its_own_and_always_the_same() -> None:
    config = PromptConfig(instructions=prompts.INSTRUCTIONS, instruction_variants=2, plain_share=0.5)
    texts = [f"caption {i}" for i in range(400)]
    assert [config.variants(t) for t in texts] == [config.variants(t) for t in reversed(texts)][::-1]
    assert all(len(config.variants(t)) == 2 for t in texts)
    plain = sum(config.variants(t)[0] == t for t in texts)
    assert 150 < plain < 250
    used = Counter(p.instruction for t in texts for p in config.variants(t) if isinstance(p, Prompt))
    assert set(used) == set(prompts.INSTRUCTIONS)
    assert max(used.values()) < 2 * min(used.values())


def sets() -> list[SetTexts]:
    """Two sets: classes with some captions, and captions alone."""
    first = SetTexts(
        "a", [["lake", "pond"], ["wood"]], [["blue"], [], ["green", "dark"], []], torch.tensor([0, 0, 1, 1])
    )
    return [first, SetTexts("b", [], [["one"], []], torch.tensor([-1, -1]))]


def drawn_texts(book: PromptBook, seed: int) -> tuple[list[list[str] | None], dict[int, str], Any]:
    step = book.draw([torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1])], torch.Generator().manual_seed(seed))
    words = [p.text if isinstance(p, Prompt) else p for p in book.prompts]
    classes = [None if rows is None else [words[r] for r in rows.tolist()] for rows in step.classes]
    return classes, dict(zip(step.positions.tolist(), [words[r] for r in step.texts.tolist()], strict=True)), step


def test_a_step_is_a_function_of_its_generator() -> None:
    book = PromptBook(PromptConfig(caption_share=0.5, instructions=prompts.INSTRUCTIONS), sets())
    draws = [drawn_texts(book, seed)[:2] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_every_tile_is_told_by_what_is_its_own() -> None:
    book = PromptBook(PromptConfig(templates=("{}", "a {}"), caption_share=0.5), sets())
    own = {0: {"lake", "pond", "a lake", "a pond", "blue"}, 1: {"lake", "pond", "a lake", "a pond"},
           2: {"wood", "a wood", "green", "dark"}, 3: {"wood", "a wood"}, 4: {"one"}}  # fmt: skip
    seen: dict[int, set[str]] = {place: set() for place in own}
    names: list[set[str]] = [set(), set()]
    for seed in range(300):
        classes, told, step = drawn_texts(book, seed)
        assert classes[1] is None
        assert classes[0] is not None
        for number, text in enumerate(classes[0]):
            names[number].add(text)
        assert 4 in told  # a tile without a class loses no caption to the share
        assert 5 not in told
        for place, text in told.items():
            seen[place].add(text)
        by_class = [text in ("lake", "pond", "a lake", "a pond", "wood", "a wood") for text in told.values()]
        assert (step.text_group >= 0).tolist() == by_class
    assert seen == own
    assert names == [own[1], own[3]]


@pytest.mark.parametrize(("share", "expected"), [(1.0, {0, 2, 4}), (0.0, {0, 1, 2, 3, 4})])
def test_caption_share_at_its_ends(share: float, expected: set[int]) -> None:
    book = PromptBook(PromptConfig(caption_share=share), sets())
    for seed in range(20):
        _, told, step = drawn_texts(book, seed)
        assert set(told) == expected
        assert bool((step.text_group[:4] >= 0).all()) is (share == 0)


def test_names_alone_are_drawn_where_all_prompts_are_to_be_names() -> None:
    book = PromptBook(PromptConfig(templates=("{}", "a {}"), caption_share=0.0, name_share=1.0), sets())
    seen: set[str] = set()
    for seed in range(30):
        classes, told, _ = drawn_texts(book, seed)
        assert classes[0] is not None
        seen |= {*classes[0], *(told[place] for place in range(4))}
    assert seen == {"lake", "a lake", "wood", "a wood"}  # not pond; captions and templates as ever


def test_a_share_of_names_is_beside_what_falls_to_them_anyway() -> None:
    many = SetTexts("a", [["lake", *(f"pond {i}" for i in range(9))]], [], torch.zeros(0, dtype=torch.int64))
    book = PromptBook(PromptConfig(templates=("{}",), name_share=0.25), [many])
    drawn = [book.draw([torch.zeros(0, dtype=torch.int64)], torch.Generator().manual_seed(s)) for s in range(1000)]
    names = sum(book.prompts[int(step.classes[0][0])] == "lake" for step in drawn if step.classes[0] is not None)
    assert 265 < names < 385  # 0.25 + 0.75 / 10 of 1,000


def test_without_a_share_of_names_the_draws_are_those_of_earlier_versions() -> None:
    book = PromptBook(PromptConfig(templates=("{}", "a {}", "the {}"), caption_share=0.5), sets())
    assert drawn_texts(book, 0)[:2] == (
        [["the pond", "the wood"], None], {0: "blue", 1: "a lake", 2: "dark", 3: "a wood", 4: "one"},
    )  # fmt: skip
    assert drawn_texts(book, 1)[:2] == (
        [["lake", "wood"], None], {0: "blue", 1: "the lake", 2: "green", 3: "the wood", 4: "one"},
    )  # fmt: skip
    step = drawn_texts(book, 2)[2]
    assert (step.positions.tolist(), step.texts.tolist()) == ([0, 1, 2, 4], [3, 0, 11, 12])


def test_a_class_phrase_fits_every_image_of_its_class() -> None:
    unit = torch.eye(4)
    unit[3] = unit[2]
    image, text = torch.tensor([0, 0, 1, -1]), torch.tensor([0, -1, -1, -1])
    wanted = torch.eye(4, dtype=torch.bool)
    wanted[1, 0] = True  # image 1 is of the class that text 0 names; image 0 is not told by text 1
    wanted[2, 3] = wanted[3, 2] = True  # the same text
    assert torch.equal(positive_pairs(unit, torch.arange(4), 0.95, image, text), wanted)


def test_a_class_without_phrases_is_named_with_the_near_match() -> None:
    with pytest.raises(InputError, match=r"'Rivr'.*'River'"):
        phrases_of(["Rivr"], {"River": ["river"], "Lake": ["lake"]}, "align.sets.mine")


# -- text encoders -------------------------------------------------------------------------------------------------


def llm_recipe(**overrides: Any) -> Recipe:
    published = {"text_encoder.base": str(LLM), "text_encoder.adapters": [str(a) for a in ADAPTERS]}
    return read_recipe("sattxt-vitl16", {**published, "text_encoder.dtype": "float32", **overrides})


def test_the_llm_reads_instructions_as_the_published_code_does(tmp_path: Path, golden_model_dir: Path) -> None:
    from sattxt.config import ModelConfig

    start = start_text(llm_recipe(), tmp_path, tmp_path / "run")
    published = ModelConfig.read(golden_model_dir / "config.json").text
    assert start.folder is None
    assert start.config.weights_sha256 == published.weights_sha256
    assert (start.config.base, start.config.adapters, start.config.template, start.config.max_text_tokens) == (
        published.base, published.adapters, published.template, published.max_text_tokens,
    )  # fmt: skip
    prompts = ["a river", Prompt("Name the scene:", "a river")]
    bank = build_bank(prompts, start.open("cpu"), tmp_path)
    reference = LLM2VecEncoder(start.config)
    for prompt, instruction in zip(prompts, (None, "Name the scene:"), strict=True):
        wanted = torch.from_numpy(reference.encode(["a river"], instruction=instruction))
        assert torch.allclose(bank.vectors(bank.rows([prompt])), wanted, atol=1e-5)
    assert not torch.allclose(bank.pooled[0], bank.pooled[1], atol=1e-2)


def test_a_sentence_encoder_reads_instructions_as_plain_text(tmp_path: Path) -> None:
    recipe = read_recipe("mini", {"text_encoder": {"kind": "sentence", "random": True}})
    start = start_text(recipe, tmp_path, tmp_path)
    encoder = start.open("cpu")
    bank = build_bank([Prompt("Name the scene:", "a river"), "a river"], encoder, tmp_path)
    wanted = torch.from_numpy(encoder.encode(["Name the scene: a river", "a river"]))
    assert torch.allclose(bank.pooled, wanted, atol=1e-5)


def test_random_encoders_are_the_same_every_time(tmp_path: Path) -> None:
    texts = ["a river", "a wood", "ein Fluß, 東京"]
    for kind in ("sentence", "llm2vec"):
        recipe = read_recipe("mini", {"text_encoder": {"kind": kind, "random": True, "hidden_size": 16}})
        starts = [start_text(recipe, tmp_path, tmp_path / f"{kind}{i}") for i in range(2)]
        first, second = (torch.from_numpy(start.open("cpu").encode(texts)) for start in starts)
        assert starts[0].config == starts[1].config
        assert first.shape == (3, 16)
        assert torch.equal(first, second)
        assert torch.pdist(first).min() > 0.01


@pytest.mark.parametrize(
    ("block", "error", "named"),
    [
        ({"kind": "sentence"}, InputError, "either path"),
        ({"kind": "sentence", "path": "nowhere"}, InputError, "nowhere"),
        ({"kind": "sentence", "package": "no_such_package"}, InputError, "pip install"),
        ({"kind": "llm2vec"}, InputError, "base"),
        ({"kind": "llm2vec", "base": "/no/where"}, InputError, "/no/where"),
        ({"kind": "llm2vec", "base": "meta/llama"}, OfflineError, "meta/llama"),
        ({"kind": "sentence", "random": True, "hidden_size": 30}, InputError, "multiple of 4"),
    ],
)
def test_a_text_encoder_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: dict[str, Any], error: type[Exception], named: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(error, match=named):
        start_text(read_recipe("mini", {"text_encoder": block}), tmp_path, tmp_path)


# -- vision towers -------------------------------------------------------------------------------------------------


def golden_recipe(path: Path, **overrides: Any) -> Recipe:
    head = {"dim": 48, "depth": 1, "heads": 4, "ffn_dim": 64}
    return read_recipe("sattxt-vitl16", {"vision.path": str(path), "image.size": 32, "head": head, **overrides})


def test_a_backbone_is_the_same_from_metas_file_and_from_transformers(tmp_path: Path) -> None:
    folder = write_transformers_checkpoint(tmp_path / "backbones" / "dino")
    by_file = load_vision(golden_recipe(BACKBONE), tmp_path)
    by_folder = load_vision(golden_recipe(Path("backbones/dino")), tmp_path)
    assert by_file.config == by_folder.config
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(by_file(pixels).embedding, by_folder(pixels).embedding)
    reseeded = load_vision(golden_recipe(folder), tmp_path, seed=5)
    assert torch.equal(
        reseeded.state_dict()["backbone.norm.weight"], by_file.state_dict()["backbone.norm.weight"]
    )  # only what is random depends on the seed
    assert not torch.equal(reseeded.head.blocks[0].mlp.w1.weight, by_file.head.blocks[0].mlp.w1.weight)  # type: ignore[union-attr,index]


def mobilenet_folder(folder: Path, **changes: torch.Tensor | None) -> Path:
    """A quarter-width MobileNet as transformers writes one; ``None`` leaves a tensor out."""
    folder.mkdir(parents=True)
    torch.manual_seed(7)
    state: dict[str, Any] = {**MobileNetV1(0.25).state_dict(), **{k.replace("__", "."): v for k, v in changes.items()}}
    kept = {f"mobilenet_v1.{k}": v.clone() for k, v in state.items() if v is not None}
    save_file({**kept, "classifier.weight": torch.zeros(2, 256)}, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps({"model_type": "mobilenet_v1", "depth_multiplier": 0.25}))
    return folder


def test_a_backbone_that_lacks_a_tensor_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = mobilenet_folder(tmp_path / "m", layer__25__convolution__weight=None)
    with caplog.at_level(logging.WARNING):
        tower = load_vision(plain_recipe(**{"vision.path": str(folder)}), tmp_path)
    assert "layer.25.convolution.weight" in caplog.text
    stored = load_file(folder / "model.safetensors")["mobilenet_v1.conv_stem.convolution.weight"]
    assert torch.equal(tower.state_dict()["backbone.conv_stem.convolution.weight"], stored)
    assert tower.config.head.input_dim == 256
    assert tower(torch.randn(2, 3, 64, 64)).grid == (4, 4)  # output_stride 16


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    wrong = mobilenet_folder(tmp_path / "a", layer__0__convolution__weight=torch.zeros(8, 1, 5, 5))
    unknown = mobilenet_folder(tmp_path / "b", layer__99__convolution__weight=torch.zeros(1))
    gone = {f"layer__{i}__convolution__weight": None for i in range(20)}
    nan = mobilenet_folder(tmp_path / "d", layer__0__convolution__weight=torch.full((8, 1, 3, 3), torch.nan))
    other = mobilenet_folder(tmp_path / "e")
    (other / "config.json").write_text('{"model_type": "vit"}')
    for folder, named in (
        (wrong, r"layer.0.convolution.weight.*\(8, 1, 5, 5\)"),
        (unknown, "layer.99"),
        (mobilenet_folder(tmp_path / "c", **gone), "lacks 20 of"),
        (nan, "NaN"),
        (other, "'vit'"),
    ):
        with pytest.raises(WeightsError, match=named):
            load_vision(plain_recipe(**{"vision.path": str(folder), "vision.model_type": None}), tmp_path)


@pytest.mark.parametrize(
    ("overrides", "error", "named"),
    [
        ({"vision.path": "org/backbone"}, OfflineError, "org/backbone"),
        ({"vision.path": "no/such/folder"}, InputError, "no/such/folder"),
        ({"vision.path": None}, InputError, "vision.path: missing"),
        ({"vision.path": str(BACKBONE)}, InputError, "leave model_type out"),
        ({"vision.path": str(BACKBONE), "vision.model_type": None}, InputError, "output_stride"),
        ({"vision.random": True, "vision.model_type": "dinov3"}, InputError, "'dinov3_vit'"),
        ({"vision.random": True, "vision.output_stride": 5}, InputError, "8, 16 or 32"),
        ({**TINY, "vision.output_stride": None, "vision.options.hiden_size": 4}, InputError, "'hidden_size'"),
        ({**TINY, "vision.output_stride": None, "image.size": 40}, InputError, "multiple, such as 32"),
        (
            {**TINY, "vision.output_stride": None, "align.sizes": [40], "align.size_weights": [1.0]},
            InputError,
            "align.sizes=40: .* multiple, such as 32",
        ),
    ],
)
def test_a_backbone_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: dict[str, Any], error: type[Exception], named: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(error, match=named):
        load_vision(read_recipe("mini", overrides), tmp_path)


# -- the full-size recipe ------------------------------------------------------------------------------------------


def test_the_full_size_recipe_is_the_published_architecture() -> None:
    recipe = read_recipe("sattxt-vitl16")
    assert recipe.srd is not None
    assert recipe.srd.freeze_backbone
    assert recipe.align.freeze_backbone
    assert recipe.srd.teacher_temperature < recipe.srd.student_temperature
    assert dict(recipe.head) == {"dim": 1024, "depth": 2, "heads": 16, "ffn_dim": 2752}
    assert recipe.srd.teacher.kind == "spectralgpt"
    assert recipe.image.size == 224
    assert recipe.align.instructions


def test_teachers_open_by_the_recipe(tmp_path: Path, golden_dir: Path) -> None:
    checkpoint = golden_dir / "spectralgpt" / "spectralgpt_tiny.pth"
    meta = json.loads((golden_dir / "spectralgpt" / "meta.json").read_text())
    block = {"kind": "spectralgpt", "path": str(checkpoint), "heads": meta["num_heads"], "missing": "mean"}
    sources = []
    for overrides in ({"srd.teacher": block}, {}, TINY):
        srd = read_recipe("sattxt-vitl16", overrides).srd
        assert srd is not None
        sources.append(srd.teacher)
    assert start_teacher(sources[0], tmp_path).name == "spectralgpt"
    with pytest.raises(InputError, match="no such file"):
        start_teacher(sources[1], tmp_path)
    with pytest.raises(InputError, match="no stage 1"):
        SRDRun(read_recipe("sattxt-vitl16", {"srd": None}), tmp_path, tmp_path / "run")
    random = start_teacher(sources[2], tmp_path)
    assert random.encode(torch.rand(2, 12, 16, 16) * 3000, random.bands).pooled.shape == (2, 16)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A data folder: eight scenes in a shard of SSL4EO-S12 v1.1's form, their captions, and six labelled tiles."""
    import csv

    import zarr
    from PIL import Image

    random = np.random.default_rng(0)
    shard = tmp_path / "SSL4EO-S12-v1.1" / "train" / "S2L2A" / "ssl4eos12_train_seasonal_data_000001.zarr.zip"
    shard.parent.mkdir(parents=True)
    arrays = {
        "bands": random.integers(1100, 4000, (2, 4, 12, 32, 32)).astype(np.int16),
        "sample": np.array(["0000012", "0000013"]),
        "band": np.array(["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]),
    }
    store = zarr.storage.ZipStore(shard, mode="w")
    group = zarr.create_group(store, zarr_format=2)
    for name, values in arrays.items():
        chunks = (1, 1, 12, 32, 32) if name == "bands" else values.shape
        group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks)[...] = values
    store.close()
    table = tmp_path / "captions" / "Llama3-SSL4EO-S12-v1.1" / "train" / "0.csv"
    table.parent.mkdir(parents=True)
    with table.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["caption", "sample_id", "time_id"])
        writer.writerows([f"Scene {s} in season {t}.", s, t] for s in (12, 13) for t in range(4))
    for split in ("train", "val"):
        for label, grey in (("water", 40), ("wood", 90), ("sand", 200)):
            path = tmp_path / "labelled" / split / label / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (32, 32), (grey, grey, 255 - grey)).save(path)
    return tmp_path


def test_the_full_size_recipe_runs_dry_scaled_down_by_overrides_alone(scenes: Path) -> None:
    """Shards to a model that opens: both stages, every part random and small."""
    from sattxt import SatTxt
    from sattxt.training.loop import LoopOptions

    small = {"steps": 2, "warmup": 1, "precision": "float32"}
    recipe = read_recipe("sattxt-vitl16", {
        **TINY,
        **{f"{stage}.{key}": value for stage in ("srd", "align") for key, value in small.items()},
        "srd.pairs.ssl4eo.count": 4, "srd.pairs.ssl4eo.size": 32, "srd.global_size": 32, "srd.local_size": 16,
        "align.sets.ssl4eo.count": 4, "align.sets.ssl4eo.size": 32, "align.sizes": [32],
        "align.sets.labelled": {"kind": "folder", "path": "labelled", "size": 32, "count": 1},
    })  # fmt: skip
    options = LoopOptions(log_every=1)
    first = SRDRun(recipe, scenes, scenes / "run-srd")
    backbone = {k: v.clone() for k, v in first.model.vision.backbone.state_dict().items()}
    head = first.model.vision.head.ln_final.weight.clone()
    assert first.train(options) == 2
    assert all(torch.equal(backbone[k], v) for k, v in first.model.vision.backbone.state_dict().items())  # frozen
    assert not torch.equal(first.model.vision.head.ln_final.weight, head)

    second = AlignRun(recipe, scenes, scenes / "run-align", init=scenes / "run-srd")
    assert torch.equal(second.model.vision.head.ln_final.weight, first.average.vision.head.ln_final.weight)
    assert {p.text for p in second.bank.row if isinstance(p, Prompt)} | {
        p for p in second.bank.row if isinstance(p, str)
    } >= {f"Scene {s} in season {t}." for s in (12, 13) for t in range(4)}
    assert second.train(options) == 2
    brighter = recipe.replace(image=recipe.image.replace(mean=(0.1, 0.1, 0.1)))
    with pytest.raises(WeightsError, match=r"last.ckpt: was written with image="):
        AlignRun(brighter, scenes, scenes / "run-align", init=scenes / "run-srd").resume()

    model = SatTxt.from_pretrained(second.export(scenes / "model"), dtype="float32", text_cache=False)
    tile = next((scenes / "labelled" / "val").glob("*/*.png"))
    for vectors in (model.encode_text(["water from space"]), model.encode_image([tile])):
        assert np.asarray(vectors).shape == (1, 64)
        assert np.isfinite(np.asarray(vectors)).all()


DOCS = Path(__file__).parents[1] / "docs" / "training.md"


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
    fields = {key for cls in (AlignConfig, SRDConfig, PromptConfig) for key in cls.model_fields} - {"counts"}
    keys = (
        fields | {key for kind in DATASETS for key in entry_config(kind).model_fields} | set(FieldsEntry.model_fields)
    )
    assert keys - told == set()
