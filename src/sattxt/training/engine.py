"""Training by Lightning: one trainer for both stages, its checkpoints, and the options that it takes."""

from __future__ import annotations

import inspect
import logging
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sattxt.errors import InputError, MissingExtraError, WeightsError
from sattxt.io import first_line
from sattxt.training.objectives.base import Objective
from sattxt.vision.device import resolve_device

CHECKPOINT = "last.ckpt"


@dataclass(frozen=True)
class EngineOptions:
    """How a run is carried out; none of it changes what is learnt, except the number of ranks.

    devices: how many on each of ``nodes`` machines (``"auto"``: all there are), one rank each. accelerator: ``auto``,
    ``cpu``, ``gpu``. strategy: Lightning's name of one: ``auto``, ``ddp``, ``fsdp``, ... workers: processes a rank that
    draw batches ahead. checkpoint_every, validate_every, log_every: in steps. tensorboard: write its logs too.
    """

    devices: int | str = 1
    nodes: int = 1
    accelerator: str = "auto"
    strategy: str = "auto"
    workers: int = 0
    checkpoint_every: int = 200
    validate_every: int = 500
    log_every: int = 20
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("nodes", "checkpoint_every", "validate_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: pass 1 or more")
        if self.workers < 0:
            raise InputError(f"workers={self.workers}: pass 0 or more")


def fit(
    objective: Objective,
    model: nn.Module,
    average: nn.Module,
    out: Path,
    options: EngineOptions,
    *,
    resume: bool = False,
    validate: Callable[[Any], Mapping[str, float]] | None = None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> int:
    """Train ``model`` to the objective's last step; its moving average goes to ``average``.

    Args:
        average: a copy of ``model``, from :func:`sattxt.training.callbacks.shared_copy`.
        out: folder for ``last.ckpt``, ``losses.csv``, ``validation.csv`` and ``tensorboard/``.
        resume: go on from ``last.ckpt``.
        validate: figures of the averaged model, called on the first rank.
        progress: called on the first rank with a step and the means of its losses.

    Returns:
        the steps done: fewer than the objective's where the run was told to stop (SIGTERM, Ctrl-C).

    Raises:
        MissingExtraError: Lightning is not installed.
        InputError: options that do not go together, or ``last.ckpt`` is there (or not there) against ``resume``.
        WeightsError: ``last.ckpt`` is damaged, or of another run.
        SatTxtError: the loss became NaN or infinite.
        DiskFullError: no space is left; the previous checkpoint is kept.
    """
    require_lightning()
    import lightning as L

    from sattxt.training.batches import StepData
    from sattxt.training.callbacks import AverageWeights, Checkpoints, LossLog, Validation
    from sattxt.training.logs import TensorBoardLog
    from sattxt.training.memory import keep_freed_memory
    from sattxt.training.module import TrainingModule

    path, steps = out / CHECKPOINT, objective.step_config.steps
    module = TrainingModule(objective, model)
    check_folder(out, resume=resume)
    if resume:
        check_checkpoint(read_checkpoint(path), module.identity, path)
    device = resolve_device("cpu" if options.accelerator == "cpu" else None)
    if device.type == "cpu":
        keep_freed_memory()
    objective.prepare(model, out, device)
    board = TensorBoardLog(out / "tensorboard") if options.tensorboard else None
    callbacks: list[L.Callback] = [
        AverageWeights(objective, average),
        LossLog(out / "losses.csv", options.log_every, board, progress),
    ]
    callbacks.append(Checkpoints(path, options.checkpoint_every))
    if validate is not None:  # after the checkpoint: what it takes minutes to measure must not cost the step
        callbacks.append(Validation(out / "validation.csv", options.validate_every, average, validate, board))
    with _quiet():
        trainer = _trainer(
            options,
            max_steps=steps,
            accumulate_grad_batches=objective.step_config.accumulate,
            callbacks=callbacks,
            default_root_dir=str(out),
        )
        safe = (
            {"weights_only": True} if "weights_only" in inspect.signature(trainer.fit).parameters else {}
        )  # from 2.6 on
        data = StepData(objective, options.workers)
        trainer.fit(module, datamodule=data, ckpt_path=str(path) if resume else None, **safe)
        return trainer.global_step


def require_lightning() -> None:
    """Raise MissingExtraError unless Lightning can be imported."""
    try:
        import lightning  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("train", "lightning", "training") from error


def check_options(options: EngineOptions) -> None:
    """Raise InputError where devices, nodes, accelerator and strategy do not go together on this machine; cheap, so ask
    before texts are encoded.
    """
    require_lightning()
    with _quiet():
        _trainer(options)


def _trainer(options: EngineOptions, **more: Any) -> Any:
    import lightning as L
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        return L.Trainer(
            accelerator=options.accelerator,
            devices=int(options.devices) if str(options.devices).lstrip("-").isdigit() else options.devices,
            num_nodes=options.nodes,
            strategy=options.strategy,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **more,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".!")
        raise InputError(
            f"devices, nodes, accelerator or strategy: {reason}; leave them out to train on one device, or pass "
            "--accelerator cpu with several processes"
        ) from error


def check_folder(out: Path, *, resume: bool) -> None:
    """Raise InputError unless a run may start in ``out``, or go on there; cheap, so ask before texts are encoded."""
    path = out / CHECKPOINT
    if resume and not path.is_file():
        raise InputError(f"{path}: no checkpoint to resume from; start without --resume")
    if not resume and path.exists():
        raise InputError(f"{path}: a run is here already; go on with --resume, or pass another folder")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A run's checkpoint, on the CPU. Nothing in it is executed.

    Raises:
        InputError: there is none. WeightsError: it is damaged, or another program's.
    """
    if not path.is_file():
        raise InputError(f"{path}: no checkpoint to resume from; start without --resume")
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at its checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if not {"sattxt", "state_dict", "callbacks", "global_step"} <= set(state):
            raise ValueError("keys are missing")
    except Exception as error:  # torch.load raises many kinds for a damaged file
        foreign = isinstance(error, pickle.UnpicklingError)
        line = "another program's" if foreign else first_line(error)
        raise WeightsError(
            f"{path}: not a checkpoint of a run ({line}); delete it to start again, or pass another run folder"
        ) from error
    return state


def check_checkpoint(state: Mapping[str, Any], here: Mapping[str, Any], path: Path) -> None:
    """Raise WeightsError unless ``state`` is of the run whose ``TrainingModule.identity`` is ``here``."""
    written = state["sattxt"]
    for key in [*here, *written]:
        if written.get(key) != here.get(key):
            raise WeightsError(
                f"{path}: was written with {key}={written.get(key)!r}, this run has {here.get(key)!r}; pass what it "
                "was written with, or another run folder"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's notes and advice; warnings and errors of this library are its own."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings(
                "ignore", message=r".*(isinstance\(treespec, LeafSpec\)|does not have many workers).*"
            )
            yield
    finally:
        log.setLevel(level)
