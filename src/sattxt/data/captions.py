"""Captioned images: the ``dataset_*.json`` in which caption sets are published, and ``.jsonl``."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from sattxt.data.archive import open_store
from sattxt.data.dataset import Dataset
from sattxt.data.tables import TABLE_SUFFIXES, Row, listed_dataset, read_file, read_rows
from sattxt.errors import InputError
from sattxt.images.options import ImageOptions

_NWPU_RAW = re.compile(r"raw(?:_(\d+))?$")


def read_captions(path: Path, *, captions: Path | None = None, options: ImageOptions | None = None) -> Dataset:
    """Images with the captions that a file gives them, found by their path or, where it is unique, their file name.

    Layouts, from the loading code and descriptions published beside the sets, no original archive was at hand:
    ``dataset_rsicd.json`` and ``RSICD_images/``; ``dataset_RSITMD.json`` and ``images/`` (train and test only);
    UCM-captions and Sydney-captions ``dataset.json`` and ``imgs/``; NWPU-Captions ``dataset_nwpu.json`` and
    ``NWPU_images/{class}/``.

    Args:
        path: the images.
        captions: ``.json`` as published (see :func:`published_captions`) or a table (see
            :func:`sattxt.data.tables.read_rows`); without a ``split`` it is that of the path. ``None``: the one
            ``dataset*.json`` among the images.

    Raises:
        InputError: no such file, not of that form, or no image of it is there.
    """
    store = open_store(path)
    unusable: list[tuple[str, str]] = []
    if captions is not None and captions.suffix in TABLE_SUFFIXES:
        where = str(captions)
        rows, unusable, _ = read_rows(captions, label_column=())
    elif captions is not None:
        where = str(captions)
        rows = published_captions(read_file(captions), where)
    else:
        found = [n for n in store.names() if PurePosixPath(n).name.startswith("dataset") and n.endswith(".json")]
        if len(found) != 1:
            raise InputError(
                f"{path}: {len(found) or 'no'} caption files (dataset*.json) in it; name one with captions "
                "(--captions FILE)"
            )
        where = f"{path}/{found[0]}"
        rows = published_captions(store.read(found[0]), where)
    return listed_dataset(store, rows, unusable, where, by_name=True, options=options)


def published_captions(content: str | bytes, where: str) -> list[Row]:
    """The ``dataset_*.json`` in which captions are published.

    RSICD, RSITMD, UCM-captions and Sydney-captions: ``{"images": [{"filename", "split", "sentences": [{"raw"}]}]}``.
    NWPU-Captions: ``{class: [{"filename", "split", "raw", "raw_1", ...}]}``, the class being the image's label.

    Raises:
        InputError: it has neither form.
    """
    try:
        data = json.loads(content)
        if "images" in data:
            return [_row(image, [sentence["raw"] for sentence in image["sentences"]]) for image in data["images"]]
        return [_row(image, _numbered(image), (label,)) for label, images in data.items() for image in images]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{where}: expected {{'images': [{{'filename', 'split', 'sentences': [{{'raw'}}]}}]}} or, as NWPU-Captions "
            f"has it, {{class: [{{'filename', 'split', 'raw', 'raw_1'}}]}} ({error!r})"
        ) from error


def _row(image: dict[str, Any], texts: list[str], labels: tuple[str, ...] = ()) -> Row:
    captions = tuple(text for value in texts if (text := value.strip()))
    return Row(image["filename"].replace("\\", "/"), captions, labels, image.get("split") or "")


def _numbered(image: dict[str, Any]) -> list[str]:
    """The texts under ``raw``, ``raw_1``, ``raw_2``, ... in this order."""
    found = {int(match.group(1) or 0): value for key, value in image.items() if (match := _NWPU_RAW.match(key))}
    if not found:
        raise KeyError("raw")
    return [found[number] for number in sorted(found)]
