"""Lists that a user types, or keeps in a file: texts, names, numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from sattxt.errors import InputError, LabelError


def texts(argument: str) -> list[str] | dict[str, list[str]]:
    """A comma-separated list (quotes protect a comma), or ``@FILE`` as :func:`read_texts` reads it."""
    if argument.startswith("@"):
        return read_texts(argument[1:])
    fields = next(csv.reader([argument], skipinitialspace=True), [])
    return [field.strip() for field in fields if field.strip()]


def read_texts(file: str) -> list[str] | dict[str, list[str]]:
    """Texts from a file: one a line, or a ``.json`` list or object of label to synonyms.

    Raises:
        LabelError: the file cannot be read or is not of that form.
    """
    try:
        content = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{file}: cannot be read as UTF-8 text ({error})") from error
    if not file.lower().endswith(".json"):
        return [line.strip() for line in content.splitlines() if line.strip()]
    try:
        data = json.loads(content, object_pairs_hook=lambda pairs: _object(pairs, file))
    except json.JSONDecodeError as error:
        raise LabelError(f"{file}: not valid JSON ({error})") from error
    if isinstance(data, list) and all(isinstance(item, str) for item in data):
        return data
    if isinstance(data, dict):
        synonyms = {label: [texts] if isinstance(texts, str) else texts for label, texts in data.items()}
        if all(isinstance(ts, list) and all(isinstance(t, str) for t in ts) for ts in synonyms.values()):
            return synonyms
    raise LabelError(f"{file}: a list of strings, or an object of label to strings, is needed")


def _object(pairs: list[tuple[str, Any]], file: str) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise LabelError(f"{file}: the label {twice!r} stands there twice; merge its entries")
    return seen


def names(argument: str) -> tuple[str, ...]:
    """Comma-separated names."""
    return tuple(name.strip() for name in argument.split(","))


def numbers(argument: str, option: str) -> tuple[float, ...]:
    """Comma-separated numbers.

    Raises:
        InputError: one of them is no number.
    """
    try:
        return tuple(float(part) for part in argument.split(","))
    except ValueError:
        raise InputError(f"{option} {argument}: numbers separated by commas are needed") from None
