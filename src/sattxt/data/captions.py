"""Captioned images: the ``dataset_*.json`` in which caption sets are published, and ``.jsonl``."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sattxt.data.archive import open_store
from sattxt.data.dataset import Dataset
from sattxt.data.tables import TABLE_SUFFIXES, Row, listed, listed_dataset, table_rows, text_of
from sattxt.errors import InputError
from sattxt.images.options import ImageOptions

log = logging.getLogger(__name__)

_NWPU_RAW = re.compile(r"raw(?:_(\d+))?$")


def read_captions(path: Path, *, captions: Path | None = None, options: ImageOptions | None = None) -> Dataset:
    """Images with the captions that a file gives them, found by their path or, where it is unique, their file name.

    Layouts, from the loading code and descriptions published beside the sets, no original archive was at hand:
    ``dataset_rsicd.json`` and ``RSICD_images/``; ``dataset_RSITMD.json`` and ``images/`` (train and test only);
    UCM-captions and Sydney-captions ``dataset.json`` and ``imgs/``; NWPU-Captions ``dataset_nwpu.json`` and
    ``NWPU_images/{class}/``.

    Args:
        path: the images.
        captions: ``.json`` as published (see :func:`published_captions`) or a table (see :func:`table_captions`;
            without a ``split`` it is that of the path). ``None``: the one ``dataset*.json`` among the images.

    Raises:
        InputError: no such file, not of that form, or no image of it is there.
    """
    store = open_store(path)
    if captions is not None and captions.suffix in TABLE_SUFFIXES:
        where, rows = str(captions), table_captions(captions)
    elif captions is not None:
        where = str(captions)
        rows = published_captions(text_of(captions), where)
    else:
        found = [n for n in store.names() if PurePosixPath(n).name.startswith("dataset") and n.endswith(".json")]
        if len(found) != 1:
            raise InputError(
                f"{path}: {len(found) or 'no'} caption files (dataset*.json) in it; name one with captions "
                "(--captions FILE)"
            )
        where = f"{path}/{found[0]}"
        rows = published_captions(store.read(found[0]).decode("utf-8-sig", "replace"), where)
    told = [row for row in rows if row.captions or row.labels]
    if len(told) < len(rows):
        log.warning("%s: %d images have no caption and are left out", where, len(rows) - len(told))
    return listed_dataset(store, told, [], where, by_name=True, options=options)


def published_captions(text: str, where: str) -> list[Row]:
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
                Row(_path(row["filename"]), _texts([s["raw"] for s in row["sentences"]]), (), row.get("split") or "")
                for row in data["images"]
            ]
        return [
            Row(_path(row["filename"]), _texts(_numbered(row)), (label,), row.get("split") or "")
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


def table_captions(path: Path) -> list[Row]:
    """A table (``.jsonl``, ``.csv``, ``.parquet``) of ``image``, ``captions`` (a text or a list) and perhaps ``split``.

    Rows whose image is null are left out.

    Raises:
        InputError: it cannot be read, or a row has another form; names it.
    """
    rows = []
    for number, row in enumerate(table_rows(path), 1):
        try:
            image, captions = row["image"], row["captions"]
            if image:
                texts = _texts(listed(captions, None) if isinstance(captions, str) else captions)
                rows.append(Row(_path(image), texts, (), row.get("split") or ""))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}:{number}: expected a row with 'image' and 'captions' ({error!r})") from error
    return rows


def _path(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no file name")
    return value.replace("\\", "/")


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(text for value in values if (text := value.strip()))
