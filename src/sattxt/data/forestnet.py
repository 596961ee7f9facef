"""ForestNet: ``{train,val,test}.csv`` beside ``examples/PLACE/images/visible/composite.png``."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from sattxt.data.archive import open_store
from sattxt.data.dataset import Dataset, Sample, by_split
from sattxt.errors import InputError
from sattxt.images.options import ImageOptions
from sattxt.labels.sets import label_set


def read_forestnet(path: Path, *, merged: bool = False, options: ImageOptions | None = None) -> Dataset:
    """Places of forest loss with their driver: 12 classes (column ``label``), or the 4 of ``merged_label``.

    Raises:
        InputError: no split table, a column or a composite is missing.
    """
    store = open_store(path)
    names = set(store.names())
    column = "merged_label" if merged else "label"
    rows: list[tuple[str, str, str]] = []
    for split in ("train", "val", "test"):
        tables = [n for n in names if PurePosixPath(n).name == f"{split}.csv"]
        if len(tables) > 1:
            raise InputError(f"{store.path}: {len(tables)} files called {split}.csv; pass the folder of one data set")
        for table in tables:
            base = PurePosixPath(table).parent
            for row in csv.DictReader(store.read(table).decode("utf-8-sig").splitlines()):
                if "example_path" not in row or column not in row:
                    raise InputError(f"{store.path}/{table}: columns example_path and {column} are needed")
                image = (base / row["example_path"] / "images/visible/composite.png").as_posix()
                if image not in names:
                    raise InputError(f"{store.path}: {image} is missing, which {table} names")
                rows.append((split, image, row[column]))
    if not rows:
        raise InputError(f"{store.path}: no train.csv, val.csv or test.csv with ForestNet's examples in it")
    if merged:
        classes = tuple(sorted({label for *_, label in rows}))
        position = {label: i for i, label in enumerate(classes)}
        known = None
    else:
        named = label_set("forestnet-12")
        classes, known = tuple(named.keys), named.name
        position = {label: classes.index(named.find(label).key) for label in {label for *_, label in rows}}
    samples = [(split, Sample((image,), (position[label],))) for split, image, label in rows]
    return Dataset(
        "forestnet-4" if merged else "forestnet",
        store,
        by_split(samples),
        classes,
        False,
        known,
        options or ImageOptions(),
    )
