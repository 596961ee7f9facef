"""Results on standard output: an aligned table for people, JSON lines or CSV for programs."""

from __future__ import annotations

import csv
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import typer

#: Decimals that a probability or a cosine is worth.
DECIMALS = 4


class Ranked(NamedTuple):
    """A label with its probability and its cosine similarity."""

    label: str
    prob: float
    score: float


@dataclass(frozen=True)
class Answer:
    """What one image was found to show. chosen: one label, or any number in multi-label mode. ranked: best first."""

    path: str
    chosen: list[str]
    ranked: list[Ranked]


class Writer(Protocol):
    """Takes one image's answer at a time, so that results appear while the job runs."""

    def write(self, answer: Answer) -> None:
        """One image's answer."""

    def skip(self, path: str, reason: str) -> None:
        """An image that could not be read."""


class TableWriter:
    """Aligned columns; bold where stdout is a terminal.

    Shows the ``top`` best labels, or in multi-label mode those that apply.
    """

    def __init__(self, paths: Iterable[str], labels: Iterable[str], *, top: int, multi_label: bool) -> None:
        self._path_width = max(map(width, paths), default=0)
        self._label_width = max(map(width, labels), default=0)
        self._top = top
        self._multi_label = multi_label
        self._bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def write(self, answer: Answer) -> None:
        """One line: the path, then each label with its probability."""
        if self._multi_label:
            shown = [ranked for ranked in answer.ranked if ranked.label in answer.chosen]
        else:
            shown = answer.ranked[: self._top]
        cells = [self._cell(ranked, bold=ranked.label in answer.chosen) for ranked in shown]
        put("  ".join([pad(answer.path, self._path_width), *(cells or ["-"])]) + "\n")

    def skip(self, path: str, reason: str) -> None:
        """Nothing: the reason is on stderr already."""

    def _cell(self, ranked: Ranked, *, bold: bool) -> str:
        text = f"{pad(ranked.label, self._label_width)} {ranked.prob:.2f}"
        return typer.style(text, bold=True) if bold and self._bold else text


class JsonWriter:
    """One JSON object a line (JSON Lines)."""

    def __init__(self, *, top: int, multi_label: bool) -> None:
        self._top = top
        self._multi_label = multi_label

    def write(self, answer: Answer) -> None:
        """``{"path", "label" (or "labels"), "top": [{"label", "prob", "score"}, ...]}``."""
        chosen: dict[str, Any] = {"labels": answer.chosen} if self._multi_label else {"label": answer.chosen[0]}
        top = [
            {"label": ranked.label, "prob": round(ranked.prob, DECIMALS), "score": round(ranked.score, DECIMALS)}
            for ranked in answer.ranked[: self._top]
        ]
        put_json({"path": answer.path, **chosen, "top": top})

    def skip(self, path: str, reason: str) -> None:
        """``{"path", "error"}``."""
        put_json({"path": path, "error": reason})


class CsvWriter:
    """Comma-separated values with a header; one row an image, labels of a multi-label answer joined with ``;``."""

    def __init__(self, *, top: int, multi_label: bool) -> None:
        self._top = top
        columns = [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("label", "prob", "score")]
        self._width = 2 + len(columns)
        self._rows = csv.writer(_Stdout(), lineterminator="\n")
        self._rows.writerow(["path", "labels" if multi_label else "label", *columns, "error"])

    def write(self, answer: Answer) -> None:
        """One row."""
        cells = [answer.path, ";".join(answer.chosen)]
        for ranked in answer.ranked[: self._top]:
            cells += [ranked.label, f"{ranked.prob:.{DECIMALS}f}", f"{ranked.score:.{DECIMALS}f}"]
        self._row(cells)

    def skip(self, path: str, reason: str) -> None:
        """A row with nothing but the path and the error."""
        self._row([path], reason)

    def _row(self, cells: list[str], error: str = "") -> None:
        self._rows.writerow([*cells, *[""] * (self._width - len(cells)), error])


class _Stdout:
    """Whatever ``sys.stdout`` is at the time."""

    def write(self, text: str) -> None:
        put(text)


def put(text: str) -> None:
    """Write to standard output."""
    sys.stdout.write(text)


def put_json(value: Any) -> None:
    """Write ``value`` as one line of JSON, non-ASCII characters as they are."""
    put(json.dumps(value, ensure_ascii=False) + "\n")


def put_rows(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    """Write an aligned table with a header."""
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(width(row[i]) for row in table) for i in range(len(header))]
    for row in table:
        put("  ".join(pad(cell, w) for cell, w in zip(row, widths, strict=True)).rstrip() + "\n")


def width(text: str) -> int:
    """Columns that ``text`` takes on a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, columns: int) -> str:
    """``text`` with spaces up to ``columns``."""
    return text + " " * (columns - width(text))


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
