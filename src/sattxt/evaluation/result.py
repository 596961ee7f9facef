"""A result: one JSON document with what was measured, on what, by what, and each sample's part; and two compared."""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import sattxt
from sattxt.data.dataset import Samples
from sattxt.errors import InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.metrics import (
    Figure,
    average_precisions,
    interval,
    label_ranking_precision,
    paired_difference,
    percent,
    sklearn,
)
from sattxt.io import atomic_write
from sattxt.vision.embeddings import FloatArray

FORMAT = 1
DECIMALS = 4
_PACKAGES = ("torch", "transformers", "numpy", "pillow", "scikit-learn", "open_clip_torch")
_SHOWN_SKIPPED = 20  # images left out that the document names
_LARGEST_SAMPLES = 2_000_000  # numbers of one figure that go into the document


@dataclass
class Result:
    """What one run of a task found.

    data: what was measured on. figures: headline numbers, percent where they are shares (``ece`` and R2 are not).
    tables: lists of rows. samples: for each figure that can be resampled, what every sample adds to it.
    ids: the names of these samples; by default the data's. embedder: knows the model, and which images were left out.
    """

    task: str
    embedder: Embedder
    data: Samples
    settings: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[Any]] = field(default_factory=dict)
    samples: dict[str, Figure] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    command: str = ""

    def add(self, name: str, figure: Figure) -> None:
        """Report a figure that can be resampled."""
        self.samples[name] = figure
        self.figures[name] = figure.value

    def add_precisions(self, scores: FloatArray, prefix: str = "") -> None:
        """Report mean average precision, macro and micro, and label ranking precision of (N, K) scores."""
        truth = self.data.indicators
        micro = sklearn("metrics").average_precision_score(truth.ravel(), scores.ravel())
        self.figures[f"{prefix}map_macro"] = percent(average_precisions(scores, truth))
        self.figures[f"{prefix}map_micro"] = 100 * micro
        self.add(f"{prefix}label_ranking_precision", Figure.mean(label_ranking_precision(scores, truth)))

    @property
    def title(self) -> str:
        """Model and data, for a picture."""
        return f"{self.embedder.encoder.name} on {self.data.name}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. The figures stand at the top level, beside ``n``: ``result["top1"]``."""
        kept = {name: f.to_dict() for name, f in self.samples.items() if f.above.size <= _LARGEST_SAMPLES}
        ids = self.ids or [sample.id for sample in self.data.samples]
        skipped = self.embedder.skipped
        first = [{"name": f.source, "error": f.error} for f in skipped[:_SHOWN_SKIPPED]]
        document = {
            "format": FORMAT,
            "task": self.task,
            "n": len(self.data),
            **self.figures,
            "ci95": {name: interval(figure) for name, figure in self.samples.items()},
            "model": self.embedder.encoder.describe(),
            "data": self.data.describe(),
            "skipped": {"count": len(skipped), "first": first},
            "settings": self.settings,
            **self.tables,
            "notes": self.notes,
            "command": self.command,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "environment": environment(),
        }
        return plain(document) | {"samples": {"ids": ids, "figures": kept} if kept else {}}


def dump(document: dict[str, Any]) -> str:
    """JSON text with one line for each entry of the document."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_result(path: Path, document: dict[str, Any]) -> Path:
    """Write a result's document, and give back where.

    Raises:
        WeightsError: it cannot be written there. DiskFullError: no space is left.
    """
    with atomic_write(path) as file:
        file.write(dump(document).encode())
    return path


def read_result(path: Path) -> dict[str, Any]:
    """A result's document.

    Raises:
        InputError: it is none, or of another format.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a result ({error})") from error
    if not isinstance(found, dict) or "task" not in found or found.get("format") != FORMAT:
        raise InputError(f"{path}: is no result of 'sattxt eval' in format {FORMAT}; measure again")
    return found


def environment() -> dict[str, Any]:
    """Versions, and the class of machine (no names)."""
    import torch

    versions = {"sattxt": sattxt.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = {"system": platform.system(), "cpu": _cpu(), "cores": cores}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return {"versions": versions, "machine": machine}


def plain(value: Any) -> Any:
    """JSON-ready: numbers rounded to four decimals, no numpy types, ``None`` for what is not finite."""
    return json.loads(
        json.dumps(value, default=lambda array: array.tolist()),
        parse_float=lambda digits: round(float(digits), DECIMALS),
        parse_constant=lambda name: None,
    )


def _cpu() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Compare two documents of :func:`~sattxt.evaluation.result.read_result`; JSON-ready.

    Figures that are sums over samples are computed on the samples that both have, and resampled in pairs.

    Raises:
        InputError: they are of different tasks, or of different data sets without a common sample.
    """
    if a["task"] != b["task"]:
        raise InputError(f"one result is of {a['task']}, the other of {b['task']}: nothing to compare")
    ids, other_ids = (document["samples"].get("ids", []) for document in (a, b))
    place = {name: i for i, name in enumerate(other_ids)}
    rows_a = [i for i, name in enumerate(ids) if name in place]
    rows_b = [place[ids[i]] for i in rows_a]
    same_data = a["data"]["fingerprint"] == b["data"]["fingerprint"]
    if not rows_a and not same_data:
        raise InputError(f"the results are of different images: {a['data']['name']} and {b['data']['name']}")
    names = list(a)[list(a).index("n") + 1 : list(a).index("ci95")]
    figures = []
    for name in (key for key in names if isinstance(a[key], int | float) and isinstance(b.get(key), int | float)):
        row = {"figure": name, "a": a[name], "b": b[name], "difference": b[name] - a[name]}
        row |= dict.fromkeys(("low", "high", "p"))
        packed = [document["samples"].get("figures", {}).get(name) for document in (a, b)]
        if rows_a and all(packed):
            one, other = (Figure.from_dict(p).take(rows) for p, rows in zip(packed, (rows_a, rows_b), strict=True))
            row |= {"a": one.value, "b": other.value, **paired_difference(one, other)}
        figures.append(row)
    warnings = [] if same_data else ["the data differ (images, labels or how they are read)"]
    most = max(len(ids), len(other_ids))
    if len(rows_a) < most:
        warnings.append(
            f"only {len(rows_a)} of up to {most} samples are in both; figures with an interval are of these"
        )
    for key in ("templates", "names_from", "queries"):
        left, right = (document["settings"].get(key) for document in (a, b))
        warnings += [f"{key} differ: {left} and {right}"] if left != right else []
    sides = [
        {
            "model": document["model"]["name"],
            "fingerprint": document["model"]["fingerprint"],
            "n": document["n"],
            "command": document["command"],
        }
        for document in (a, b)
    ]
    return plain(
        {
            "task": a["task"],
            "data": a["data"]["name"],
            "paired": len(rows_a),
            "a": sides[0],
            "b": sides[1],
            "warnings": warnings,
            "figures": figures,
        }
    )
