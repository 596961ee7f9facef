"""Images that a table lists, with captions, labels and splits: csv, jsonl, parquet, or plain lists of lines."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sattxt.data.archive import Store, is_image, open_store
from sattxt.data.dataset import Dataset, Sample, by_split, data_name, split_name, split_of
from sattxt.errors import InputError, MissingExtraError
from sattxt.images.options import ImageOptions
from sattxt.labels.sets import near

log = logging.getLogger(__name__)

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
_IMAGE_COLUMNS = ("path", "image", "file", "filename", "filepath", "image_path", "file_name")
_CAPTION_COLUMN = re.compile(r"(captions?|texts?|sentences?)(?:_?\d+)?$", re.IGNORECASE)
_LABEL_COLUMNS = ("label", "labels", "class", "category")
_MANY_LABELS = "labels"


@dataclass(frozen=True)
class Row:
    """One image of a list. split: as written, "" where it is not said."""

    image: str
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    split: str = ""


@dataclass(frozen=True)
class _Columns:
    """Which columns hold what."""

    image: str
    captions: tuple[str, ...]
    labels: str | None
    split: str | None


def read_table(
    path: Path,
    *,
    images: Path | None = None,
    captions: Path | None = None,
    image_column: str | None = None,
    caption_columns: str | tuple[str, ...] | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    options: ImageOptions | None = None,
) -> Dataset:
    """Images that a table (csv, jsonl, parquet) or a list (``.txt``, one path a line) names.

    Columns that are not named are found by their names: the image by ``path``, ``image``, ``file``, ``filename``,
    ``filepath``, ``image_path`` or ``file_name``; captions (a text or a list) by ``caption``, ``text`` or ``sentence``,
    also in the plural or numbered; one class by ``label``, ``class`` or ``category``, several (a list, or joined with
    ``;``) by ``labels``; ``split``, else the split is that of the path. Rows of one image are one sample.

    Args:
        images: the folder or archive that the paths are relative to; by default the table's folder.
        captions: a parallel file, one caption (``.txt``) a line for each row.

    Raises:
        InputError: no such column, counts that differ between parallel files, or no row that can be used.
        MissingExtraError: parquet without pyarrow.
    """
    rows: list[dict[str, Any]]
    rows = [{"image": line} for line in _lines(path)] if path.suffix == ".txt" else table_rows(path)
    if not rows:
        raise InputError(f"{path}: has no rows")
    there = table_columns(rows)
    columns = _find_columns(there, path, image_column, caption_columns, label_column, split_column)
    if captions is not None:
        lines = _lines(captions)
        if len(lines) != len(rows):
            raise InputError(f"captions: {captions} has {len(lines)} captions for the {len(rows)} images of {path}")
        rows = [{**row, "": line} for row, line in zip(rows, lines, strict=True)]  # no column of a table has no name
        columns = _Columns(columns.image, (*columns.captions, ""), columns.labels, columns.split)
    elif not columns.captions and columns.labels is None:
        raise InputError(
            f"{path}: no column label, labels, caption or captions{_has(there)}; name them with "
            "caption_columns or label_column"
        )
    good: list[Row] = []
    bad: list[tuple[str, str]] = []
    for number, row in enumerate(rows, 1):
        try:
            good.append(_row(row, columns))
        except ValueError as error:
            bad.append((f"row {number}", str(error)))
    store = open_store(images or path.parent)
    unnamed = sum(map(is_image, set(store.names()) - {row.image for row in good}))
    if unnamed:
        log.info("%d images in %s are named by no row of %s", unnamed, store.path, path.name)
    return listed_dataset(
        store, good, bad, path, name=path.stem, several=columns.labels == _MANY_LABELS, options=options
    )


def _find_columns(
    there: Sequence[str],
    where: Path,
    image: str | None,
    captions: str | tuple[str, ...] | None,
    label: str | None,
    split: str | None,
) -> _Columns:
    texts = (captions,) if isinstance(captions, str) else captions
    named = {"image_column": [image], "caption_columns": texts or [], "label_column": [label], "split_column": [split]}
    for key, wanted in named.items():
        for column in wanted:
            if column is not None and column not in there:
                raise InputError(f"{key}: {where}: no column {column!r}{near(column, there)}{_has(there)}")
    image = image or next((c for c in _IMAGE_COLUMNS if c in there), None)
    if image is None:
        raise InputError(
            f"{where}: no column {', '.join(_IMAGE_COLUMNS)}{_has(there)}; name the image column with image_column"
        )
    return _Columns(
        image,
        texts if texts is not None else tuple(c for c in there if _CAPTION_COLUMN.match(c) and c != image),
        label or next((c for c in _LABEL_COLUMNS if c in there), None),
        split or ("split" if "split" in there else None),
    )


def _has(there: Sequence[str]) -> str:
    return f"; it has {', '.join(there)}" if there else "; it has no columns"


def _row(row: Mapping[str, Any], columns: _Columns) -> Row:
    image = row.get(columns.image)
    if not isinstance(image, str) or not image.strip():
        raise ValueError(f"names no image in {columns.image!r}")
    captions = [text for column in columns.captions for text in _captions(row.get(column), column)]
    labels = () if columns.labels is None else _labels(row.get(columns.labels), columns.labels)
    split = "" if columns.split is None else row.get(columns.split) or ""
    if not isinstance(split, str):
        raise ValueError(f"{columns.split!r} is {split!r}, not a name")
    return Row(image.strip().replace("\\", "/").removeprefix("./"), tuple(captions), tuple(labels), split)


def _captions(value: Any, column: str) -> list[str]:
    if _is_nothing(value):
        return []
    if not isinstance(value, str | list | tuple):
        raise ValueError(f"{column!r} is {value!r}, not a text or a list of texts")
    if not isinstance(value, str) and not all(isinstance(item, str) for item in value):
        raise ValueError(f"{column!r} holds something that is no text")
    return [text for text in listed(value, None) if text.strip()]


def _labels(value: Any, column: str) -> list[str]:
    if _is_nothing(value):
        return []
    if column == _MANY_LABELS and isinstance(value, str | list | tuple):
        return listed(value)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"{column!r} is {value!r}, not one class")
    return [name] if (name := str(value).strip()) else []


def _is_nothing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))  # as pandas writes it


def listed_dataset(
    store: Store,
    rows: Sequence[Row],
    skipped: Iterable[tuple[str, str]],
    where: object,
    *,
    name: str | None = None,
    several: bool = False,
    options: ImageOptions | None = None,
) -> Dataset:
    """The images among ``store`` that rows name: by their path or, where it is unique, their file name.

    Rows of one image are one sample with all of their captions. What is not there, or has neither caption nor label,
    goes to ``skipped``.

    Args:
        where: the rows' file, for messages.
        several: whether a sample may have several labels.

    Raises:
        InputError: an image is in two splits or has two labels where it may have one; no row can be used.
    """
    index = ImageIndex(store.names())
    left_out = list(skipped)
    gathered: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        file = index.find(f"{row.labels[0]}/{row.image}", where) if row.labels else None
        file = file or index.find(row.image, where)
        if file is None:
            left_out.append((row.image, f"is not in {store.path.name}"))
        elif not row.captions and not row.labels and not several:
            left_out.append((row.image, "has neither caption nor label"))
        else:
            gathered[file].append(row)
    if not gathered:
        found = "such as {}: {}".format(*left_out[0]) if left_out else "it names none"
        raise InputError(f"{where}: none of its {len(left_out)} images can be used, {found}")
    classes = sorted({label for row in rows for label in row.labels})
    position = {label: i for i, label in enumerate(classes)}
    samples = []
    for file, group in gathered.items():
        splits = sorted({split_name(row.split) if row.split else split_of(file) for row in group})
        labels = list(dict.fromkeys(label for row in group for label in row.labels))
        if len(splits) > 1:
            raise InputError(f"{where}: {file} is in split {splits[0]!r} and {splits[1]!r}")
        if len(labels) > 1 and not several:
            raise InputError(f"{where}: {file} has several labels: {', '.join(labels)}")
        texts = tuple(dict.fromkeys(text for row in group for text in row.captions))
        samples.append((splits[0], Sample((file,), tuple(position[label] for label in labels), texts)))
    return Dataset(
        name or data_name(store), store, by_split(samples), tuple(classes), several,
        options=options or ImageOptions(), skipped=tuple(left_out),
    )  # fmt: skip


class ImageIndex:
    """Images by their path, or by their file name where that is unique."""

    def __init__(self, names: Iterable[str]) -> None:
        self._all = {name for name in names if is_image(name)}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for name in self._all:
            self._by_name[PurePosixPath(name).name].append(name)

    def find(self, image: str, where: object) -> str | None:
        """Its path among the images, ``None`` where it is not there.

        Raises:
            InputError: several images have this file name.
        """
        if image in self._all:
            return image
        hits = self._by_name.get(PurePosixPath(image).name, [])
        if len(hits) > 1:
            below = [hit for hit in hits if hit.endswith(f"/{image}")]
            if len(below) != 1:
                raise InputError(f"{where}: {image!r} could be any of {', '.join(sorted(hits)[:3])}")
            hits = below
        return hits[0] if hits else None


def text_of(path: Path) -> str:
    """A text file's content, UTF-8 with or without a byte order mark.

    Raises:
        InputError: it cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; pass the path of one that exists") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in text_of(path).removesuffix("\n").split("\n")]


