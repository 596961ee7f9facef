"""Two results side by side, paired sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from sattxt.errors import InputError
from sattxt.evaluation.metrics import paired_difference
from sattxt.evaluation.result import DECIMALS, sample_figures


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Compare two documents of :func:`~sattxt.evaluation.result.read_result`; JSON-ready.

    Figures that are sums over samples are computed on the samples that both have, and resampled in pairs.

    Raises:
        InputError: they are of different tasks, or of different data sets without a common sample.
    """
    if a["task"] != b["task"]:
        raise InputError(f"one result is of {a['task']}, the other of {b['task']}: nothing to compare")
    ids_a, figures_a = sample_figures(a)
    ids_b, figures_b = sample_figures(b)
    place = {name: i for i, name in enumerate(ids_b)}
    common = [(i, place[name]) for i, name in enumerate(ids_a) if name in place]
    same_data = a["data"]["fingerprint"] == b["data"]["fingerprint"]
    if not common and not same_data:
        raise InputError(f"the results are of different images: {a['data']['name']} and {b['data']['name']}")
    take_a, take_b = (np.array(side, dtype=int) for side in (zip(*common, strict=True) if common else ((), ())))
    rows = []
    for name in _figure_names(a, b):
        row: dict[str, Any] = {"figure": name, "a": a[name], "b": b[name], "low": None, "high": None, "p": None}
        row["difference"] = _rounded(b[name] - a[name])
        if common and name in figures_a and name in figures_b:
            left, right = figures_a[name].take(take_a), figures_b[name].take(take_b)
            found = paired_difference(left, right)
            if len(common) < max(len(ids_a), len(ids_b)):
                row |= {"a": _rounded(left.value), "b": _rounded(right.value)}
            row |= {"difference": _rounded(found.value), "low": _rounded(found.low), "high": _rounded(found.high)}
            row["p"] = _rounded(found.p)
        rows.append(row)
    return {
        "task": a["task"],
        "data": a["data"]["name"],
        "paired": len(common),
        "a": _side(a),
        "b": _side(b),
        "warnings": _warnings(a, b, len(common), max(len(ids_a), len(ids_b))),
        "figures": rows,
        "per_class": _per_class(a, b),
    }


def _figure_names(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    end = list(a).index("ci95")
    names = [name for name in list(a)[:end] if name not in ("format", "task", "n")]
    return [name for name in names if isinstance(a[name], int | float) and isinstance(b.get(name), int | float)]


def _side(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": document["model"]["name"],
        "fingerprint": document["model"]["fingerprint"],
        "n": document["n"],
        "command": document["command"],
    }


def _warnings(a: dict[str, Any], b: dict[str, Any], common: int, most: int) -> list[str]:
    found = []
    if a["data"]["fingerprint"] != b["data"]["fingerprint"]:
        found.append("the data differ (images, labels or how they are read)")
    if common < most:
        found.append(f"only {common} of up to {most} samples are in both; figures with an interval are of these")
    for key in ("templates", "names_from", "queries"):
        if a["settings"].get(key) != b["settings"].get(key):
            found.append(f"{key} differ: {a['settings'].get(key)} and {b['settings'].get(key)}")
    return found


def _per_class(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """Class by class, the first figure of the tables (accuracy or AP) and its difference."""
    left = {row["class"]: row for row in a.get("per_class", [])}
    right = {row["class"]: row for row in b.get("per_class", [])}
    rows = []
    for key, row in left.items():
        column = next((c for c in row if c not in ("class", "name", "n")), None)
        if column is None or key not in right or None in (row[column], right[key].get(column)):
            continue
        difference = _rounded(right[key][column] - row[column])
        rows.append({"class": key, f"{column} A": row[column], f"{column} B": right[key][column], "B - A": difference})
    return rows


def _rounded(value: float) -> float | None:
    return round(float(value), DECIMALS) if np.isfinite(value) else None
