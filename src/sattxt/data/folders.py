"""Class folders: ``Class/image``, with or without ``train/``, ``val/``, ``test/`` above, or with lists of splits."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sattxt.data.archive import FolderStore, Store, is_image
from sattxt.data.dataset import Dataset, Sample, by_split, data_name
from sattxt.data.tables import SPLITS, class_folder
from sattxt.errors import InputError
from sattxt.images.read import ImageOptions
from sattxt.labels.sets import LabelSet, label_set

_SPLIT_LIST = re.compile(r"(?:^|[-_./])(train|training|val|valid|validation|test)\.(?:txt|csv)$", re.IGNORECASE)


def read_folders(
    store: Store, *, name: str | None = None, known: str | None = None, options: ImageOptions | None = None
) -> Dataset:
    """Images whose parent folder is their class.

    A folder above the class named ``train``, ``val`` or ``test`` (or a spelling of these) is the split. Where there
    is none, files such as ``eurosat-train.txt`` or ``train.csv`` that list images give it.

    Args:
        known: the label set whose keys the class folders are; its order and all of its classes are kept.

    Raises:
        InputError: no image, an image outside a class folder, or a class that is none of ``known``'s.
    """
    images = [file for file in store.names() if is_image(file)]
    if not images:
        raise InputError(f"{store.path}: holds no image")
    placed = [(*_place(file, store), file) for file in images]
    folders = sorted({folder for _, folder, _ in placed})
    named = label_set(known) if known else None
    classes, position = _classes(folders, named, store)
    samples = [(split, Sample((file,), (position[folder],))) for split, folder, file in placed]
    if {split for split, _ in samples} == {""}:
        samples = _listed(store, samples, beside=named is not None)
    return Dataset(
        name or data_name(store),
        store,
        by_split(samples),
        classes,
        label_set=named.name if named else None,
        options=options or ImageOptions(),
    )


def _place(file: str, store: Store) -> tuple[str, str]:
    """Split ("" if none) and class folder of a file."""
    placed = class_folder(file)
    if placed is None:
        name = file.rsplit("/", 1)[-1]
        raise InputError(
            f"{store.path}: {file} lies in no class folder; expected CLASS/{name} (or train/CLASS/..., val/CLASS/...)"
        )
    return placed


def _classes(folders: list[str], named: LabelSet | None, store: Store) -> tuple[tuple[str, ...], dict[str, int]]:
    if named is None:
        return tuple(folders), {folder: i for i, folder in enumerate(folders)}
    keys = named.keys
    position = {}
    for folder in folders:
        try:
            position[folder] = keys.index(named.find(folder).key)
        except ValueError as error:
            raise InputError(
                f"{store.path}: folder {folder!r} is none of the {len(keys)} classes of {named.name}; pass "
                "--dataset folder for class folders of any name"
            ) from error
    return tuple(keys), position


def _listed(store: Store, samples: list[tuple[str, Sample]], *, beside: bool) -> list[tuple[str, Sample]]:
    """The samples with the splits that list files give, if there are any.

    They may lie among the images, or for a data set of a known name beside its archive.
    """
    lists = [(store, name) for name in store.names() if name.endswith((".txt", ".csv")) and _SPLIT_LIST.search(name)]
    if not lists and beside and not isinstance(store, FolderStore):
        parent = Path(store.path).parent
        around = _Beside(parent)
        lists = [(around, p.name) for p in sorted(parent.iterdir()) if p.is_file() and _SPLIT_LIST.search(p.name)]
    if not lists:
        return samples
    stems: dict[str, list[int]] = defaultdict(list)
    for index, (_, sample) in enumerate(samples):
        path = PurePosixPath(sample.id)
        stems[path.stem].append(index)
        stems[f"{path.parent.name}/{path.stem}"].append(index)
    found: dict[int, str] = {}
    for source, name in lists:
        match = _SPLIT_LIST.search(name)
        split = SPLITS[match.group(1).lower()] if match else ""
        for entry in _entries(source.read(name).decode("utf-8-sig", "replace")):
            path = PurePosixPath(entry)
            hits = stems.get(f"{path.parent.name}/{path.stem}") or stems.get(path.stem) or []
            if len(hits) > 1:
                raise InputError(f"{name}: {entry!r} could be any of {len(hits)} images; list it with its folder")
            for hit in hits:
                if found.get(hit, split) != split:
                    raise InputError(f"{name}: {entry!r} is in split {found[hit]!r} too")
                found[hit] = split
    if not found:
        return samples
    return [(found[i], sample) for i, (_, sample) in enumerate(samples) if i in found]


class _Beside(FolderStore):
    """The folder an archive lies in, of which only single files are read."""


def _entries(text: str) -> Iterable[str]:
    """The image in each line: the first cell that looks like a file's name."""
    for row in csv.reader(io.StringIO(text)):
        cell = next((c.strip() for c in row if is_image(c.strip())), None)
        if cell:
            yield cell.replace("\\", "/")
