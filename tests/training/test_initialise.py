"""Starting from another run or a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_toy import EVERY_STEP, Toy

from sattxt.errors import InputError, UnknownModelError, WeightsError
from sattxt.training.initialise import initialise
from sattxt.training.objectives.align.model import AlignModel


def test_a_run_starts_from_another_runs_average(tmp_path: Path) -> None:
    first = Toy(tmp_path / "first", steps=2)
    first.train(EVERY_STEP)
    model = Toy(tmp_path / "second", seed=5).model
    initialise(model, first.out)
    for name, value in first.average.vision.state_dict().items():
        assert torch.equal(value, model.vision.state_dict()[name]), name
    assert torch.equal(first.average.text.proj.weight, model.text.proj.weight)
    other = AlignModel(model.vision.config, 30, 10.0)
    with pytest.raises(WeightsError, match=r"text head: tensor 'ln.weight' .* \(24,\), the model needs \(30,\); start"):
        initialise(other, first.out)


def test_a_run_of_stage_one_gives_no_text_head_and_an_unknown_name_is_refused(tmp_path: Path) -> None:
    first = Toy(tmp_path / "first", steps=2)
    first.train(EVERY_STEP)
    assert initialise(first.model, first.out)
    state = torch.load(first.checkpoint, weights_only=True)
    state["average"] = {k: v for k, v in state["average"].items() if not k.startswith("text.")}
    torch.save(state, first.checkpoint)
    assert not initialise(first.model, first.out)
    with pytest.raises(UnknownModelError, match=r"nor is it a run's folder, which has last\.ckpt"):
        initialise(first.model, tmp_path / "frist")


@pytest.mark.parametrize("option", ["freeze_head", "freeze_text_head"])
def test_a_checkpoint_without_what_was_frozen_is_no_start(tmp_path: Path, option: str) -> None:
    first = Toy(tmp_path / "first", steps=1, **{option: True})
    first.train(EVERY_STEP)
    with pytest.raises(InputError, match=rf"leaves out what is frozen \({option}\).*sattxt train export"):
        initialise(Toy(tmp_path / "second").model, first.out)


def test_a_model_of_other_sizes_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"vision tower: tensor .*; start from a model with the recipe"):
        initialise(Toy(tmp_path).model, "sattxt-mini")