def table_rows(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a csv, jsonl or parquet file.

    Args:
        columns: of a parquet file, read only these; ones it lacks are left out.

    Raises:
        InputError: it cannot be read as such a table.
        MissingExtraError: parquet without pyarrow.
    """
    if path.suffix not in TABLE_SUFFIXES:
        raise InputError(f"{path}: a table is a file ending in {', '.join(TABLE_SUFFIXES)}")
    if path.suffix == ".parquet":
        return parquet_rows(path, str(path), columns)
    text = text_of(path)
    if path.suffix == ".csv":
        try:
            return [
                {key: value for key, value in row.items() if key is not None}
                for row in csv.DictReader(io.StringIO(text, newline=""))
            ]
        except csv.Error as error:
            raise InputError(f"{path}: cannot be read as csv ({error})") from error
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}:{number}: is no JSON ({error})") from error
            if not isinstance(rows[-1], dict):
                raise InputError(f"{path}:{number}: every line must be an object")
    return rows


def parquet_rows(source: Path | io.BytesIO, where: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a parquet file; arguments and errors as :func:`table_rows`."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("geo", "pyarrow", f"{where}: reading parquet") from error
    try:
        file = parquet.ParquetFile(source)
        chosen = None if columns is None else [c for c in file.schema_arrow.names if c in columns]
        return list(file.read(columns=chosen).to_pylist())
    except Exception as error:  # pyarrow's errors have no common base below Exception
        raise InputError(f"{where}: cannot be read as a table ({error})") from error


def table_columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """All columns, in the order in which rows name them."""
    return list(dict.fromkeys(key for row in rows for key in row))


def listed(value: Any, separator: str | None = ";") -> list[str]:
    """A cell as a list of texts: a list, a JSON list, or a string, split at ``separator`` where that is given."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                return [str(item) for item in json.loads(value)]
            except (ValueError, RecursionError):
                pass
        parts = value.split(separator) if separator else [value]
        return [part.strip() for part in parts if part.strip()]
    return [str(item).strip() for item in value]
