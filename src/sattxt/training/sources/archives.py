"""Images in a folder, zip or tar as tiles of a data set: opened in place, split, decoded in memory or as needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sattxt.data.archive import Store, open_store
from sattxt.errors import InputError
from sattxt.images.options import ImageOptions
from sattxt.training.data import LazyTiles, TileSet, decode_tile
from sattxt.training.sources.entry import Entry, hint

#: Data sets that decode to less than this are held in memory unless an entry says otherwise.
MEMORY_LIMIT = 4_000_000_000


class Files:
    """A folder, zip or tar that survives being copied into another process (forked or pickled)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store: Store | None = None
        self._process = -1
        self.store()

    def store(self) -> Store:
        """The open store of this process."""
        if self._store is None or self._process != os.getpid():  # a file position shared with a parent is no use
            self._store, self._process = open_store(self.path), os.getpid()
        return self._store

    def names(self) -> list[str]:
        """All file names, sorted."""
        return self.store().names()

    def read(self, name: str) -> bytes:
        """A file's content."""
        return self.store().read(name)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self._store, self._process = state["path"], None, -1


class ImageDecoder:
    """Decodes the images of a list by their position in it."""

    def __init__(self, files: Files, names: Sequence[str], size: int, options: ImageOptions) -> None:
        self._files, self._names, self._size, self._options = files, list(names), size, options

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """(3, size, size) uint8."""
        name = self._names[index]
        return decode_tile(self._files.read(name), self._size, options=self._options, name=name)


def image_tiles(
    entry: Entry,
    files: Files,
    names: Sequence[str],
    *,
    labels: Sequence[int] | None = None,
    classes: Sequence[str] = (),
    captions: Sequence[Sequence[str]] | None = None,
    skipped: Sequence[tuple[str, str]] = (),
) -> TileSet | LazyTiles:
    """Tiles of image files, in memory or not as the entry's ``memory`` says."""
    size = entry.integer("size", low=8)
    lazy = LazyTiles(
        entry.name,
        names,
        ImageDecoder(files, names, size, entry.image_options()),
        size,
        labels=None if labels is None else torch.tensor(list(labels), dtype=torch.int64),
        classes=classes,
        captions=captions,
        skipped=skipped,
    )
    return settle(entry, lazy)


def settle(entry: Entry, lazy: LazyTiles) -> TileSet | LazyTiles:
    """The tiles decoded now if the entry asks for it, or leaves it open and they are few enough."""
    return lazy.in_memory() if held_in_memory(entry, lazy.nbytes) else lazy


def held_in_memory(entry: Entry, nbytes: int) -> bool:
    """Whether data of this size are to be held in memory."""
    wanted = entry.memory()
    return nbytes < MEMORY_LIMIT if wanted is None else wanted


def renamed(entry: Entry, folders: Sequence[str]) -> dict[str, str]:
    """What classes are called after the entry's ``names``.

    Raises:
        InputError: a name is given to a class that is not there.
    """
    names = entry.names("names")
    for folder in names:
        if folder not in folders:
            raise entry.error("names", f"{folder!r} is none of the classes{hint(folder, folders)}")
    return {folder: names.get(folder, folder) for folder in folders}


def held_out(key: str, share: float) -> bool:
    """Whether a sample belongs to the held-out ``share``, by its name alone: the same on every machine and in any
    order.
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < share * 2**64


def chosen(
    entry: Entry, given: Mapping[str, str], split: str, *, where: object
) -> tuple[list[str], list[tuple[str, str]]]:
    """The samples of a split.

    Samples that have no split are divided by their names into train and val, ``val_share`` of them val (default 0.1);
    so are those of train if ``val_share`` is given and nothing is val.

    Args:
        given: each sample's split, "" where there is none.

    Returns:
        The samples in order, and those whose split is not known while others' is, with that reason.

    Raises:
        InputError: there are none; the message has the splits that there are.
    """
    share = entry.number("val_share", 0.1, low=0, high=0.9)
    splits = set(given.values())
    unknown: list[tuple[str, str]] = []
    divided: str | None
    if splits == {""}:
        divided = ""
    else:
        divided = "train" if "val" not in splits and "val_share" in entry else None
        unknown = [(key, "no split is given") for key, known in given.items() if not known]
    found = []
    for key, known in given.items():
        drawn = "val" if held_out(key, share) else "train"
        if split == (drawn if known == divided else known):
            found.append(key)
    if not found:
        there = sorted(splits - {""}) or ["train", "val"]
        more = "; pass val_share: 0.1 to hold out a part of train" if split == "val" and "train" in splits else ""
        raise InputError(
            f"data set {entry.name!r}: {where}: nothing is in split {split!r}; it has {', '.join(there)}{more}"
        )
    return found, unknown
