"""``last.ckpt``: what a run goes on from. It is replaced whole or not at all, and reading it executes nothing.

It holds the run's identity, the step, the trained part of the model and of its moving average, the optimizer's state,
and the losses since the last row of the log. What is frozen stays out: the run starts from it again.
"""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sattxt.errors import InputError, WeightsError
from sattxt.io import atomic_write, first_line
from sattxt.training.objectives.base import Objective
from sattxt.weights.tensors import check_tensors

CHECKPOINT = "last.ckpt"
_KEYS = {"run", "step", "model", "average", "optimizer", "losses"}


def check_folder(out: Path, *, resume: bool) -> None:
    """Raise InputError unless a run may start in ``out``, or go on there. It is cheap: ask before reading data."""
    path = out / CHECKPOINT
    if resume and not path.is_file():
        raise InputError(f"{path}: no checkpoint of a run; pass another folder, or start one without --resume")
    if not resume and path.exists():
        raise InputError(f"{path}: a run is here already; go on with --resume, or pass another folder")


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint in one move.

    Raises:
        DiskFullError: no space is left; the previous checkpoint is kept.
    """
    with atomic_write(path) as file:
        content = io.BytesIO()  # torch hides the operating system's error when it writes to a full disk itself
        torch.save(dict(state), content)
        file.write(content.getbuffer())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A run's checkpoint, on the CPU.

    Raises:
        InputError: there is none. WeightsError: it is damaged, or another program's.
    """
    check_folder(path.parent, resume=True)
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at its checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if not set(state) >= _KEYS:
            raise ValueError("keys are missing")
    except Exception as error:  # torch.load raises many kinds for a damaged file
        line = "another program's" if isinstance(error, pickle.UnpicklingError) else first_line(error)
        raise WeightsError(
            f"{path}: not a checkpoint of a run ({line}); delete it to start again, or pass another run folder"
        ) from error
    return state


def restore(path: Path, objective: Objective, model: nn.Module, average: nn.Module) -> dict[str, Any]:
    """Put the weights of a checkpoint into ``model`` and its moving average; returns the whole checkpoint.

    Raises:
        InputError: there is none. WeightsError: it is damaged, or of a run with another objective, data or weights.
    """
    state, here = read_checkpoint(path), run_identity(objective, model)
    written = state["run"]
    for key in [*here, *written]:
        if written.get(key) != here.get(key):
            raise WeightsError(
                f"{path}: was written with {key}={written.get(key)!r}, this run has {here.get(key)!r}; pass what it "
                "was written with, or another run folder"
            )
    due, shapes = trained_names(objective, model), model.state_dict()
    for module, saved in ((model, state["model"]), (average, state["average"])):
        check_tensors(saved, {name: shapes[name].shape for name in due}, f"{path}: not a checkpoint of this model")
        module.load_state_dict(saved, strict=False)
    return state


def run_identity(objective: Objective, model: nn.Module) -> dict[str, Any]:
    """What a checkpoint must agree with to be resumed: the objective's part, and a checksum of what is frozen."""
    trained = trained_names(objective, model)
    frozen = {name: value for name, value in model.state_dict().items() if name not in trained}
    return {**objective.identity(), "frozen_weights": checksum(frozen)}


def trained_names(objective: Objective, model: nn.Module) -> set[str]:
    """The names in ``model``'s state dict of all that is not frozen."""
    frozen = {id(module) for module in objective.frozen(model)}
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if id(module) in frozen)
    return {name for name in model.state_dict() if not (prefixes and name.startswith(prefixes))}


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of the tensors' values, in the order of their names."""
    check = 0
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous().reshape(-1)
        check = zlib.crc32(values.view(torch.uint8).numpy().data, check)
    return check
