"""Images that a table lists, with captions, labels and splits: jsonl, csv, parquet, or plain lists of lines."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sattxt.data.archive import is_image
from sattxt.data.tables import (
    PATH_COLUMNS,
    TABLE_SUFFIXES,
    listed,
    split_name,
    split_of,
    table_columns,
    table_rows,
    text_of,
)
from sattxt.errors import InputError
from sattxt.training.data import LazyTiles, TileSet
from sattxt.training.sources.archives import Files, chosen, image_tiles, renamed
from sattxt.training.sources.entry import IMAGE_KEYS, Entry, hint

log = logging.getLogger(__name__)

TABLE_KEYS = IMAGE_KEYS | {
    "path", "images", "captions", "size", "memory", "names", "val_share",
    "image_column", "caption_columns", "label_column", "split_column",
}  # fmt: skip

_IMAGE_COLUMNS = (*PATH_COLUMNS, "image_path", "file_name")
_CAPTION_COLUMN = re.compile(r"(captions?|texts?|sentences?)(?:_?\d+)?$", re.IGNORECASE)
_LABEL_COLUMNS = ("label", "class", "category")


@dataclass(frozen=True)
class Row:
    """One image of a list. split: "" where it is not said."""

    image: str
    captions: tuple[str, ...] = ()
    label: str | None = None
    split: str = ""


@dataclass(frozen=True)
class Columns:
    """Which columns hold what."""

    image: str
    captions: tuple[str, ...] = ()
    label: str | None = None
    split: str | None = None


def find_columns(entry: Entry, there: Sequence[str], where: object) -> Columns:
    """The columns that the entry names, or those of the usual names.

    Raises:
        InputError: a column is not there; the message has those that are.
    """

    def named(key: str) -> tuple[str, ...] | None:
        wanted = entry.texts(key)
        for column in wanted or ():
            if column not in there:
                raise entry.error(key, f"{where}: no column {column!r}{hint(column, there, listed=False)}{_has(there)}")
        return wanted

    image = (named("image_column") or [c for c in _IMAGE_COLUMNS if c in there] or [""])[0]
    if not image:
        raise InputError(
            f"data set {entry.name!r}: {where}: no image column ({', '.join(_IMAGE_COLUMNS)}){_has(there)}; "
            "name it with image_column"
        )
    captions = named("caption_columns")
    if captions is None:
        captions = tuple(c for c in there if _CAPTION_COLUMN.match(c) and c != image)
    labels = named("label_column") or [c for c in _LABEL_COLUMNS if c in there]
    splits = named("split_column") or [c for c in ("split",) if c in there]
    return Columns(image, captions, labels[0] if labels else None, splits[0] if splits else None)


def _has(there: Sequence[str]) -> str:
    return f"; it has {', '.join(there)}" if there else "; it has no columns"


def parse_rows(
    rows: Sequence[Mapping[str, Any]], columns: Columns, *, first: int = 1
) -> tuple[list[Row], list[tuple[str, str]]]:
    """What can be used of a table's rows, and what not (``row 3``) with the reason: together as many as the rows."""
    good: list[Row] = []
    bad: list[tuple[str, str]] = []
    for number, row in enumerate(rows, first):
        try:
            good.append(_row(row, columns))
        except ValueError as error:
            bad.append((f"row {number}", str(error)))
    return good, bad


def _row(row: Mapping[str, Any], columns: Columns) -> Row:
    image = row.get(columns.image)
    if not isinstance(image, str) or not image.strip():
        raise ValueError(f"names no image in {columns.image!r}")
    image = image.strip().replace("\\", "/").removeprefix("./")
    captions = [text for column in columns.captions for text in _captions(row.get(column), column)]
    label = None if columns.label is None else _label(row.get(columns.label), columns.label)
    split = "" if columns.split is None else row.get(columns.split) or ""
    if not isinstance(split, str):
        raise ValueError(f"{columns.split!r} is {split!r}, not a name")
    return Row(image, tuple(dict.fromkeys(captions)), label, split_name(split) if split else split_of(image))


def _captions(value: Any, column: str) -> list[str]:
    if isinstance(value, float) and math.isnan(value):  # what pandas writes for nothing
        return []
    if value is not None and not isinstance(value, str | list | tuple):
        raise ValueError(f"{column!r} is {value!r}, not a text or a list of texts")
    if isinstance(value, list | tuple) and not all(isinstance(item, str) for item in value):
        raise ValueError(f"{column!r} holds something that is no text")
    return [text for text in listed(value, None) if text.strip()]


def _label(value: Any, column: str) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"{column!r} is {value!r}, not one class")
    return str(value).strip() or None


