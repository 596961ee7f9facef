"""Logs of a run: rows of a CSV file, and the same figures for TensorBoard."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
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
            rows = csv.DictReader(handle)
            kept = [row for row in rows if None not in row.values() and int(row["step"]) <= step]
        text = io.StringIO()
        writer = csv.DictWriter(text, rows.fieldnames or [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        with atomic_write(self.path) as file:
            file.write(text.getvalue().encode() if kept else b"")
        return {int(row["step"]) for row in kept}


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


class LossMeter:
    """Losses since the last row of the log. Its state goes into checkpoints, so that a resumed run writes the rows that
    it would have written without the stop.
    """

    def __init__(self) -> None:
        self._seconds = 0.0  # of training, resumed runs included
        self._since = time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._micro, self._tiles, self._window = 0, 0, 0.0

    def add(self, terms: Mapping[str, Tensor], tiles: int) -> None:
        """The losses of a micro-batch of ``tiles`` tiles, over all processes."""
        for name, value in terms.items():
            self._sums[name] = self._sums[name].to(value) + value if name in self._sums else value
        self._micro += 1
        self._tiles += tiles

    def row(self, step: int, rate: float) -> dict[str, float]:
        """The row after ``step`` steps: ``seconds`` of training, means of the losses, the learning rate, tiles/s."""
        self._tick()
        means = {name: round(float(value) / self._micro, 6) for name, value in self._sums.items()}
        speed = round(self._tiles / max(self._window, 1e-9), 1)
        self._clear()
        start: dict[str, float] = {"seconds": round(self._seconds, 1), "step": step}
        return {**start, **means, "lr": float(f"{rate:.6g}"), "tiles_per_s": speed}

    def state_dict(self) -> dict[str, Any]:
        """Sums and times, for a checkpoint."""
        self._tick()
        sums = {name: value.cpu() for name, value in self._sums.items()}
        counts = {"micro": self._micro, "tiles": self._tiles, "window": self._window, "seconds": self._seconds}
        return {"sums": sums, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        self._sums, self._micro, self._tiles = dict(state["sums"]), state["micro"], state["tiles"]
        self._window, self._seconds = state["window"], state["seconds"]

    def _tick(self) -> None:
        now = time.monotonic()
        self._seconds, self._window = self._seconds + now - self._since, self._window + now - self._since
        self._since = now
