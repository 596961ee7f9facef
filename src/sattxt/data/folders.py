"""Class folders: ``Class/image``, with or without ``train/``, ``val/``, ``test/`` above, or with lists of splits."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sattxt.data.archive import FolderStore, Store, is_image, open_store
from sattxt.data.captions import jsonl_captions
from sattxt.data.dataset import SPLITS, Dataset, Sample, by_split, data_name, split_of
from sattxt.data.tables import text_of
from sattxt.errors import InputError
from sattxt.images.bands import EUROSAT_MS
from sattxt.images.options import ImageOptions
from sattxt.labels.sets import LabelSet, label_set

_SPLIT_LIST = re.compile(r"(?:^|[-_./])(train|training|val|valid|validation|test)\.(?:txt|csv)$", re.IGNORECASE)
#: How EuroSAT's multispectral tiles are seen as its RGB tiles are.
_EUROSAT_MS = ImageOptions(stretch="sentinel2", bands=("B04", "B03", "B02"), band_names=EUROSAT_MS)


def read_folders(
    path: Path, *, known: str | None = None, captions: Path | None = None, options: ImageOptions | None = None
) -> Dataset:
    """Images whose parent folder is their class.

    A folder above the class named ``train``, ``val`` or ``test`` (or a spelling of these) is the split. Where there
    is none, files such as ``eurosat-train.txt`` or ``train.csv`` that list images give it.

    Args:
        known: the label set whose keys the class folders are; its order and all of its classes are kept. Without it
            the classes are the folders', sorted, the same in every split.
        captions: a ``.jsonl`` of captions whose ``image`` is the path in the folder or archive.

    Raises:
        InputError: no image in a class folder, a class that is none of ``known``'s, or captions of none of the images.
    """
    store = open_store(path)
    images = [file for file in store.names() if is_image(file)]
    if not images:
        raise InputError(f"{path}: holds no image")
    folders = {file: folder for file in images if (folder := _class_folder(file))}
    if not folders:
        raise InputError(
            f"{path}: {images[0]} lies in no class folder; expected CLASS/{images[0].rsplit('/')[-1]} (or "
            "train/CLASS/..., val/CLASS/...); images and a file of captions or labels are another kind of data (table)"
        )
    skipped = [(file, "lies in no class folder") for file in images if file not in folders]
    named = label_set(known) if known else None
    classes, position = _classes(sorted(set(folders.values())), named, store)
    samples = [(split_of(file), Sample((file,), (position[folder],))) for file, folder in folders.items()]
    if not any(split for split, _ in samples):
        samples = _listed(store, samples, beside=named is not None)
    if captions is not None:
        samples, lost = _captioned(samples, captions)
        skipped += lost
    if known == "eurosat" and options is None and images[0].endswith(".tif"):
        options = _EUROSAT_MS
    return Dataset(
        data_name(store), store, by_split(samples), classes, label_set=named.name if named else None,
        options=options or ImageOptions(), skipped=tuple(skipped),
    )  # fmt: skip


def _class_folder(file: str) -> str | None:
    """The class of an image by its folder; ``None`` where it lies in no class folder."""
    *parents, _ = file.split("/")
    return None if not parents or (len(parents) == 1 and parents[0].lower() in SPLITS) else parents[-1]


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


def _captioned(samples: list[tuple[str, Sample]], path: Path) -> tuple[list[tuple[str, Sample]], list[tuple[str, str]]]:
    """The samples with their captions, and the images of captions that are not there."""
    texts: dict[str, list[str]] = defaultdict(list)
    for row in jsonl_captions(text_of(path), str(path)):
        texts[row.image] += row.captions
    found = [(split, replace(sample, captions=tuple(texts.pop(sample.id, ())))) for split, sample in samples]
    if not any(sample.captions for _, sample in found):
        raise InputError(
            f"captions: {path}: none of its images is there; it names {next(iter(texts), 'nothing')}, there is "
            f"{found[0][1].id}"
        )
    return found, [(image, f"has captions in {path.name}, is not there") for image in texts]


def _listed(store: Store, samples: list[tuple[str, Sample]], *, beside: bool) -> list[tuple[str, Sample]]:
    """The samples with the splits that list files give, if there are any.

    They may lie among the images, or for a data set of a known name beside its archive.
    """
    lists = [(store, name) for name in store.names() if name.endswith((".txt", ".csv")) and _SPLIT_LIST.search(name)]
    if not lists and beside and not isinstance(store, FolderStore):
        parent = store.path.parent
        around = FolderStore(parent)
        lists = [(around, p.name) for p in sorted(parent.iterdir()) if p.is_file() and _SPLIT_LIST.search(p.name)]
    stems: dict[str, list[int]] = defaultdict(list)
    for index, (_, sample) in enumerate(samples):
        image = PurePosixPath(sample.id)
        stems[image.stem].append(index)
        stems[f"{image.parent.name}/{image.stem}"].append(index)
    found: dict[int, str] = {}
    for source, name in lists:
        match = _SPLIT_LIST.search(name)
        split = SPLITS[match.group(1).lower()] if match else ""
        for entry in _entries(source.read(name).decode("utf-8-sig", "replace")):
            image = PurePosixPath(entry)
            hits = stems.get(f"{image.parent.name}/{image.stem}") or stems.get(image.stem) or []
            if len(hits) > 1:
                raise InputError(f"{name}: {entry!r} could be any of {len(hits)} images; list it with its folder")
            for hit in hits:
                if found.setdefault(hit, split) != split:
                    raise InputError(f"{name}: {entry!r} is in split {found[hit]!r} too")
    return [(found[i], sample) for i, (_, sample) in enumerate(samples) if i in found] if found else samples


def _entries(text: str) -> Iterable[str]:
    """The image in each line: the first cell that looks like a file's name."""
    for row in csv.reader(io.StringIO(text)):
        cell = next((c.strip() for c in row if is_image(c.strip())), None)
        if cell:
            yield cell.replace("\\", "/")
