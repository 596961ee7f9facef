"""Logs of a run: CSV files, and TensorBoard where it is asked for."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sattxt.errors import InputError
from sattxt.io import disk_errors


class CsvLog:
    """Rows of figures, appended one by one; every row has a ``step``.

    Raises (from every method):
        DiskFullError: no space is left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **values: Any) -> None:
        """Append one row. The header is the keys of the file's first row; values under other keys are left out."""
        with disk_errors(self.path), self.path.open("a+", newline="", encoding="utf-8") as handle:
            handle.seek(0)
            header = next(csv.reader(handle), None)
            writer = csv.DictWriter(handle, header or list(values), extrasaction="ignore", lineterminator="\n")
            if header is None:
                writer.writeheader()
            writer.writerow(values)

    def has(self, step: int) -> bool:
        """Whether there is a row of this step."""
        if not self.path.is_file():
            return False
        with self.path.open(newline="", encoding="utf-8") as handle:
            return any(int(row["step"]) == step for row in csv.DictReader(handle))

    def rewind(self, step: int) -> None:
        """Drop the rows after ``step``: the run goes on from there."""
        if not self.path.is_file():
            return
        with self.path.open(newline="", encoding="utf-8") as handle:
            rows = [row for row in csv.DictReader(handle) if int(row["step"]) <= step]
        with disk_errors(self.path):
            self.path.unlink()
            for row in rows:
                self.write(**row)


class TensorBoardLog:
    """Scalars for TensorBoard, below ``folder``.

    Raises:
        InputError: the package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise InputError("TensorBoard logs need the package 'tensorboard': pip install tensorboard")
        self._folder = folder
        self._writer: Any = None

    def write(self, step: int, prefix: str, values: dict[str, Any]) -> None:
        """One point for each value."""
        if self._writer is None:  # not before the first figure: ranks other than 0 write none
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        for name, value in values.items():
            self._writer.add_scalar(f"{prefix}/{name}", float(value), step)
        self._writer.flush()
