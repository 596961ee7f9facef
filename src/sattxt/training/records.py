"""What a run writes into its folder: ``last.ckpt``, from which it goes on, and its logs.

The checkpoint holds the run's identity, the step, the trained part of the model and of its moving average, the
optimizer's state, and the losses since the last row of the log. What is frozen stays out: the run starts from it again.
It is replaced whole or not at all, and reading it executes nothing.
"""

from __future__ import annotations

import csv
import io
import pickle
import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sattxt.errors import InputError, WeightsError
from sattxt.io import atomic_write, disk_errors, first_line
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


class CsvLog:
    """Rows of figures, appended one by one; every row has a ``step``.

    Args:
        board: a TensorBoard writer, which gets the figures of each row below the file's name.

    Raises (from every method):
        DiskFullError: no space is left.
    """

    def __init__(self, path: Path, board: Any = None) -> None:
        self.path, self._board = path, board

    def write(self, **values: Any) -> None:
        """Append a row. The header is the keys of the file's first row; values under other keys are left out."""
        with disk_errors(self.path), self.path.open("a+", newline="", encoding="utf-8") as handle:
            handle.seek(0)
            header = next(csv.reader(handle), None)
            writer = csv.DictWriter(handle, header or list(values), extrasaction="ignore", lineterminator="\n")
            if header is None:
                writer.writeheader()
            writer.writerow(values)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{self.path.stem}/{name}", float(value), values["step"])
            self._board.flush()

    def rewind(self, step: int) -> set[int]:
        """Drop the rows after ``step``, from which the run goes on; returns the steps that have a row."""
        if not self.path.is_file():
            return set()
        with self.path.open(newline="", encoding="utf-8") as handle:
            header, *rows = csv.reader(handle)
        column = header.index("step")
        kept = [row for row in rows if len(row) == len(header) and int(row[column]) <= step]
        with atomic_write(self.path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
            csv.writer(text, lineterminator="\n").writerows([header, *kept])
        return {int(row[column]) for row in kept}


def open_tensorboard(folder: Path) -> Any:
    """A TensorBoard writer below ``folder``.

    Raises:
        InputError: the package ``tensorboard`` is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("TensorBoard logs need the package 'tensorboard': pip install tensorboard") from error
    return SummaryWriter(str(folder))


@dataclass
class LossMeter:
    """Losses since the last row of the log. Its fields go into checkpoints, so that a resumed run writes the rows that
    it would have written without the stop.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)  # of the losses, by name
    micro: int = 0  # micro-batches
    tiles: int = 0
    seconds: float = 0.0  # of training since its first step, resumed runs included
    last: float = 0.0  # seconds at the last row

    def __post_init__(self) -> None:
        self._clock = time.monotonic()

    def add(self, terms: Mapping[str, Tensor], tiles: int) -> None:
        """Count the losses of a micro-batch of ``tiles`` tiles, over all processes."""
        for name, value in terms.items():
            self.sums[name] = self.sums[name].to(value) + value if name in self.sums else value
        self.micro += 1
        self.tiles += tiles

    def state(self) -> dict[str, Any]:
        """The fields, for a checkpoint."""
        before, self._clock = self._clock, time.monotonic()
        self.seconds += self._clock - before
        return asdict(self)

    def row(self, step: int, rate: float) -> dict[str, float]:
        """The row after ``step`` steps: ``seconds`` of training, means of the losses, the learning rate, tiles/s."""
        self.state()
        means = {name: round(float(value) / self.micro, 6) for name, value in self.sums.items()}
        speed = round(self.tiles / max(self.seconds - self.last, 1e-9), 1)
        self.sums, self.micro, self.tiles, self.last = {}, 0, 0, self.seconds
        start: dict[str, float] = {"seconds": round(self.seconds, 1), "step": step}
        return {**start, **means, "lr": float(f"{rate:.6g}"), "tiles_per_s": speed}
