"""A result: one JSON document with what was measured, on what, by what, and each sample's part in it."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import sattxt
from sattxt.errors import InputError
from sattxt.evaluation.metrics import Figure, interval
from sattxt.images.load import Failure

FORMAT = 1
DECIMALS = 4
_PACKAGES = ("torch", "transformers", "numpy", "pillow", "scikit-learn", "open_clip_torch")
SHOWN_SKIPPED = 20  # images left out that the document names
_LARGEST_SAMPLES = 2_000_000  # numbers of one figure that go into the document


@dataclass
class Result:
    """What one run of a task found.

    figures: headline numbers, percent where they are shares (``ece`` and R2 are not). tables: lists of rows.
    samples: for each figure that can be resampled, what every sample (``ids``) adds to it.
    skipped: images that could not be read and have no part in it.
    """

    task: str
    model: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    samples: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: Sequence[Failure] = ()
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. The figures stand at the top level, beside ``n``: ``result["top1"]``."""
        intervals = {name: [_round(v) for v in interval(figure)] for name, figure in self.samples.items()}
        return {
            "format": FORMAT,
            "task": self.task,
            "n": self.data.get("n"),
            **{name: _plain(value) for name, value in self.figures.items()},
            "ci95": intervals,
            "model": self.model,
            "data": self.data,
            "skipped": {
                "count": len(self.skipped),
                "first": [{"name": f.source, "error": f.error} for f in self.skipped[:SHOWN_SKIPPED]],
            },
            "settings": self.settings,
            **{name: [_plain(row) for row in rows] for name, rows in self.tables.items()},
            "notes": self.notes,
            "command": self.command,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "environment": environment(),
            "samples": self._samples(),
        }

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON document; what is per sample takes one line a figure.

        Raises:
            InputError: it cannot be written there.
        """
        target = Path(path)
        try:
            target.write_text(dump(self.to_dict()), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{target}: cannot be written ({error.strerror or error})") from error
        return target

    def _samples(self) -> dict[str, Any]:
        kept = {name: f for name, f in self.samples.items() if f.above.size <= _LARGEST_SAMPLES}
        return {"ids": self.ids, "figures": {name: _packed(figure) for name, figure in kept.items()}} if kept else {}


def dump(document: dict[str, Any]) -> str:
    """A result's JSON text: indented, but long lists of numbers and each row of a table on one line."""
    lines = []
    for key, value in document.items():
        if key == "samples" and value:
            inner = [f'"ids": {_compact(value["ids"])}']
            inner += [f"{json.dumps(name)}: {_compact(figure)}" for name, figure in value["figures"].items()]
            text = "{\n    " + inner[0] + ',\n    "figures": {\n      ' + ",\n      ".join(inner[1:]) + "\n    }\n  }"
        elif isinstance(value, list) and value and isinstance(value[0], dict | list):
            text = "[\n    " + ",\n    ".join(_compact(row) for row in value) + "\n  ]"
        else:
            text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False).replace("\n", "\n  ")
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A result's document.

    Raises:
        InputError: it is none, or of a newer format.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a result ({error})") from error
    if not isinstance(found, dict) or "task" not in found or "format" not in found:
        raise InputError(f"{path}: is no result of 'sattxt eval'")
    if found["format"] != FORMAT:
        raise InputError(f"{path}: has format {found['format']!r}, this sattxt reads {FORMAT}; measure again")
    return found


def sample_figures(document: dict[str, Any]) -> tuple[list[str], dict[str, Figure]]:
    """The ids of a document's samples, and its figures with what each of these adds to them."""
    kept = document.get("samples") or {}
    return list(kept.get("ids", [])), {name: _unpacked(packed) for name, packed in kept.get("figures", {}).items()}


def environment() -> dict[str, Any]:
    """Versions, and the class of machine (no names)."""
    versions = {"sattxt": sattxt.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = {"system": platform.system(), "cpu": _cpu(), "cores": cores}
    import torch

    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return {"versions": versions, "machine": machine}


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    except OSError:
        match = None
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def _packed(figure: Figure) -> dict[str, Any]:
    """Columns of numbers; a denominator that is 1 for every sample is left out, and a group a sample is one column."""
    packed: dict[str, Any] = {"scale": figure.scale, "complement": figure.complement}
    members = figure.below != 0
    if figure.below.shape[1] > 1 and (members.sum(axis=1) == 1).all() and (figure.below[members] == 1).all():
        packed["groups"] = members.argmax(axis=1).tolist()
        packed["values"] = [_number(v) for v in figure.above.sum(axis=1)]
        packed["count"] = figure.below.shape[1]
        return packed
    packed["above"] = [[_number(v) for v in column] for column in figure.above.T]
    if not (figure.below == 1).all():
        packed["below"] = [[_number(v) for v in column] for column in figure.below.T]
    return packed


def _unpacked(packed: dict[str, Any]) -> Figure:
    scale, complement = float(packed["scale"]), bool(packed["complement"])
    if "groups" in packed:
        return Figure.group_mean(np.array(packed["values"]), np.array(packed["groups"]), packed["count"], scale)
    above = np.array(packed["above"], dtype=float).T
    below = np.array(packed["below"], dtype=float).T if "below" in packed else np.ones_like(above)
    return Figure(above, below, scale, complement)


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(f"{value:.9g}")


def _round(value: float) -> float | None:
    return round(float(value), DECIMALS) if np.isfinite(value) else None


def _plain(value: Any) -> Any:
    """Numbers rounded, numpy gone, NaN null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return _round(value) if isinstance(value, float) else value


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))


def percent(values: Sequence[Any] | Any) -> float:
    """The mean as a percentage."""
    return float(100 * np.mean(np.asarray(values, dtype=float)))
