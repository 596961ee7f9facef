"""Class folders: ``Class/image``, with or without ``train/``, ``val/``, ``test/`` above, or with lists of splits."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sattxt.data.archive import Store, is_image, open_store
from sattxt.data.dataset import SPLITS, Dataset, split_name, split_of
from sattxt.data.tables import Row, listed_dataset, read_rows
from sattxt.errors import InputError
from sattxt.images.bands import EUROSAT_MS
from sattxt.images.options import ImageOptions

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
        captions: a table of captions whose ``image`` is the path in the folder or archive, see
            :func:`sattxt.data.tables.read_rows`.

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
    lists = _lists(store, beside=known is not None) if not any(map(split_of, folders)) else []
    splits = _listed(lists, list(folders)) if lists else dict.fromkeys(folders, "")
    rows = [Row(file, (), (folder,), splits[file]) for file, folder in folders.items() if file in splits]
    if captions is not None:
        told, unusable, _ = read_rows(captions, label_column=())
        skipped += unusable
        rows += [Row(row.image, row.captions, (), splits[row.image]) for row in told if row.image in splits]
        skipped += [
            (row.image, f"has captions in {captions.name}, is not there") for row in told if row.image not in folders
        ]
        if len(rows) == len(splits):
            raise InputError(
                f"captions: {captions}: none of its images is there; it names {told[0].image if told else 'nothing'}, "
                f"there is {rows[0].image}"
            )
    if known == "eurosat" and options is None and images[0].endswith(".tif"):
        options = _EUROSAT_MS
    return listed_dataset(store, rows, skipped, path, known=known, options=options)


def _class_folder(file: str) -> str | None:
    """The class of an image by its folder; ``None`` where it lies in no class folder."""
    *parents, _ = file.split("/")
    return None if not parents or (len(parents) == 1 and parents[0].lower() in SPLITS) else parents[-1]


def _lists(store: Store, *, beside: bool) -> list[tuple[str, str]]:
    """The split and content of the files that list images of a split.

    They may lie among the images, or for a data set of a known name beside its archive.
    """
    names = [name for name in store.names() if name.endswith((".txt", ".csv"))]
    if beside and not store.path.is_dir() and not any(map(_SPLIT_LIST.search, names)):
        store = Store(store.path.parent)
        names = sorted(p.name for p in store.path.iterdir() if p.is_file())
    found = [(match, name) for name in names if (match := _SPLIT_LIST.search(name))]
    return [(split_name(match.group(1)), store.read(name).decode("utf-8-sig", "replace")) for match, name in found]


def _listed(lists: Iterable[tuple[str, str]], images: list[str]) -> dict[str, str]:
    """Image to split, of those that lists name: by file name, or folder and file name, without what follows the dot.

    A line names the image in its first cell that looks like an image's file name.
    """
    stems: dict[str, list[str]] = defaultdict(list)
    for file in images:
        path = PurePosixPath(file)
        stems[path.stem].append(file)
        stems[f"{path.parent.name}/{path.stem}"].append(file)
    found: dict[str, str] = {}
    for split, text in lists:
        cells = (next((c for cell in row if is_image(c := cell.strip())), "") for row in csv.reader(io.StringIO(text)))
        for entry in filter(None, cells):
            path = PurePosixPath(entry.replace("\\", "/"))
            hits = stems.get(f"{path.parent.name}/{path.stem}") or stems.get(path.stem) or []
            if len(hits) > 1:
                raise InputError(f"{entry!r} in a list could be any of {len(hits)} images; list it with its folder")
            for hit in hits:
                if found.setdefault(hit, split) != split:
                    raise InputError(f"{entry!r} is listed in split {split!r} and in {found[hit]!r}")
    return found or dict.fromkeys(images, "")
