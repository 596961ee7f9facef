"""What a run writes: checkpoints, refused where they are another run's or damaged; logs that survive a resumed run."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from unittest.mock import Mock, call

import pytest
import torch
from training_toy import EVERY_STEP, Toy, rows

from sattxt.errors import DiskFullError, InputError, WeightsError
from sattxt.training.loop import LoopOptions
from sattxt.training.records import CsvLog


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    run = Toy(tmp_path, steps=1)
    run.train(EVERY_STEP)
    with pytest.raises(WeightsError, match=r"last.ckpt: was written with same_text=0.95, this run has 0.9"):
        Toy(tmp_path, steps=1, same_text=0.9).resume()
    with pytest.raises(InputError, match=r"a run is here already; go on with --resume"):
        Toy(tmp_path, steps=1).train(EVERY_STEP)
    path = run.checkpoint
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[:2000])
    with pytest.raises(WeightsError, match=r"last.ckpt: not a checkpoint of a run"):
        Toy(tmp_path, steps=1).resume()
    whole[len(whole) // 2] ^= 0xFF  # one flipped byte among the weights, which torch.load does not notice
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match=r"is damaged\); delete it to start again"):
        Toy(tmp_path, steps=1).resume()
    with pytest.raises(InputError, match=r"no checkpoint of a run; pass another folder, or start one without --resume"):
        Toy(tmp_path / "empty").resume()


def test_frozen_weights_must_be_those_the_run_was_started_with(tmp_path: Path) -> None:
    Toy(tmp_path, steps=1, freeze_backbone=True).train(EVERY_STEP)
    other = Toy(tmp_path, steps=1, freeze_backbone=True)
    next(other.model.vision.backbone.parameters()).data.add_(1)
    with pytest.raises(WeightsError, match="frozen_weights"):
        other.resume()


def test_a_learning_rate_of_what_is_frozen_may_change(tmp_path: Path) -> None:
    Toy(tmp_path, steps=1, freeze_backbone=True).train(EVERY_STEP)
    assert Toy(tmp_path, steps=2, freeze_backbone=True).resume() == 1
    with pytest.raises(WeightsError, match=r"was written with head_lr=0\.0012, this run has 0\.1"):
        Toy(tmp_path, steps=2, freeze_backbone=True, head_lr=0.1).resume()


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, save, written = Toy(tmp_path, steps=3), torch.save, []

    def full(state: object, target: object, *args: object, **kwargs: object) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(save(state, target, *args, **kwargs))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DiskFullError, match=r"last\.ckpt: no space left"):
        run.train(LoopOptions(checkpoint_every=1))
    assert Toy(tmp_path, steps=3).resume() == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_rows_after_the_step_of_a_checkpoint_are_dropped(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "losses.csv")
    for step in (2, 4, 6):
        log.write(step=step, loss=step / 10)
    log.rewind(4)
    log.write(step=5, loss=1, surprise=2)
    assert log.path.read_text().splitlines() == ["step,loss", "2,0.2", "4,0.4", "5,1"]


def test_a_row_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "losses.csv")
    assert log.rewind(4) == set()
    log.write(seconds=1, step=2, loss=0.5)
    log.path.write_text(log.path.read_text() + "1.5,3")  # a full disk, or a kill
    assert log.rewind(4) == {2}
    log.write(seconds=2, step=3, loss=0.25)
    assert log.path.read_text().splitlines() == ["seconds,step,loss", "1,2,0.5", "2,3,0.25"]


def test_tensorboard_gets_the_figures_of_every_row(tmp_path: Path) -> None:
    board = Mock()
    CsvLog(tmp_path / "validation.csv", board).write(step=7, toy=70.5)
    assert call("validation/toy", 70.5, 7) in board.add_scalar.call_args_list
    board.flush.assert_called_once()


def test_tensorboard_is_asked_for_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(InputError, match="pip install tensorboard"):
        Toy(tmp_path).train(LoopOptions(tensorboard=True))
    assert not list(tmp_path.glob("*.csv"))


def test_logs_have_means_rates_and_figures(tmp_path: Path) -> None:
    run = Toy(tmp_path, steps=5)
    run.train(LoopOptions(log_every=2, validate_every=4))
    logged = rows(run, leave_out=())
    assert list(logged[0]) == ["seconds", "step", "class", "caption", "scale", "lr", "tiles_per_s"]
    assert [row["step"] for row in logged] == ["2", "4", "5"]
    assert all(float(row["tiles_per_s"]) > 0 for row in logged)
    assert [row["step"] for row in rows(run, "validation.csv")] == ["4", "5"]
