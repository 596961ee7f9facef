"""Results on standard output, as aligned tables or JSON; notes and whether to draw progress on standard error."""

from __future__ import annotations

import logging
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

#: Decimals that a probability or a cosine is worth.
DECIMALS = 4

# Keyword arguments, as errors name them, that are options of the same name here; with the value they are given.
_KEYWORD = re.compile(
    r"(?<![\w./-])(stretch|bands|band_names|value_range|offset|max_pixels|on_error|batch_size|workers|window|overlap"
    r"|overwrite|preprocess|device|dtype|labels|label_set|instruction|crs|bounds|item_id|mask|grid|chip|stride|gsd"
    r"|bbox|within|after|before|like|unlike|engine|min_valid|max_cloud|season)=('[^']*'|\([^()]*\)|\[[^][]*\]|[-+\w.]+)?"
)


def put(text: str) -> None:
    """Write to standard output."""
    sys.stdout.write(text)


def put_json(value: Any) -> None:
    """Write ``value`` as one line of JSON, non-ASCII characters as they are."""
    from sattxt.io import to_json

    put(to_json(value) + "\n")


def put_rows(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    """Write an aligned table with a header."""
    table = [header, *rows]
    widths = [max(width(row[i]) for row in table) for i in range(len(header))]
    for row in table:
        put("  ".join(pad(cell, w) for cell, w in zip(row, widths, strict=True)).rstrip() + "\n")


def put_facts(facts: Mapping[str, Any]) -> None:
    """Write a line for each fact that is known, aligned."""
    known = {key.replace("_", " "): value for key, value in facts.items() if value not in (None, "")}
    columns = max(map(len, known))
    put("".join(f"{key:<{columns}}  {value}\n" for key, value in known.items()))


def width(text: str) -> int:
    """Columns that ``text`` takes on a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, columns: int) -> str:
    """``text`` with spaces up to ``columns``."""
    return text + " " * (columns - width(text))


def duration(seconds: float) -> str:
    """Seconds, minutes or hours in words."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


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
    """``text`` with single spaces in the place of line breaks, and options as they are typed: ``--bands B04,B03,B02``
    for ``bands=('B04', 'B03', 'B02')``.
    """
    return _KEYWORD.sub(_as_typed, " ".join(text.split()))


def _as_typed(found: re.Match[str]) -> str:
    flag, value = "--" + found[1].replace("_", "-"), found[2]
    if value in (None, "True"):
        return flag
    if value[0] in "([":
        parts = [part.strip() for part in value[1:-1].split(",") if part.strip()]
        value = ",".join(part.strip("'") if "'" in part else part.upper() for part in parts)
    return f"{flag} {value.strip(chr(39))}"


class Notes(logging.Handler):
    """Log records as notes, where a command sets up no logging of its own."""

    def emit(self, record: logging.LogRecord) -> None:  # noqa: D102
        note(f"{record.levelname.lower()}: {record.getMessage()}")


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a note, in the place of ``warnings.showwarning``: the line of source it came from says nothing."""
    note(f"warning: {message}")


def show_progress(quiet: bool) -> bool:
    """Whether to draw progress bars: on a terminal, unless told to be quiet."""
    return not quiet and sys.stderr.isatty()
