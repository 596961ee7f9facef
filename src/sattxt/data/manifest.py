"""A table of images: csv, parquet or jsonl with a path column and labels or captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sattxt.data.archive import open_store
from sattxt.data.dataset import Dataset, Sample, by_split
from sattxt.data.tables import PATH_COLUMNS, TABLE_SUFFIXES, listed, split_name, table_columns, table_rows
from sattxt.errors import InputError
from sattxt.images.read import ImageOptions

MANIFEST_SUFFIXES = TABLE_SUFFIXES


def read_manifest(path: Path, *, images: Path | None = None, options: ImageOptions | None = None) -> Dataset:
    """Images that a table names.

    Columns: ``path`` (or image, file, filename, filepath); one of ``label`` (one class), ``labels`` (a list, or joined
    with ``;``: multi-label), ``caption`` or ``captions`` (a list; in csv one column); ``split`` optional.

    Args:
        path: the table; by default the paths in it are relative to its folder.
        images: a folder or archive that they are relative to instead.

    Raises:
        InputError: a column is missing, or an image.
        MissingExtraError: parquet without pyarrow.
    """
    rows = table_rows(path)
    if not rows:
        raise InputError(f"{path}: has no rows")
    columns = table_columns(rows)
    column = next((c for c in PATH_COLUMNS if c in columns), None)
    if column is None:
        raise InputError(f"{path}: no column {', '.join(PATH_COLUMNS)}; it has {', '.join(columns)}")
    kinds = [c for c in ("label", "labels", "caption", "captions") if c in columns]
    if not kinds:
        raise InputError(f"{path}: no column label, labels, caption or captions; it has {', '.join(columns)}")
    store = open_store(images or path.parent)
    present = set(store.names())
    multi = "labels" in kinds
    labels = [listed(row.get("labels")) if multi else _one(row.get("label")) for row in rows]
    classes = tuple(sorted({label for group in labels for label in group}))
    position = {name: i for i, name in enumerate(classes)}
    samples = []
    for number, (row, group) in enumerate(zip(rows, labels, strict=True), 1):
        file = str(row.get(column) or "").replace("\\", "/")
        if file not in present:
            raise InputError(f"{path}: row {number}: {file!r} is not in {store.path}")
        texts = tuple(listed(row.get("captions"), None) or _one(row.get("caption")))
        split = str(row.get("split") or "")
        found = Sample((file,), tuple(position[name] for name in group), texts)
        samples.append((split_name(split), found))
    if "label" in kinds and not multi and any(len(s.labels) != 1 for _, s in samples):
        raise InputError(f"{path}: some rows have no label")
    return Dataset(path.stem, store, by_split(samples), classes, multi_label=multi, options=options or ImageOptions())


def _one(value: Any) -> Sequence[str]:
    return [] if value is None or value == "" else [str(value).strip()]
