"""The vision tower that a recipe starts from, and starting from another run or a model."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from release_files import BACKBONE, write_transformers_checkpoint
from safetensors.torch import load_file, save_file
from training_toy import EVERY_STEP, Toy

from sattxt.errors import InputError, OfflineError, UnknownModelError, WeightsError
from sattxt.training.objectives.align.model import AlignModel
from sattxt.training.recipe import Recipe, read_recipe
from sattxt.training.start import initialise, load_vision
from sattxt.vision.mobilenet import MobileNetV1
from sattxt.vision.tower import VisionTower

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
    "srd.teacher": {"kind": "random"},
}


def plain_recipe(**overrides: Any) -> Recipe:
    return read_recipe("mini", overrides)


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


def test_every_weight_that_may_train_gets_a_gradient_as_several_processes_need(tmp_path: Path) -> None:
    tower = load_vision(golden_recipe(BACKBONE), tmp_path)
    tower(torch.randn(2, 3, 32, 32)).embedding.sum().backward()
    assert [name for name, p in tower.named_parameters() if p.requires_grad and p.grad is None] == []


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
        ({"vision.path": str(BACKBONE), "vision.options": {"hidden_size": 4}}, InputError, "leave options out"),
        ({"vision.path": str(BACKBONE), "vision.model_type": None}, InputError, "output_stride"),
        ({"vision.random": True, "vision.model_type": "dinov3"}, InputError, "'dinov3_vit'"),
        ({"vision.random": True, "vision.output_stride": 5}, InputError, "8, 16 or 32"),
        ({**TINY, "vision.output_stride": None, "vision.options.hiden_size": 4}, InputError, "'hidden_size'"),
        (
            {**TINY, "vision.output_stride": None, "head.heads": 3},
            InputError,
            "not a multiple of its 3 attention heads",
        ),
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


def test_a_run_starts_from_another_runs_average(tmp_path: Path) -> None:
    first = Toy(tmp_path / "first", steps=2)
    first.train(EVERY_STEP)
    model = Toy(tmp_path / "second", seed=5).model
    initialise(first.out, model.vision, model.text)
    for name, value in first.average.vision.state_dict().items():
        assert torch.equal(value, model.vision.state_dict()[name]), name
    assert torch.equal(first.average.text.proj.weight, model.text.proj.weight)
    other = AlignModel(VisionTower(model.vision.config), 30, 10.0)
    with pytest.raises(
        WeightsError,
        match=r"text head: tensor 'ln.weight' .* \(24,\), the model needs \(30,\)",
    ):
        initialise(first.out, other.vision, other.text)


def test_a_run_of_stage_one_gives_no_text_head_and_an_unknown_name_is_refused(tmp_path: Path) -> None:
    first = Toy(tmp_path / "first", steps=2)
    first.train(EVERY_STEP)
    assert initialise(first.out, first.model.vision, first.model.text)[0]
    state = torch.load(first.checkpoint, weights_only=True)
    state["average"] = {k: v for k, v in state["average"].items() if not k.startswith("text.")}
    torch.save(state, first.checkpoint)
    assert not initialise(first.out, first.model.vision, first.model.text)[0]
    with pytest.raises(UnknownModelError, match=r"nor is it a run's folder, which has last\.ckpt"):
        initialise(tmp_path / "frist", first.model.vision, first.model.text)


@pytest.mark.parametrize("option", ["freeze_head", "freeze_text_head"])
def test_a_checkpoint_without_what_was_frozen_is_no_start(tmp_path: Path, option: str) -> None:
    first = Toy(tmp_path / "first", steps=1, **{option: True})
    first.train(EVERY_STEP)
    with pytest.raises(InputError, match=rf"leaves out what is frozen \({option}\).*sattxt train export"):
        initialise(first.out, Toy(tmp_path / "second").model.vision)


def test_a_model_of_other_sizes_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no start for the recipe's vision, head and .*: vision tower: tensor"):
        initialise("sattxt-mini", Toy(tmp_path).model.vision)
