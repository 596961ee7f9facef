"""What a user types, or keeps in a file: texts, names, numbers, and the images that arguments stand for."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sattxt.errors import ImageError, InputError, LabelError
from sattxt.io import check_new


def texts(argument: str) -> list[str] | dict[str, list[str]]:
    """A comma-separated list, or ``@FILE`` as :func:`read_texts` reads it."""
    return read_texts(argument[1:]) if argument.startswith("@") else names(argument)


def read_texts(file: str) -> list[str] | dict[str, list[str]]:
    """Texts from a file: one a line, or a ``.json`` list or object of label to synonyms.

    Raises:
        LabelError: the file cannot be read or is not of that form.
    """
    kind = "JSON" if file.lower().endswith(".json") else "UTF-8 text"
    try:
        content = Path(file).read_text(encoding="utf-8-sig")
        lines = [line.strip() for line in content.splitlines() if line.strip()]
        data = json.loads(content, object_pairs_hook=_object) if kind == "JSON" else lines
    except (OSError, ValueError) as error:
        raise LabelError(f"{file}: cannot be read as {kind} ({getattr(error, 'strerror', None) or error})") from error
    if isinstance(data, list) and all(isinstance(item, str) for item in data):
        return data
    if isinstance(data, dict):
        synonyms = {label: [texts] if isinstance(texts, str) else texts for label, texts in data.items()}
        if all(isinstance(ts, list) and all(isinstance(t, str) for t in ts) for ts in synonyms.values()):
            return synonyms
    raise LabelError(f"{file}: a list of strings, or an object of label to strings, is needed")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"the label {twice[0]!r} stands there twice; merge its entries")
    return dict(pairs)


def names(argument: str) -> list[str]:
    """Comma-separated texts; quotes protect a comma."""
    fields = next(csv.reader([argument], skipinitialspace=True), [])
    return [field.strip() for field in fields if field.strip()]


def numbers(argument: str, option: str) -> tuple[float, ...]:
    """Comma-separated numbers.

    Raises:
        InputError: one of them is no number.
    """
    try:
        return tuple(float(part) for part in argument.split(","))
    except ValueError:
        raise InputError(f"{option} {argument}: numbers separated by commas are needed") from None


def check_output(option: str, path: Path | None, *suffixes: str, overwrite: bool) -> None:
    """Refuse a file to write, if one is named: before hours of work, not after them.

    Raises:
        InputError: its name has another ending than ``suffixes``, its folder does not exist, or it is there and not to
            be replaced.
    """
    if path is None:
        return
    if suffixes and path.suffix not in suffixes:
        raise InputError(f"{option} {path}: the name must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: its folder does not exist; pass a file in a folder that exists")
    check_new(path, overwrite=overwrite)


def image_paths(arguments: Sequence[str], *, null: bool = False, keep_missing: bool = False) -> list[str]:
    """The files that ``arguments`` name, in their order.

    Args:
        arguments: files, globs (``**`` too), folders (searched recursively), ``-`` for a list on stdin.
        null: names on stdin end with NUL instead of a newline.
        keep_missing: a name without a file stays in the list (to be reported with the others that cannot be read).

    Raises:
        ImageError: a file does not exist, or a folder or glob holds no image.
        InputError: no argument, or ``-`` twice.
    """
    if not arguments:
        raise InputError("no images: name files, globs, folders, or - to read a list from standard input")
    if arguments.count("-") > 1:
        raise InputError("'-' (standard input) can be named once")
    paths = [path for argument in arguments for path in _expand(argument, null)]
    if not paths:
        raise InputError("standard input named no images")
    missing = [] if keep_missing else [path for path in paths if not os.path.exists(path)]
    if missing:
        raise ImageError(f"{missing[0]}: no such file")
    return paths


def _expand(argument: str, null: bool) -> list[str]:
    if argument == "-":
        data = sys.stdin.buffer.read()
        return [os.fsdecode(name) for name in (data.split(b"\0") if null else data.splitlines()) if name.strip()]
    from sattxt.images.load import expand  # here: it needs numpy and Pillow

    return expand(argument)
