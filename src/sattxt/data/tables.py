"""Images that a table lists, with captions, labels and splits: csv, jsonl, parquet, or plain lists of lines."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from sattxt.data.dataset import Row
from sattxt.errors import InputError, import_extra, near

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
_IMAGE_COLUMNS = ("path", "image", "file", "filename", "filepath", "image_path", "file_name")
_CAPTION_COLUMN = re.compile(r"(captions?|texts?|sentences?)(?:_?\d+)?$", re.IGNORECASE)
_LABEL_COLUMNS = ("label", "labels", "class", "category")
_MANY_LABELS = "labels"


def read_rows(
    path: Path, captions: Path | None = None, **named: str | Sequence[str] | None
) -> tuple[list[Row], list[tuple[str, str]], bool]:
    """The rows of a table or list that name an image, those that cannot be used with the reason, and whether an image
    may have several labels. Rows whose image is null hold text only and are left out.

    Args:
        captions: a parallel file, one caption a line for each row.
        named: ``image_column``, ``caption_columns``, ``label_column``, ``split_column``; ``None``: by the usual names.

    Raises: as :func:`read_table`.
    """
    table = table_rows(path)
    columns = _find_columns(table, path, named)
    if captions is not None:
        lines = table_rows(captions)
        if captions.suffix != ".txt" or len(lines) != len(table):
            raise InputError(
                f"captions: {captions} has {len(lines)} captions for the {len(table)} images of {path}; pass a .txt "
                "of one caption a line for each"
            )
        # no column of a table has no name
        table = [{**row, "": line["image"]} for row, line in zip(table, lines, strict=True)]
        columns["caption_columns"] = [*columns["caption_columns"], ""]
    elif not columns["caption_columns"] and not columns["label_column"]:
        raise InputError(
            f"{path}: no column label, labels, caption or captions{_has(table_columns(table))}; name them with "
            "caption_columns or label_column"
        )
    rows: list[Row] = []
    unusable: list[tuple[str, str]] = []
    for number, row in enumerate(table, 1):
        try:
            rows += [] if row.get(columns["image_column"][0], "") is None else [_row(row, columns)]
        except ValueError as error:
            unusable.append((f"row {number}", str(error)))
    return rows, unusable, columns["label_column"] == [_MANY_LABELS]


def _find_columns(
    table: Sequence[Mapping[str, Any]], where: Path, named: Mapping[str, str | Sequence[str] | None]
) -> dict[str, Sequence[str]]:
    """The columns that are named, or else those of the usual names."""
    there = table_columns(table)
    usual = {
        "image_column": [c for c in _IMAGE_COLUMNS if c in there][:1],
        "caption_columns": [c for c in there if _CAPTION_COLUMN.match(c) and c != named.get("image_column")],
        "label_column": [c for c in _LABEL_COLUMNS if c in there][:1],
        "split_column": [c for c in there if c == "split"],
    }
    given = {key: [value] if isinstance(value, str) else value for key, value in named.items() if value is not None}
    for key, columns in given.items():
        check_columns(f"{key}: {where}", table, columns)
    found = {**usual, **given}
    if not found["image_column"]:
        raise InputError(
            f"{where}: no column {', '.join(_IMAGE_COLUMNS)}{_has(there)}; name the image column with image_column"
        )
    return found


def check_columns(where: object, table: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Raise :class:`InputError` where a table lacks one of some columns."""
    there = table_columns(table)
    for column in columns:
        if column not in there:
            raise InputError(f"{where}: no column {column!r}{near(column, there)}{_has(there)}")


def _has(there: Sequence[str]) -> str:
    return f"; it has {', '.join(there) or 'no columns'}"


def _row(row: Mapping[str, Any], columns: Mapping[str, Sequence[str]]) -> Row:
    def cells(key: str, separator: str | None = None, kinds: Any = str) -> list[str]:
        return [text for column in columns[key] for text in _cell(row.get(column), column, separator, kinds)]

    image = "".join(cells("image_column")).replace("\\", "/").removeprefix("./")
    if not image:
        raise ValueError(f"names no image in {columns['image_column'][0]!r}")
    several = columns["label_column"] == [_MANY_LABELS]
    labels = cells("label_column", ";" if several else None, str | int)
    if len(labels) > 1 and not several:
        raise ValueError(f"{columns['label_column'][0]!r} is {labels!r}, not one class")
    return Row(image, tuple(cells("caption_columns")), tuple(labels), "".join(cells("split_column")))


def _cell(value: Any, column: str, separator: str | None, kinds: Any) -> list[str]:
    """The texts in a cell: none, one, or a list, which in a text is JSON or joined with ``separator``."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):  # what pandas writes for none
        return []
    found = value if isinstance(value, list) else [value]
    if isinstance(value, str):
        found = value.split(separator) if separator else [value]
        if value.lstrip().startswith("["):
            with suppress(ValueError, RecursionError):
                found = [str(item) for item in json.loads(value)]
    if not all(isinstance(item, kinds) and not isinstance(item, bool) for item in found):
        raise ValueError(f"{column!r} is {value!r}, not a text or a list of texts")
    return [text for item in found if (text := str(item).strip())]


def table_rows(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a table in a file; arguments and errors as :func:`parse_table`."""
    return parse_table(read_file(path), str(path), columns)


def read_file(path: Path) -> bytes:
    """A file's content; :class:`InputError` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); pass the path of a file that exists") from error


def parse_table(content: bytes, where: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a csv, jsonl or parquet file, or of a list (``.txt``), whose lines are the column ``image``.

    Args:
        where: the file's name, which says what it is; for messages too.
        columns: of a parquet file, read only these; ones it lacks are left out.

    Raises:
        InputError: it cannot be read as such a table.
        MissingExtraError: parquet without pyarrow.
    """
    suffix = PurePosixPath(where).suffix
    if suffix not in (*TABLE_SUFFIXES, ".txt"):
        raise InputError(f"{where}: a table is a file ending in {', '.join(TABLE_SUFFIXES)}")
    if suffix == ".parquet":
        return _parse_parquet(content, where, columns)
    rows: list[Any] = []
    try:
        text = content.decode("utf-8-sig")
        if suffix == ".csv":
            for row in csv.DictReader(io.StringIO(text, newline="")):
                rows.append({key: value for key, value in row.items() if key is not None})
            return rows
        for line in text.removesuffix("\n").split("\n"):
            if suffix == ".txt":
                rows.append({"image": line.strip()})
            elif line.strip():
                rows.append(json.loads(line))
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{where}: row {len(rows) + 1} cannot be read ({error})") from error
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{where}: every line must be an object")
    return rows


def _parse_parquet(content: bytes, where: str, columns: Sequence[str] | None) -> list[dict[str, Any]]:
    parquet = import_extra("pyarrow.parquet", "geo", "pyarrow", f"{where}: reading parquet")
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        chosen = None if columns is None else [c for c in file.schema_arrow.names if c in columns]
        return list(file.read(columns=chosen).to_pylist())
    except Exception as error:  # pyarrow's errors have no common base below Exception
        raise InputError(f"{where}: cannot be read as a table ({error})") from error


def table_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All columns, in the order in which rows name them."""
    return list(dict.fromkeys(key for row in rows for key in row))
