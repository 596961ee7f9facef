"""Files that list samples: tables, published caption files, and what a path says of split and class.

Read alike by evaluation and training; nothing here opens an image.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sattxt.data.archive import is_image
from sattxt.errors import InputError, MissingExtraError

#: How splits are called in folders, files and columns.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
PATH_COLUMNS = ("path", "image", "file", "filename", "filepath")
_NWPU_RAW = re.compile(r"raw(?:_(\d+))?$")


@dataclass(frozen=True)
class CaptionRow:
    """An image of a caption file. split: as written, "" where there is none. label: its class, where the file says."""

    image: str
    captions: tuple[str, ...]
    split: str = ""
    label: str | None = None


def split_name(text: str) -> str:
    """``train``, ``val`` or ``test`` for the usual spellings of these; other names come back as they are."""
    return SPLITS.get(text.strip().lower(), text.strip())


def split_of(file: str) -> str:
    """The split that a folder of a path names, the innermost one; "" if none does."""
    folders = PurePosixPath(file).parts[:-1]
    return next((SPLITS[part.lower()] for part in reversed(folders) if part.lower() in SPLITS), "")


def class_folder(file: str) -> tuple[str, str] | None:
    """Split ("" if none) and class of an image by its folders; ``None`` where it lies in no class folder."""
    *parents, _ = file.split("/")
    if not parents or (parents[-1].lower() in SPLITS and len(parents) == 1):
        return None
    return split_of("/".join(parents)), parents[-1]


class ImageIndex:
    """Images by their path, or by their file name where that is unique."""

    def __init__(self, names: Iterable[str]) -> None:
        self._all = {name for name in names if is_image(name)}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for name in self._all:
            self._by_name[PurePosixPath(name).name].append(name)

    def find(self, image: str, where: str) -> str | None:
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


def published_captions(text: str, where: str) -> list[CaptionRow]:
    """The ``dataset_*.json`` in which captions are published.

    RSICD, RSITMD, UCM-captions and Sydney-captions: ``{"images": [{"filename", "split", "sentences": [{"raw"}]}]}``.
    NWPU-Captions: ``{class: [{"filename", "split", "raw", "raw_1", ...}]}``, the class being the image's label.

    Raises:
        InputError: the text has neither form.
    """
    try:
        data = json.loads(text)
        if "images" in data:
            return [
                CaptionRow(_path(row["filename"]), _texts([s["raw"] for s in row["sentences"]]), row.get("split") or "")
                for row in data["images"]
            ]
        return [
            CaptionRow(_path(row["filename"]), _texts(_numbered(row)), row.get("split") or "", label)
            for label, rows in data.items()
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{where}: expected {{'images': [{{'filename', 'split', 'sentences': [{{'raw'}}]}}]}} or, as NWPU-Captions "
            f"has it, {{class: [{{'filename', 'split', 'raw', 'raw_1'}}]}} ({error!r})"
        ) from error


def _numbered(row: dict[str, Any]) -> list[Any]:
    found = [(int(match.group(1) or 0), value) for key, value in row.items() if (match := _NWPU_RAW.match(key))]
    if not found:
        raise KeyError("raw")
    return [value for _, value in sorted(found, key=lambda item: item[0])]


def jsonl_captions(text: str, where: str) -> list[CaptionRow]:
    """``{"image", "captions"}`` a line, ``split`` optional. Rows whose image is null are left out.

    Raises:
        InputError: a line has another form; names it.
    """
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            image, captions = row["image"], row["captions"]
            if image:
                texts = _texts([captions] if isinstance(captions, str) else captions)
                rows.append(CaptionRow(_path(image), texts, row.get("split") or ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{where}:{number}: expected an object with 'image' and 'captions' ({error!r})") from error
    return rows


def _path(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no file name")
    return value.replace("\\", "/")


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(text for value in values if (text := value.strip()))


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
        return _parquet_rows(path, columns)
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


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> list[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("geo", "pyarrow", f"{path}: reading parquet") from error
    try:
        chosen = None if columns is None else [c for c in parquet.read_schema(path).names if c in columns]
        return list(parquet.read_table(path, columns=chosen).to_pylist())
    except Exception as error:  # pyarrow's errors have no common base below Exception
        raise InputError(f"{path}: cannot be read as a table ({error})") from error


def table_columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """All columns, in the order in which rows name them."""
    return list(dict.fromkeys(key for row in rows for key in row))


def listed(value: Any, separator: str | None = ";") -> list[str]:
    """A cell as a list of texts: a list, a JSON list, or a string, split at ``separator`` where that is given."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                return [str(item) for item in json.loads(value)]
            except (ValueError, RecursionError):
                pass
        parts = value.split(separator) if separator else [value]
        return [part.strip() for part in parts if part.strip()]
    return [str(item).strip() for item in value]
