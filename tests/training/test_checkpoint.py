"""Checkpoints: refused where they are another run's or damaged, and kept when the disk is full."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from training_toy import EVERY_STEP, Toy

from sattxt.errors import DiskFullError, InputError, WeightsError
from sattxt.training.loop import LoopOptions


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
