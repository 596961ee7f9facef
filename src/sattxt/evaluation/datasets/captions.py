"""Captioned images: the ``dataset_*.json`` in which RSICD, RSITMD and UCM-captions are published, and ``.jsonl``."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from sattxt.errors import InputError
from sattxt.evaluation.datasets.base import SPLITS, Collection, Sample, by_split, data_name
from sattxt.evaluation.datasets.store import Store, is_image
from sattxt.images import ImageOptions


def read_captions(
    store: Store, captions: Path | None = None, *, name: str | None = None, options: ImageOptions | None = None
) -> Collection:
    """Images with the captions that a file gives them.

    Args:
        store: the images.
        captions: ``.json`` as published (``{"images": [{"filename", "split", "sentences": [{"raw"}]}]}``) or ``.jsonl``
            (``{"image", "captions"}`` a line; ``split`` optional, else from the path; rows whose image is null are left
            out). ``None``: the one ``dataset*.json`` among the images.

    Raises:
        InputError: no such file, not of that form, or it names images that are not there.
    """
    if captions is None:
        found = [n for n in store.names() if PurePosixPath(n).name.startswith("dataset") and n.endswith(".json")]
        if len(found) != 1:
            raise InputError(
                f"{store.path}: {len(found) or 'no'} caption files (dataset*.json) in it; name one with --captions FILE"
            )
        where, text = f"{store.path}/{found[0]}", store.read(found[0]).decode("utf-8-sig")
    else:
        where = str(captions)
        try:
            text = captions.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{captions}: cannot be read ({error})") from error
    rows = _jsonl(text, where) if where.endswith(".jsonl") else _published(text, where)
    files = _Files(store)
    samples: list[tuple[str, Sample]] = []
    missing: list[str] = []
    for split, image, texts in rows:
        file = files.find(image, where)
        if file is None:
            missing.append(image)
        elif texts:
            samples.append((SPLITS.get(split.lower(), split) if split else _split_of(file), Sample((file,), (), texts)))
    if missing:
        raise InputError(
            f"{where}: {len(missing)} of {len(missing) + len(samples)} images are not in {store.path}, "
            f"first {missing[0]!r}"
        )
    if not samples:
        raise InputError(f"{where}: no image with captions in it")
    return Collection(name or data_name(store), store, by_split(samples), options=options or ImageOptions())


class _Files:
    """Images by their path, or by their file name where that is unique."""

    def __init__(self, store: Store) -> None:
        self._all = {n for n in store.names() if is_image(n)}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for n in self._all:
            self._by_name[PurePosixPath(n).name].append(n)

    def find(self, image: str, where: str) -> str | None:
        if image in self._all:
            return image
        hits = self._by_name.get(PurePosixPath(image).name, [])
        if len(hits) > 1:
            raise InputError(f"{where}: {image!r} could be any of {', '.join(sorted(hits)[:3])}")
        return hits[0] if hits else None


def _published(text: str, where: str) -> list[tuple[str, str, tuple[str, ...]]]:
    try:
        images = json.loads(text)["images"]
        return [
            (
                row.get("split", ""),
                row["filename"],
                tuple(s["raw"].strip() for s in row["sentences"] if s["raw"].strip()),
            )
            for row in images
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{where}: expected an object with 'images', each with 'filename' and 'sentences' of 'raw' ({error!r})"
        ) from error


def _jsonl(text: str, where: str) -> list[tuple[str, str, tuple[str, ...]]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
            if row["image"] is not None:
                texts = tuple(t.strip() for t in row["captions"] if t.strip())
                rows.append((row.get("split") or "", row["image"], texts))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{where}:{number}: expected an object with 'image' and 'captions' ({error!r})") from error
    return rows


def _split_of(file: str) -> str:
    return next((SPLITS[part.lower()] for part in PurePosixPath(file).parts[:-1] if part.lower() in SPLITS), "")
