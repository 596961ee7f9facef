"""The loop: exact resumption after a kill, signals, validation, batches, options."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from torch.optim.optimizer import register_optimizer_step_post_hook
from training_toy import EVERY_STEP, Toy, assert_same_weights, rows

from sattxt.cli.train import app
from sattxt.errors import InputError, SatTxtError
from sattxt.training.loop import LoopOptions

training = typer.main.get_command(app)


class Killed(Exception):
    """The machine is gone."""


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 3},
        {"freeze_backbone": True, "text_noise": 0.1},
        {"freeze_backbone": True, "freeze_head": True, "image_views": 2},
    ],
)
@pytest.mark.parametrize("log_every", [1, 4])
def test_a_killed_run_resumes_to_the_same_losses(tmp_path: Path, options: dict, log_every: int) -> None:
    loop = LoopOptions(log_every=log_every, checkpoint_every=3, validate_every=2)
    whole = Toy(tmp_path / "whole", steps=6, **options)
    assert whole.train(loop) == 6
    killed = Toy(tmp_path / "killed", steps=6, **options)
    kill_at = 4  # after rows that the checkpoint of step 3 does not know of

    def die(step: int, means: dict[str, float]) -> None:
        if step >= kill_at:
            raise Killed

    with pytest.raises(Killed):
        killed.train(loop, progress=die)
    resumed = Toy(tmp_path / "killed", steps=6, **options)
    for parameter in resumed.model.parameters():  # whatever it started from is replaced
        if parameter.requires_grad:
            parameter.data.zero_()
    assert resumed.resume() == 3
    assert resumed.train(loop) == 6
    assert rows(resumed) == rows(whole)
    assert [row["step"] for row in rows(whole)] == (["4", "6"] if log_every == 4 else list("123456"))
    assert rows(resumed, "validation.csv") == rows(whole, "validation.csv")
    assert_same_weights(resumed, whole)


def test_a_process_killed_by_the_system_resumes_to_the_same_weights(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from training_toy import Toy
from sattxt.training.loop import LoopOptions
def kill(step, row):
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
Toy(Path(sys.argv[1]), steps=6).train(LoopOptions(log_every=1, checkpoint_every=3), progress=kill)
"""
    folders = [str(Path(__file__).parents[1]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "killed")], env={**os.environ, "PYTHONPATH": ":".join(folders)}
    )
    assert done.returncode == -signal.SIGKILL
    whole, resumed = Toy(tmp_path / "whole", steps=6), Toy(tmp_path / "killed", steps=6)
    whole.train(EVERY_STEP)
    assert resumed.resume() == 3
    assert resumed.train(EVERY_STEP) == 6
    assert rows(resumed) == rows(whole)
    assert_same_weights(resumed, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(tmp_path: Path, number: int, capfd) -> None:
    before = signal.getsignal(number)
    whole = Toy(tmp_path / "whole", steps=5)
    whole.train(EVERY_STEP)
    run = Toy(tmp_path / "run", steps=5)

    def ask(step: int, means: dict[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), number)

    assert run.train(EVERY_STEP, progress=ask) in (2, 3)
    assert "stopping after this step" in capfd.readouterr().err
    assert signal.getsignal(number) == before
    again = Toy(tmp_path / "run", steps=5)
    assert again.resume() == run.step
    assert again.train(EVERY_STEP) == 5
    assert rows(again) == rows(whole)
    assert_same_weights(again, whole)


def test_a_finished_run_goes_on_for_more_steps(tmp_path: Path) -> None:
    Toy(tmp_path, steps=2).train(EVERY_STEP)
    longer = Toy(tmp_path, steps=4)
    longer.resume()
    assert longer.train(EVERY_STEP) == 4
    learning_rates = [float(row["lr"]) for row in rows(longer)]
    assert learning_rates[2] == pytest.approx(1.2e-3)  # the last of three warm-up steps


def test_options_are_refused_before_any_data_are_read(tmp_path: Path) -> None:
    common = ["--data", str(tmp_path / "nowhere"), "--run", str(tmp_path / "run")]
    for arguments, message in ((["align", "--shard"], "shard: there is one process; start several: torchrun"),):
        with pytest.raises(InputError, match=message):
            training(arguments + common, standalone_mode=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_refused_before_any_data_are_read(tmp_path: Path) -> None:
    for name in ("run", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.ckpt").write_bytes(b"")
    common = ["--data", str(tmp_path / "nowhere")]
    for arguments, message in (
        (["align", "--run", "run"], "a run is here already; go on with --resume"),
        (["srd", "--config", "mini", "--run", "run"], "a run is here already"),
        (["align", "--run", "new", "--resume"], "start one without --resume"),
        (["export", "--run", "new", "--out", "out"], "no checkpoint of a run; pass another folder"),
        (["export", "--run", "run", "--out", "model"], "is not empty"),
    ):
        places = [str(tmp_path / a) if a in ("run", "new", "model", "out") else a for a in arguments]
        with pytest.raises(InputError, match=message):
            training(places + common, standalone_mode=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "run"]


def test_a_loss_that_is_no_number_stops_the_run_and_names_its_tiles(tmp_path: Path) -> None:
    run = Toy(tmp_path, normalise=lambda x: x * math.nan)
    before = {k: v.clone() for k, v in run.model.named_parameters()}
    with pytest.raises(SatTxtError, match=r"step 0: the loss is nan on toy \(\d, \d, \d, …\)"):
        run.train(EVERY_STEP)
    assert all(torch.equal(value, before[name]) for name, value in run.model.named_parameters())


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shard: there is one process; start several: torchrun"):
        Toy(tmp_path).train(LoopOptions(shard=True))
    with pytest.raises(InputError, match="log_every=0: pass 1 or more"):
        LoopOptions(log_every=0)
    with pytest.raises(InputError, match="workers=-1: pass 0 or more"):
        LoopOptions(workers=-1)


@pytest.mark.parametrize("steps", [2, 4], ids=["its last step", "steps left"])
def test_a_run_killed_while_it_validates_loses_neither_its_step_nor_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    loop = LoopOptions(checkpoint_every=2, validate_every=2)
    whole = Toy(tmp_path / "whole", steps=steps)
    whole.train(loop)
    killed = Toy(tmp_path / "killed", steps=steps)

    def die(model: object) -> dict[str, float]:
        raise Killed

    monkeypatch.setattr(killed, "measure", die)
    with pytest.raises(Killed):
        killed.train(loop)
    resumed = Toy(tmp_path / "killed", steps=steps)
    assert resumed.resume() == 2
    assert resumed.train(loop) == steps
    assert rows(resumed, "validation.csv") == rows(whole, "validation.csv")
    assert [row["step"] for row in rows(whole, "validation.csv")] == ["2", "4"][: steps // 2]
    assert_same_weights(resumed, whole)
    again = Toy(tmp_path / "killed", steps=steps)
    again.resume()
    monkeypatch.setattr(again, "measure", die)  # it has them all
    assert again.train(loop) == steps


def test_loader_processes_change_nothing(tmp_path: Path) -> None:
    here, elsewhere = Toy(tmp_path / "here", steps=3, accumulate=2), Toy(tmp_path / "there", steps=3, accumulate=2)
    here.train(EVERY_STEP)
    elsewhere.train(LoopOptions(log_every=1, workers=2))
    assert rows(here) == rows(elsewhere)


def test_accumulated_micro_batches_have_the_gradient_of_their_mean(tmp_path: Path) -> None:
    run = Toy(tmp_path, accumulate=2, steps=1, freeze_backbone=True, clip_norm=1e9)
    run.model.vision.backbone.eval()
    means = [run.aligner.losses(run.model, run.aligner.draw(0, micro)).total for micro in range(2)]
    (sum(means) / 2).backward()
    wanted = {n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None}
    run.model.zero_grad()
    seen: dict[str, torch.Tensor] = {}

    def look(*_: object) -> None:
        seen.update({n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None})

    hook = register_optimizer_step_post_hook(look)
    try:
        run.train(EVERY_STEP)
    finally:
        hook.remove()
    assert seen.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(seen[name], value, rtol=1e-4, atol=1e-6)


def test_books_and_objectives_go_through_a_process_boundary(tmp_path: Path) -> None:
    import pickle

    run = Toy(tmp_path)
    copied = pickle.loads(pickle.dumps(run.aligner))
    assert torch.equal(copied.draw(3).images, run.aligner.draw(3).images)
