"""Results on standard output, as aligned tables or JSON; notes and whether to draw progress on standard error."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

#: Decimals that a probability or a cosine is worth.
DECIMALS = 4


def put(text: str) -> None:
    """Write to standard output."""
    sys.stdout.write(text)


def put_json(value: Any) -> None:
    """Write ``value`` as one line of JSON, non-ASCII characters as they are."""
    put(json.dumps(value, ensure_ascii=False) + "\n")


def put_rows(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    """Write an aligned table with a header."""
    table = [header, *rows]
    widths = [max(width(row[i]) for row in table) for i in range(len(header))]
    for row in table:
        put("  ".join(pad(cell, w) for cell, w in zip(row, widths, strict=True)).rstrip() + "\n")


def width(text: str) -> int:
    """Columns that ``text`` takes on a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, columns: int) -> str:
    """``text`` with spaces up to ``columns``."""
    return text + " " * (columns - width(text))


def report(facts: Any, words: str, *, as_json: bool, quiet: bool = False) -> None:
    """Say what a command did: ``facts`` as JSON on standard output, else ``words`` on standard error unless quiet."""
    if as_json:
        put_json(facts)
    elif not quiet:
        sys.stderr.write(f"{words}\n")


def note(text: str) -> None:
    """Write a line to standard error that begins with the program's name."""
    sys.stderr.write(f"sattxt: {one_line(text)}\n")


def one_line(text: str) -> str:
    """``text`` with single spaces in the place of line breaks."""
    return " ".join(text.split())


def show_progress(quiet: bool) -> bool:
    """Whether to draw progress bars: on a terminal, unless told to be quiet."""
    return not quiet and sys.stderr.isatty()
