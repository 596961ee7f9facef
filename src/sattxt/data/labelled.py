"""Pictures with classes or captions: class folders, tables, the files of published caption sets, ForestNet."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sattxt.data.archive import Store, is_image, open_store
from sattxt.data.dataset import SPLITS, Dataset, Sample, by_split, split_name, split_of
from sattxt.data.tables import TABLE_SUFFIXES, Row, check_columns, parse_table, read_file, read_rows
from sattxt.errors import InputError, LabelError
from sattxt.images.bands import EUROSAT_MS
from sattxt.images.options import ImageOptions
from sattxt.labels.sets import label_set

_NWPU_RAW = re.compile(r"raw(?:_(\d+))?$")
#: How EuroSAT's multispectral tiles are seen as its RGB tiles are.
_EUROSAT_MS = ImageOptions(stretch="sentinel2", bands=("B04", "B03", "B02"), band_names=EUROSAT_MS)


def read_folders(
    path: Path, *, known: str | None = None, captions: Path | None = None, options: ImageOptions | None = None
) -> Dataset:
    """Images whose parent folder is their class.

    A folder above the class named ``train``, ``val`` or ``test`` (or a spelling of these) is the split.

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
    loose = dict.fromkeys((file for file in images if file not in folders), "lies in no class folder")
    skipped = list(loose.items())
    rows = [Row(file, (), (folder,)) for file, folder in folders.items()]
    if captions is not None:
        told, unusable, _ = read_rows(captions, label_column=())
        if not any(row.image in folders for row in told):
            raise InputError(
                f"captions: {captions}: none of its images is there; it names {told[0].image if told else 'nothing'}, "
                f"there is {rows[0].image}"
            )
        skipped += unusable
        rows += [Row(row.image, row.captions) for row in told if row.image not in loose]
    if known == "eurosat" and options is None and images[0].endswith(".tif"):
        options = _EUROSAT_MS
    return listed_dataset(store, rows, skipped, path, known=known, options=options)


def _class_folder(file: str) -> str | None:
    """The class of an image by its folder; ``None`` where it lies in no class folder."""
    *parents, _ = file.split("/")
    return None if not parents or (len(parents) == 1 and parents[0].lower() in SPLITS) else parents[-1]


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
    rows, unusable, several = read_rows(
        path,
        captions,
        image_column=image_column,
        caption_columns=caption_columns,
        label_column=label_column,
        split_column=split_column,
    )
    store = open_store(images or path.parent)
    return listed_dataset(store, rows, unusable, path, name=path.stem, several=several, options=options)


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
    where = str(captions)
    if captions is None:
        found = [n for n in store.names() if PurePosixPath(n).name.startswith("dataset") and n.endswith(".json")]
        if len(found) != 1:
            raise InputError(
                f"{path}: {len(found) or 'no'} caption files (dataset*.json) in it; name one with captions "
                "(--captions FILE)"
            )
        where = f"{path}/{found[0]}"
        rows = published_captions(store.read(found[0]), where)
    elif captions.suffix in TABLE_SUFFIXES:
        rows, unusable, _ = read_rows(captions, label_column=())
    else:
        rows = published_captions(read_file(captions), where)
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


def read_forestnet(path: Path, *, merged: bool = False, options: ImageOptions | None = None) -> Dataset:
    """Places of forest loss with their driver: 12 classes (column ``label``), or the 4 of ``merged_label``.

    Raises:
        InputError: no split table, or a column is missing.
    """
    store = open_store(path)
    column = "merged_label" if merged else "label"
    rows: list[Row] = []
    for table in (PurePosixPath(name) for name in store.names()):
        if table.name in ("train.csv", "val.csv", "test.csv"):
            listed = parse_table(store.read(str(table)), f"{path}/{table}")
            check_columns(f"{path}/{table}", listed, ("example_path", column))
            images = [str(table.parent / row["example_path"] / "images/visible/composite.png") for row in listed]
            rows += [Row(image, (), (row[column],), table.stem) for image, row in zip(images, listed, strict=True)]
    if not rows:
        raise InputError(f"{path}: no train.csv, val.csv or test.csv with ForestNet's examples in it")
    return listed_dataset(store, rows, [], path, known=None if merged else "forestnet-12", options=options)


