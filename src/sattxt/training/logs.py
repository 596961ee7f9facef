"""Logs of a run: rows of a CSV file, and the same figures for TensorBoard."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from sattxt.errors import InputError
from sattxt.io import atomic_write, disk_errors


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
