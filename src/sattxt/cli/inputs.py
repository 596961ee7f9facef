"""What a user types, read: image arguments into paths, label arguments into labels."""

from __future__ import annotations

import csv
import glob
import json
import os
import sys
from pathlib import Path
from typing import Any

from sattxt.errors import ImageError, InputError, LabelError
from sattxt.labels.prompts import parse_labels, parse_templates

#: Files with these suffixes are taken from a folder; a file named outright may have any suffix.
IMAGE_SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def image_paths(arguments: list[str], *, null: bool = False, keep_missing: bool = False) -> list[str]:
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
    paths: list[str] = []
    for argument in arguments:
        paths += _stdin_names(null=null) if argument == "-" else _expand(argument)
    if not paths:
        raise InputError("standard input named no images")
    if not keep_missing:
        for path in paths:
            if not os.path.exists(path):
                raise ImageError(f"{path}: no such file")
    return paths


def _expand(argument: str) -> list[str]:
    if os.path.isdir(argument):
        found = _in_folder(argument)
        if not found:
            suffixes = " ".join(sorted(IMAGE_SUFFIXES))
            raise ImageError(f"{argument}: this folder holds no image (files ending in {suffixes})")
        return found
    if os.path.lexists(argument) or not glob.has_magic(argument):
        return [argument]
    matches = sorted(path for path in glob.iglob(argument, recursive=True) if not os.path.isdir(path))
    if not matches:
        raise ImageError(f"{argument}: no file matches this pattern")
    return matches


def _in_folder(folder: str) -> list[str]:
    """Image files below ``folder``, sorted; hidden files and folders are left out."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                found.append(os.path.join(parent, name))
    return found


def _stdin_names(*, null: bool) -> list[str]:
    data = sys.stdin.buffer.read()
    names = data.split(b"\0") if null else data.splitlines()
    return [os.fsdecode(name) for name in names if name.strip()]


def labels(argument: str | None, label_set: str | None) -> list[str] | dict[str, list[str]] | None:
    """The labels that ``--labels`` gives, or ``None`` where ``--label-set`` names them.

    ``argument`` is a comma-separated list (quotes protect a comma) or ``@FILE``: one label a line, or a ``.json``
    file with a list, or an object of label to synonyms.

    Raises:
        LabelError: neither or both were given; a label is empty or stands there twice; the set is unknown.
    """
    if argument is not None and label_set is not None:
        raise LabelError("--labels and --label-set exclude each other; pass one")
    found = None
    if argument is not None:
        found = read_texts(argument[1:]) if argument.startswith("@") else _split(argument)
        if not found:
            raise LabelError(f"--labels {argument}: no label in it")
    elif label_set is None:
        raise LabelError(
            'no labels: pass --labels "forest,river,city", --labels @FILE, or --label-set NAME '
            "('sattxt labels sets' lists them)"
        )
    parse_labels(found, label_set=label_set)
    return found


def templates(given: list[str] | None, *, ensemble: bool = False) -> list[str] | str | None:
    """The prompt templates that ``--template`` or ``--ensemble`` name; ``None``: the model's own.

    Raises:
        InputError: both were given, or a template has not exactly one ``{}``.
    """
    if ensemble and given:
        raise InputError("--ensemble and --template exclude each other; pass one")
    parse_templates(given or None)
    return "ensemble" if ensemble else given or None


def brings_labels(banks: list[str], labels: str | None, label_set: str | None, **prompting: object) -> bool:
    """Whether the labels are those of the one label bank given.

    Raises:
        InputError: then a template or an instruction was given too, which would change nothing.
    """
    if len(banks) != 1 or labels is not None or label_set is not None:
        return False
    for option, value in prompting.items():
        if value:
            raise InputError(
                f"--{option} means nothing with a label bank's own prompts; leave it out, or pass --labels"
            )
    return True


def read_texts(file: str) -> list[str] | dict[str, list[str]]:
    """Texts from a file: one a line, or a ``.json`` list or object (see :func:`labels`).

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
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise LabelError(f"{file}: the label {twice!r} stands there twice; merge its entries")
    return seen


def _split(argument: str) -> list[str]:
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
