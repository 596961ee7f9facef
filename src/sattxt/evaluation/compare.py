"""Two results side by side, paired sample by sample."""

from __future__ import annotations

from typing import Any

from sattxt.errors import InputError
from sattxt.evaluation.bootstrap import Figure, paired_difference
from sattxt.evaluation.result import plain


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
    partial = len(rows_a) < max(len(ids), len(other_ids))
    same_data = a["data"]["fingerprint"] == b["data"]["fingerprint"]
    if not rows_a and not same_data:
        raise InputError(f"the results are of different images: {a['data']['name']} and {b['data']['name']}")
    figures = []
    for name in _figure_names(a, b):
        row = {"figure": name, "a": a[name], "b": b[name], "difference": b[name] - a[name]}
        row |= {"low": None, "high": None, "p": None}
        packed = [document["samples"].get("figures", {}).get(name) for document in (a, b)]
        if rows_a and all(packed):
            one, other = (Figure.from_dict(p).take(rows) for p, rows in zip(packed, (rows_a, rows_b), strict=True))
            row |= paired_difference(one, other)
            row |= {"a": one.value, "b": other.value} if partial else {}
        figures.append(row)
    warnings = [] if same_data else ["the data differ (images, labels or how they are read)"]
    if partial:
        most = max(len(ids), len(other_ids))
        warnings.append(
            f"only {len(rows_a)} of up to {most} samples are in both; figures with an interval are of these"
        )
    for key in ("templates", "names_from", "queries"):
        left, right = (document["settings"].get(key) for document in (a, b))
        warnings += [f"{key} differ: {left} and {right}"] if left != right else []
    facts = {"task": a["task"], "data": a["data"]["name"], "paired": len(rows_a), "a": _side(a), "b": _side(b)}
    return plain(facts | {"warnings": warnings, "figures": figures, "per_class": _per_class(a, b)})


def _figure_names(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    names = [name for name in list(a)[: list(a).index("ci95")] if name not in ("format", "task", "n")]
    return [name for name in names if isinstance(a[name], int | float) and isinstance(b.get(name), int | float)]


def _side(document: dict[str, Any]) -> dict[str, Any]:
    model = document["model"]
    found = {"model": model["name"], "fingerprint": model["fingerprint"]}
    return found | {"n": document["n"], "command": document["command"]}


def _per_class(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """Class by class, the first figure of the tables (accuracy or AP) and its difference."""
    other = {row["class"]: row for row in b.get("per_class", [])}
    rows = []
    for row in a.get("per_class", []):
        column = next((c for c in row if c not in ("class", "name", "n")), "")
        left, right = row.get(column), other.get(row["class"], {}).get(column)
        if left is not None and right is not None:
            rows.append({"class": row["class"], f"{column} A": left, f"{column} B": right, "B - A": right - left})
    return rows
