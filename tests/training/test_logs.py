"""Logs: rows that survive a resumed run, and the same figures for TensorBoard."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import Mock, call

import pytest
from training_toy import Toy, rows

from sattxt.errors import InputError
from sattxt.training.logs import CsvLog
from sattxt.training.loop import LoopOptions


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
