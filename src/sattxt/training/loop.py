"""The training loop of every stage: draw a batch, take the losses, step, average, log, save, validate.

It runs in one process or, started by torchrun, in several that train as one; see :mod:`sattxt.training.ranks`.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sattxt.errors import InputError, SatTxtError
from sattxt.training import ranks
from sattxt.training.objectives.base import Batch, Objective, StepLosses
from sattxt.training.records import (
    CHECKPOINT,
    CsvLog,
    LossMeter,
    check_folder,
    open_tensorboard,
    restore,
    run_identity,
    trained_names,
    write_checkpoint,
)
from sattxt.training.schema import Config, Count, Whole

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class LoopOptions(Config):
    """How a run is carried out; none of it changes what is learnt."""

    workers: Whole = 0  # processes that draw batches ahead, for each training process; 0: it draws them itself
    checkpoint_every: Count = 200  # steps
    validate_every: Count = 500  # steps
    log_every: Count = 20  # steps that a row of losses.csv is the mean of
    tensorboard: bool = False  # write TensorBoard logs too
    shard: bool = False  # keep a part of the model in each process (FSDP) instead of a copy (DDP)


def check_start(out: Path, options: LoopOptions, *, resume: bool) -> None:
    """Raise InputError where a run cannot start in ``out``, or go on there. It is cheap: ask before reading data."""
    if options.shard and not ranks.launched():
        raise InputError("shard: there is one process; start several: torchrun --nproc-per-node 2 -m -- sattxt train")
    if options.shard and not hasattr(torch.distributed.fsdp, "fully_shard"):
        raise InputError(f"shard: needs torch 2.6 or later, this is {torch.__version__}")
    check_folder(out, resume=resume)


class Run(ABC, Generic[Model]):
    """What the runs of both stages share. Everything a run writes goes to ``out``: ``last.ckpt`` (to resume from),
    ``losses.csv``, ``validation.csv`` and ``tensorboard/``.

    model: what is trained. average: its moving average, what is exported and handed on. step: optimiser steps done.
    """

    def __init__(self, objective: Objective, model: Model, out: Path) -> None:
        shared = {id(module): module.requires_grad_(False) for module in objective.frozen(model)}
        self.objective, self.model, self.out = objective, model, out
        self.average = copy.deepcopy(model, shared).requires_grad_(False).eval()  # what is frozen is shared
        self.step = 0
        self._restored: dict[str, Any] = {}

    @property
    def checkpoint(self) -> Path:
        """What :meth:`resume` goes on from."""
        return self.out / CHECKPOINT

    def resume(self) -> int:
        """Take the weights of the checkpoint, so that :meth:`train` goes on from there; returns its step.

        Raises:
            InputError: there is none. WeightsError: it is damaged, or another run's.
        """
        self._restored = restore(self.checkpoint, self.objective, self.model, self.average)
        self.step = self._restored["step"]
        return self.step

    def validate(self) -> dict[str, float]:
        """Figures of the averaged model on the validation splits."""
        return self.measure(self.average)

    @abstractmethod
    def measure(self, model: Any) -> dict[str, float]:
        """Figures of a model on the validation splits."""

    def train(
        self,
        options: LoopOptions | None = None,
        *,
        progress: Callable[[int, dict[str, float]], None] | None = None,
    ) -> int:
        """Train to the recipe's last step, from the checkpoint's where :meth:`resume` was called before.

        Args:
            progress: called in process 0 with a step and its row of ``losses.csv``, each time one is written.

        Returns:
            the steps done: fewer than the objective's where the run was told to stop (SIGTERM, Ctrl-C).

        Raises:
            InputError: options that do not go together, or ``last.ckpt`` is there and :meth:`resume` was not called.
            SatTxtError: the loss became NaN or infinite; the message names the tiles.
            DiskFullError: no space is left; the previous checkpoint is kept.
        """
        options, objective, average, out = options or LoopOptions(), self.objective, self.average, self.out
        state, self._restored = self._restored, {}
        check_start(out, options, resume=bool(state))
        board = open_tensorboard(out / "tensorboard") if options.tensorboard and ranks.rank() == 0 else None
        identity, kept = run_identity(objective, self.model), trained_names(objective, self.model)
        config, steps = objective.config, objective.config.steps
        losses_log, validation_log = CsvLog(out / "losses.csv", board), CsvLog(out / "validation.csv", board)
        device = ranks.join()
        with ranks.stop_on_signal() as stop_asked:
            if device.type == "cpu":
                ranks.keep_freed_memory()
            objective.prepare(self.model, out, device)
            trained = copy.deepcopy(self.model) if options.shard else self.model
            network = ranks.connect(_Stepper(objective, trained), device, shard=options.shard)
            average.to(device)
            optimizer = torch.optim.AdamW(objective.groups(trained), betas=(0.9, 0.98))
            rates = [group["lr"] for group in optimizer.param_groups]
            meter, main, done = LossMeter(**state.get("losses", {})), ranks.rank() == 0, state.get("step", 0)
            if state:
                set_optimizer_state_dict(trained, optimizer, state.pop("optimizer"), options=_WHOLE)

            def save() -> None:
                weights = get_model_state_dict(trained, options=_WHOLE)  # every process takes part, process 0 gets all
                moments = get_optimizer_state_dict(trained, optimizer, options=_WHOLE)
                if main:
                    content = {"run": identity, "step": done, "optimizer": moments, "losses": meter.state()}
                    parts = {"model": weights, "average": average.state_dict()}
                    content |= {name: {k: v for k, v in part.items() if k in kept} for name, part in parts.items()}
                    write_checkpoint(self.checkpoint, content)

            def measure() -> None:
                if main and done and (done == steps or done % options.validate_every == 0):
                    figures = self.measure(average)
                    if figures:
                        validation_log.write(step=done, **figures)
                        log.info("step %d: %s", done, figures)

            if main:
                losses_log.rewind(done)
                if done not in validation_log.rewind(done):
                    measure()  # the run was stopped between the step's checkpoint and its figures
            batches = iter(DataLoader(StepBatches(objective, done), batch_size=None, num_workers=options.workers))
            stopped = False
            while done < steps and not stopped:
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * _warmup_cosine(done, config.warmup, steps)
                network.train()
                for module in objective.in_eval_mode(trained):
                    module.eval()
                statistics: dict[str, list[Tensor]] = defaultdict(list)
                for micro in range(config.accumulate):
                    batch: Batch = next(batches).to(device)
                    with ranks.gradients_of(network, micro + 1 == config.accumulate):
                        found: StepLosses = network(batch)
                        _check_finite(found.total, batch, objective)
                        (found.total / config.accumulate).backward()  # type: ignore[no-untyped-call]
                    meter.add(found.terms, len(batch) * ranks.ranks())
                    for name, value in found.statistics.items():
                        statistics[name].append(value)
                nn.utils.clip_grad_norm_([p for p in trained.parameters() if p.grad is not None], config.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                means = {name: ranks.mean(torch.stack(values)) for name, values in statistics.items()}
                objective.after_step(trained, means)
                _update_average(average, trained, config.ema, done)
                done += 1
                if done == steps or done % options.log_every == 0:
                    row = meter.row(done, optimizer.param_groups[-1]["lr"])  # of the last group, the heads
                    if main:
                        losses_log.write(**row)
                        if progress is not None:
                            progress(done, row)
                stopped = ranks.any_rank(stop_asked(), device)
                if stopped or done == steps or done % options.checkpoint_every == 0:
                    save()
                measure()  # after the checkpoint: what takes minutes must not cost the step
        ranks.wait()  # for the last checkpoint
        self.model.cpu()
        average.cpu()
        return self.resume() if self.checkpoint.is_file() else done  # sharded weights are in the checkpoint alone


class _Stepper(nn.Module):
    """An objective's losses as a module's forward pass, as DDP and FSDP need them."""

    def __init__(self, objective: Objective, model: nn.Module) -> None:
        super().__init__()
        self.objective, self.model = objective, model

    def forward(self, batch: Batch) -> StepLosses:
        """The losses on ``batch``; only the total has a gradient."""
        total, *others = self.objective.losses(self.model, batch)
        terms, statistics = ({name: value.detach() for name, value in part.items()} for part in others)
        return StepLosses(total, terms, statistics)


class StepBatches(IterableDataset[Batch]):
    """The micro-batches of this process from step ``start`` on, in order and without end.

    Loader workers take turns, so that what comes out is in order whatever their number.
    """

    def __init__(self, objective: Objective, start: int) -> None:
        super().__init__()
        self.objective, self.start = objective, start

    def __iter__(self) -> Iterator[Batch]:
        worker, accumulate = get_worker_info(), self.objective.config.accumulate
        turn, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for position in itertools.count(self.start * accumulate + turn, workers):
            yield self.objective.draw(*divmod(position, accumulate), ranks.rank(), ranks.ranks())


def _check_finite(loss: Tensor, batch: Batch, objective: Objective) -> None:
    if not bool(torch.isfinite(loss)):
        raise SatTxtError(
            f"step {batch.step}: the loss is {float(loss.detach())} on {objective.describe(batch.parts)}; look at "
            "these tiles, or start again in another run folder with a lower learning rate"
        )


def _warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Factor on the learning rate: linear over ``warmup`` steps, then a cosine to a hundredth at ``steps``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move ``average``'s parameters towards ``model``'s (exponential moving average); buffers are copied.

    Early on the decay is lower, (1 + step) / (10 + step), so that the random start is forgotten. What is frozen is left
    alone.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for target, source in zip(average.parameters(), model.parameters(), strict=True):
        if source.requires_grad:
            target.lerp_(ranks.whole(source), 1 - decay)
    for kept, current in zip(average.buffers(), model.buffers(), strict=True):
        if kept is not current:
            kept.copy_(current)