def open_table(entry: Entry, split: str) -> TileSet | LazyTiles:
    """Tiles of the images that a table (jsonl, csv, parquet) or a list (``.txt``, one path a line) names.

    ``captions``: a second, parallel file, one caption (``.txt``) a line for each image. Rows of the same image are one
    tile with all of their captions. Rows that name no image, one that is not there, or neither caption nor label are
    skipped and counted; images that no row names are counted in the log.

    Raises:
        InputError: no such column; counts that differ between parallel files; nothing in the split, or no image of it
            is there.
        MissingExtraError: parquet without pyarrow.
    """
    path = entry.path("path")
    if path.suffix == ".txt":
        rows: list[dict[str, Any]] = [{"image": line} for line in _lines(path)]
    elif path.suffix in TABLE_SUFFIXES:
        rows = table_rows(path)
    else:
        raise entry.error("path", f"{path}: pass a table ending in {', '.join(TABLE_SUFFIXES)}, or a list (.txt)")
    if not rows:
        raise entry.error("path", f"{path}: has no rows")
    columns = find_columns(entry, there := table_columns(rows), path)
    good, bad = parse_rows(rows, columns)
    parallel = entry.optional_path("captions")
    if parallel is None and not columns.captions and columns.label is None:
        raise InputError(
            f"data set {entry.name!r}: {path}: no column of captions or labels{_has(there)}; name them with "
            "caption_columns or label_column"
        )
    if parallel is not None:
        lines = _lines(parallel)
        if len(lines) != len(rows):
            raise entry.error("captions", f"{parallel} has {len(lines)} captions for the {len(rows)} images of {path}")
        column = _unused(columns)
        with_lines = [{**row, column: line} for row, line in zip(rows, lines, strict=True)]
        both = Columns(columns.image, (*columns.captions, column), columns.label, columns.split)
        good, bad = parse_rows(with_lines, both)
    files = Files(entry.optional_path("images") or path.parent)
    present = set(files.names())
    unnamed = sum(map(is_image, present - {row.image for row in good}))
    if unnamed and split == "train":
        log.info("%s: %d images in %s are named by no row of %s", entry.name, unnamed, files.path, path.name)
    return listed_tiles(entry, files, good, bad, split, lambda row: row.image if row.image in present else None, path)


def _unused(columns: Columns) -> str:
    name = "line"
    while name in (columns.image, *columns.captions, columns.label, columns.split):
        name += "_"
    return name


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in text_of(path).removesuffix("\n").split("\n")]


def listed_tiles(
    entry: Entry,
    files: Files,
    rows: Sequence[Row],
    skipped: Sequence[tuple[str, str]],
    split: str,
    find: Any,
    where: object,
) -> TileSet | LazyTiles:
    """Tiles of the rows of one split.

    Args:
        find: a row to its image's name among ``files``, or ``None``.

    Raises:
        InputError: nothing is in the split, or nothing in it can be used.
    """
    splits: dict[str, str] = {}
    for row in rows:
        if splits.setdefault(row.image, row.split) != row.split:
            raise InputError(
                f"data set {entry.name!r}: {where}: {row.image} is in split {splits[row.image]!r} and {row.split!r}"
            )
    if not rows:
        raise InputError(f"data set {entry.name!r}: {where}: no row can be used, {skipped[0][0]} {skipped[0][1]}")
    found, unknown = chosen(entry, splits, split, where=where)
    wanted = set(found)
    gathered: dict[str, list[Row]] = {}
    left_out = [*skipped, *unknown]
    for row in rows:
        if row.image not in wanted:
            continue
        name = find(row)
        if name is None:
            left_out.append((row.image, f"not in {files.path.name}"))
        elif not row.captions and row.label is None:
            left_out.append((row.image, "has neither caption nor label"))
        else:
            gathered.setdefault(name, []).append(row)
    if not gathered:
        key, reason = left_out[-1]
        raise InputError(
            f"data set {entry.name!r}: {where}: none of {len(found)} images of split {split!r} can be used, such as "
            f"{key}: {reason}"
        )
    folders = sorted({row.label for row in rows if row.label is not None})
    classes = renamed(entry, folders)
    called = list(dict.fromkeys(classes.values()))
    labels = []
    for name, group in gathered.items():
        several = {classes[row.label] for row in group if row.label is not None}
        if len(several) > 1:
            raise InputError(
                f"data set {entry.name!r}: {where}: {name} has several labels: " + ", ".join(sorted(several))
            )
        labels.append(called.index(several.pop()) if several else -1)
    return image_tiles(
        entry,
        files,
        list(gathered),
        labels=labels,
        classes=called,
        captions=[list(dict.fromkeys(text for row in group for text in row.captions)) for group in gathered.values()],
        skipped=left_out,
    )
