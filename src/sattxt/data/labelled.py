"""Pictures with classes, captions or label maps: folders, tables, the files of published caption sets, ForestNet."""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sattxt.data.archive import Store, open_store
from sattxt.data.dataset import SPLITS, Dataset, Row, Sample, Samples, by_split, listed_dataset, split_of
from sattxt.data.tables import TABLE_SUFFIXES, check_columns, parse_table, read_file, read_rows
from sattxt.errors import InputError
from sattxt.images.bands import EUROSAT_MS
from sattxt.images.load import is_image
from sattxt.images.options import ImageOptions

#: Classes whose pixels count for nothing.
IGNORED = ("unlabelled", "unlabeled", "ignore", "ignored", "void", "no data", "nodata")
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
    return listed_dataset(
        open_store(images or path.parent), rows, unusable, path, name=path.stem, several=several, options=options
    )


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


@dataclass(frozen=True)
class MaskedSamples(Samples):
    """Samples whose files are an image and its mask.

    values: value in the masks to position among the classes, -1 for values whose pixels are ignored.
    """

    values: dict[int, int] = field(default_factory=dict)

    def mask(self, index: int) -> NDArray[np.int64]:
        """(H, W) class of every pixel, -1 where it is ignored.

        Raises:
            InputError: the mask cannot be read, is no single-band image, or has a value that is no class.
        """
        name = self.samples[index].files[1]
        where = f"{self.store.path}/{name}"
        try:
            with Image.open(io.BytesIO(self.store.read(name))) as image:
                mask = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{where}: cannot be read as an image ({error})") from error
        if mask.ndim != 2:
            raise InputError(f"{where}: has {mask.shape[-1]} bands; a mask has one, of class numbers")
        found, places = np.unique(mask, return_inverse=True)
        unknown = [value for value in found.tolist() if value not in self.values]
        if unknown:
            raise InputError(f"{where}: value {unknown[0]} is no class of classes.json")
        return np.array([self.values[value] for value in found.tolist()])[places].reshape(mask.shape)


def read_masks(path: Path, *, ignored: Sequence[str] = IGNORED, options: ImageOptions | None = None) -> Dataset:
    """Images with a label map each, below split folders or not; their splits are :class:`MaskedSamples`.

    ``classes.json`` is an object of number in the masks to class name, or a list of names from number 0 on.

    Args:
        ignored: names, in lower case, of classes whose pixels count for nothing.

    Raises:
        InputError: ``classes.json`` is missing or of another form, or a file has no partner.
    """
    store = open_store(path)
    numbered = _numbered_classes(store)
    classes = tuple(name for _, name in sorted(numbered.items()) if name.lower() not in ignored)
    values = {value: classes.index(name) if name in classes else -1 for value, name in numbered.items()}
    pairs: dict[str, dict[str, str]] = defaultdict(dict)
    for name in filter(is_image, store.names()):
        place = PurePosixPath(name)
        if place.parent.name in ("images", "masks"):
            pairs[str(place.parent.parent / place.stem)][place.parent.name] = name
    lonely = [place for place, pair in pairs.items() if len(pair) < 2]
    if not pairs or lonely:
        found = f"{lonely[0]} has no partner" if lonely else "there are none"
        raise InputError(f"{path}: images/NAME and masks/NAME are needed in pairs; {found}")
    samples = [(split_of(pair["images"]), Sample((pair["images"], pair["masks"]))) for pair in pairs.values()]
    return Dataset(
        store.name,
        store,
        by_split(samples),
        classes,
        options=options or ImageOptions(),
        view=partial(MaskedSamples, values=values),
    )


def _numbered_classes(store: Store) -> dict[int, str]:
    name = next((name for name in store.names() if PurePosixPath(name).name == "classes.json"), None)
    if name is None:
        raise InputError(f"{store.path}: no classes.json (number to class name) in it")
    try:
        found = json.loads(store.read(name))
        pairs = enumerate(found) if isinstance(found, list) else found.items()
        return {int(value): str(label) for value, label in pairs}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{store.path}/{name}: an object of number to class name is needed ({error})") from error
