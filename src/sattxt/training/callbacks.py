"""What happens around a training step: averaged weights, logs, validation, checkpoints, and being told to stop."""

from __future__ import annotations

import copy
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from torch import Tensor, nn

from sattxt.io import disk_errors
from sattxt.training.logs import CsvLog, TensorBoardLog
from sattxt.training.module import TrainingModule, load_trained, trained_names, whole_parameters
from sattxt.training.objectives.base import Objective
from sattxt.training.optim import update_average

log = logging.getLogger(__name__)

#: Called with the step and the means of its losses, each time they are logged.
Progress = Callable[[int, dict[str, float]], None]


class StepCallback(L.Callback):
    """A callback that is told of optimiser steps rather than of micro-batches."""

    _step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note where the run starts."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Call :meth:`on_step` where the micro-batch was a step's last."""
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.on_step(trainer, pl_module, self._step)

    def on_step(self, trainer: L.Trainer, module: Any, step: int) -> None:
        """``step`` optimiser steps are done."""


def shared_copy(objective: Objective, model: nn.Module) -> nn.Module:
    """A copy of ``model``, in eval mode and without gradients, that shares with it what is frozen."""
    shared: dict[int, Any] = {id(module): module for module in objective.frozen(model)}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()


class AverageWeights(StepCallback):
    """The exponential moving average of the model; it goes into the checkpoint.

    average: from :func:`shared_copy`.
    """

    state_key = "average"

    def __init__(self, objective: Objective, average: nn.Module) -> None:
        self.objective, self.average = objective, average

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go where the model is."""
        self.average.to(pl_module.device)

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Move towards the model."""
        with whole_parameters(trainer):
            update_average(self.average, module.model, self.objective.step_config.ema, step - 1)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, without what is frozen."""
        kept = trained_names(self.objective, self.average)
        return {name: value for name, value in self.average.state_dict().items() if name in kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        load_trained(self.objective, self.average, state_dict, "checkpoint")


class LossLog(StepCallback):
    """Means of the losses over every ``every`` steps: a CSV row, TensorBoard, and a call of ``progress``.

    Columns: seconds (of training, resumed runs included), step, the terms, lr (of the last group, the heads'),
    tiles_per_s (all ranks together). The sums since the last row go into the checkpoint, so that a resumed run writes
    the rows it would have written.
    """

    state_key = "losses"

    def __init__(self, path: Path, every: int, board: TensorBoardLog | None, progress: Progress | None) -> None:
        self._log, self._every, self._board, self._progress = CsvLog(path), every, board, progress
        self._sums: dict[str, Tensor] = {}
        self._micro, self._tiles, self._seconds, self._window = 0, 0, 0.0, 0.0
        self._since = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock; forget rows after the checkpoint."""
        super().on_train_start(trainer, pl_module)
        self._since = time.monotonic()
        if trainer.is_global_zero:
            self._log.rewind(trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the micro-batch's losses up."""
        for name, value in outputs["terms"].items():
            self._sums[name] = self._sums[name].to(value) + value if name in self._sums else value
        self._micro += 1
        self._tiles += outputs["tiles"]
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Write a row where one is due."""
        if step % self._every and step != trainer.max_steps:
            return
        means = {name: round(float(value) / self._micro, 6) for name, value in self._sums.items()}
        self._tick()
        rate = self._tiles * trainer.world_size / max(self._window, 1e-9)
        row = {
            **means,
            "lr": float(f"{trainer.optimizers[0].param_groups[-1]['lr']:.6g}"),
            "tiles_per_s": round(rate, 1),
        }
        if trainer.is_global_zero:
            self._log.write(seconds=round(self._seconds, 1), step=step, **row)
            if self._board is not None:
                self._board.write(step, "loss", row)
            if self._progress is not None:
                self._progress(step, row)
        self._sums, self._micro, self._tiles, self._window = {}, 0, 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last row, and the time spent."""
        self._tick()
        sums = {name: value.cpu() for name, value in self._sums.items()}
        return {
            "sums": sums, "micro": self._micro, "tiles": self._tiles, "seconds": self._seconds, "window": self._window
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        self._sums, self._micro, self._tiles = dict(state_dict["sums"]), state_dict["micro"], state_dict["tiles"]
        self._seconds, self._window = state_dict["seconds"], state_dict["window"]

    def _tick(self) -> None:
        now = time.monotonic()
        self._seconds, self._window = self._seconds + now - self._since, self._window + now - self._since
        self._since = now


class Validation(StepCallback):
    """Every ``every`` steps and at the end: figures of the averaged model, in a CSV row and TensorBoard.

    They come after the step's checkpoint. A run that was killed between the two computes them when it is resumed.
    """

    def __init__(
        self,
        path: Path,
        every: int,
        average: nn.Module,
        validate: Callable[[Any], Mapping[str, float]],
        board: TensorBoardLog | None,
    ) -> None:
        self._log, self._every, self._average, self._validate = CsvLog(path), every, average, validate
        self._board = board
        self._measured = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget rows after the checkpoint."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            self._log.rewind(trainer.global_step)
        self._catch_up(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that had no step left may lack the figures of its last one."""
        self._catch_up(trainer)

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Validate where it is due."""
        if self._due(trainer, step):
            self._measure(trainer, step)

    def _due(self, trainer: L.Trainer, step: int) -> bool:
        return step > 0 and (step % self._every == 0 or step == trainer.max_steps)

    def _catch_up(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        if not self._due(trainer, step) or step == self._measured:
            return
        if trainer.strategy.broadcast(not self._log.has(step)):  # every rank asks: the answer is the first one's
            self._measure(trainer, step)

    def _measure(self, trainer: L.Trainer, step: int) -> None:
        """Ranks other than 0 wait."""
        self._measured = step
        with whole_parameters(trainer):
            if trainer.is_global_zero:
                figures = dict(self._validate(self._average))
                if figures:
                    self._log.write(step=step, **figures)
                    log.info("step %d: %s", step, figures)
                    if self._board is not None:
                        self._board.write(step, "validation", figures)
        trainer.strategy.barrier("validation")


class Checkpoints(StepCallback):
    """The checkpoint at ``path``: every ``every`` steps, at the end, and when the run is told to stop.

    SIGTERM and the first Ctrl-C end the run after the step they fall into; a second Ctrl-C ends it at once. A file is
    replaced whole or not at all. This callback comes after those that keep something of a step for the checkpoint.

    Raises:
        DiskFullError: no space is left; the previous checkpoint is kept.
    """

    def __init__(self, path: Path, every: int) -> None:
        self._path, self._every = path, every
        self._stop = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen for signals."""
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        """Write where it is due."""
        stop = trainer.strategy.reduce_boolean_decision(self._stop, all=False)
        if stop or step % self._every == 0 or step == trainer.max_steps:
            write_checkpoint(trainer, self._path)
        trainer.should_stop = trainer.should_stop or stop

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """No longer listen."""
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """No longer listen."""
        self._restore()

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._stop = True
        sys.stderr.write("\nsattxt: stopping after this step, with a checkpoint (Ctrl-C again: at once, without)\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def write_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """A Lightning checkpoint at ``path``, in one step: on an error, what was there stays. Every rank must call it.

    Raises:
        DiskFullError: no space is left.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with disk_errors(path):
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                os.replace(temporary, path)
    finally:
        if trainer.is_global_zero:
            temporary.unlink(missing_ok=True)
