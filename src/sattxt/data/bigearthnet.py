"""BigEarthNet: version 1 (labels in JSON files, 43 classes) and version 2 (reBEN, metadata.parquet, 19 classes)."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from sattxt.data.archive import Store, open_store
from sattxt.data.dataset import Dataset, Row, listed_dataset
from sattxt.data.tables import check_columns, parse_table
from sattxt.errors import InputError
from sattxt.images.options import ImageOptions
from sattxt.labels.sets import label_set

_RGB = ("B04", "B03", "B02")
_METADATA = "_labels_metadata.json"

#: CORINE classes of the 43 that make up each of the 19 (Sumbul et al. 2021, BigEarthNet-MM, table 3). Those named after
#: themselves are not listed; eleven of the 43 have no place among the 19.
MERGED = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}


def read_bigearthnet(path: Path, *, classes: int = 19, options: ImageOptions | None = None) -> Dataset:
    """Patches with their land-cover labels, 19 or 43 classes; the version is told from the files.

    Version 1: ``PATCH/PATCH_B04.tif`` and ``PATCH/PATCH_labels_metadata.json``; the published splits where
    ``train.csv``, ``val.csv``, ``test.csv`` (one patch a line) lie among the files. Version 2: ``metadata.parquet``
    with ``patch_id``, ``labels``, ``split``, and ``TILE/PATCH/PATCH_B04.tif``. Reflectance is stretched from 0-2750
    unless ``options`` say otherwise. No offset is taken off unless they name one: both versions hold reflectance x
    10,000 itself, although the patches of version 2 are named ``_N9999_``, as if of a late processing baseline.

    Raises:
        InputError: neither layout is found, or 43 classes are asked of version 2, which has 19.
    """
    store = open_store(path)
    names = store.names()
    bands = {PurePosixPath(n).name: n for n in names if n.endswith(tuple(f"_{band}.tif" for band in _RGB))}
    if not bands:
        raise InputError(f"{store.path}: no patch (..._B04.tif, ..._B03.tif, ..._B02.tif) in it")
    tables = [n for n in names if PurePosixPath(n).name == "metadata.parquet"]
    labelled = _version_2(store, tables[0], classes) if tables else _version_1(store, names, classes)
    rows = []
    for patch, split, labels in labelled:
        files = tuple(bands.get(f"{patch}_{band}.tif", "") for band in _RGB)
        if not labels or not any(files):
            continue  # of the 43 classes, eleven are in no group of the 19; and a subset of the patches may be unpacked
        if not all(files):
            raise InputError(f"{store.path}: patch {patch} lacks one of its bands {', '.join(_RGB)}")
        rows.append(Row(files[0], (), tuple(labels), split, files[1:]))
    options = options or ImageOptions(stretch="sentinel2", offset=None)
    return listed_dataset(store, rows, (), path, known=f"bigearthnet-{classes}", several=True, options=options)


def _version_1(store: Store, names: list[str], classes: int) -> list[tuple[str, str, list[str]]]:
    splits: dict[str, str] = {}
    for table in (PurePosixPath(n) for n in names):
        if table.name in ("train.csv", "val.csv", "test.csv"):
            lines = store.read(str(table)).decode("utf-8", "replace").splitlines()
            splits |= {line.split(",")[0].strip(): table.stem for line in lines}
    into = {part: whole for whole, parts in MERGED.items() for part in parts}
    kept = set(label_set("bigearthnet-19").keys)
    rows = []
    for n in names:
        if not n.endswith(_METADATA):
            continue
        patch = PurePosixPath(n).name.removesuffix(_METADATA)
        if splits and patch not in splits:
            continue  # the published splits leave out patches under snow and cloud
        try:
            labels = list(json.loads(store.read(n))["labels"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{store.path}/{n}: expected an object with 'labels' ({error!r})") from error
        if classes == 19:
            labels = sorted({into.get(label, label) for label in labels} & kept)
        rows.append((patch, splits.get(patch, ""), labels))
    return rows


def _version_2(store: Store, table: str, classes: int) -> list[tuple[str, str, list[str]]]:
    if classes != 19:
        raise InputError(f"{store.path}: BigEarthNet version 2 is published with 19 classes; pass bigearthnet-19")
    where, columns = f"{store.path}/{table}", ("patch_id", "labels", "split")
    rows = parse_table(store.read(table), where, columns)
    check_columns(where, rows, columns)
    return [(row["patch_id"], row["split"] or "", row["labels"]) for row in rows]