def listed_dataset(
    store: Store,
    rows: Sequence[Row],
    skipped: Iterable[tuple[str, str]],
    where: object,
    *,
    name: str | None = None,
    known: str | None = None,
    several: bool = False,
    by_name: bool = False,
    options: ImageOptions | None = None,
) -> Dataset:
    """The images among ``store`` that rows name.

    Rows of one image are one sample with all of their captions; one said twice counts twice, as in the published
    retrieval figures. What is not there, or has neither caption nor label, goes to ``skipped``.

    Args:
        where: the rows' file, for messages.
        known: the label set that the labels are of; its order and all of its classes are kept.
        several: whether a sample may have several labels.
        by_name: whether an image that is not at its path is found by its file name, where that is unique.

    Raises:
        InputError: an image could be any of several, is in two splits, has two labels where it may have one or a label
            that is not of ``known``; no row can be used.
    """
    everything = set(store.names())
    called: dict[str, list[str]] = defaultdict(list)
    for file_name in filter(is_image, everything if by_name else ()):
        called[PurePosixPath(file_name).name].append(file_name)
    left_out = list(skipped)
    gathered: dict[str, list[Row]] = {}
    for row in rows:
        file = row.image if row.image in everything else _by_file_name(row, called, where)
        if file is None:
            left_out.append((row.image, f"is not in {store.path.name}"))
        elif not row.captions and not row.labels and not several:
            left_out.append((row.image, "has neither caption nor label"))
        else:
            gathered.setdefault(file, []).append(row)
    if not gathered:
        found = "such as {}: {}".format(*left_out[0]) if left_out else "it names none"
        raise InputError(f"{where}: none of its {len(left_out)} images can be used, {found}")
    classes, position = class_positions({label for row in rows for label in row.labels}, known, where)
    samples = []
    for file, group in gathered.items():
        splits = {split_name(row.split) for row in group if row.split} or {split_of(file)}
        labels = tuple(dict.fromkeys(position[label] for row in group for label in row.labels))
        if len(splits) > 1:
            raise InputError(f"{where}: {file} is in split {' and '.join(map(repr, sorted(splits)))}")
        if len(labels) > 1 and not several:
            raise InputError(f"{where}: {file} has several labels: {', '.join(classes[label] for label in labels)}")
        texts = tuple(text for row in group for text in row.captions)
        samples.append((splits.pop(), Sample((file,), labels, texts)))
    return Dataset(
        name or store.name, store, by_split(samples), classes, several,
        label_set=known, options=options or ImageOptions(), skipped=tuple(left_out),
    )  # fmt: skip


def _by_file_name(row: Row, called: Mapping[str, list[str]], where: object) -> str | None:
    """The image of a row among those ``called`` by their file name; an error where it could be several."""
    hits = called.get(PurePosixPath(row.image).name, [])
    for place in (*(f"{label}/{row.image}" for label in row.labels), row.image):
        hits = [hit for hit in hits if f"/{hit}".endswith(f"/{place}")] or hits
    if len(hits) > 1:
        raise InputError(f"{where}: {row.image!r} could be any of {', '.join(sorted(hits)[:3])}")
    return hits[0] if hits else None


def class_positions(labels: Iterable[str], known: str | None, where: object) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes of a data set, and each label's position among them: sorted, or in the order of a label set.

    Raises:
        InputError: a label is none of the label set ``known``.
    """
    found = sorted(labels)
    if known is None:
        return tuple(found), {label: i for i, label in enumerate(found)}
    keys = label_set(known).keys
    try:
        return tuple(keys), {label: keys.index(label_set(known).find(label).key) for label in found}
    except LabelError as error:
        raise InputError(f"{where}: {error}; pass --dataset folder for class folders of any name") from error
