"""ForestNet: ``{train,val,test}.csv`` beside ``examples/PLACE/images/visible/composite.png``."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from sattxt.data.archive import open_store
from sattxt.data.dataset import Dataset
from sattxt.data.tables import Row, listed_dataset
from sattxt.errors import InputError
from sattxt.images.options import ImageOptions


def read_forestnet(path: Path, *, merged: bool = False, options: ImageOptions | None = None) -> Dataset:
    """Places of forest loss with their driver: 12 classes (column ``label``), or the 4 of ``merged_label``.

    Raises:
        InputError: no split table, or a column is missing.
    """
    store = open_store(path)
    column = "merged_label" if merged else "label"
    rows = []
    for split in ("train", "val", "test"):
        tables = [n for n in store.names() if PurePosixPath(n).name == f"{split}.csv"]
        if len(tables) > 1:
            raise InputError(f"{path}: {len(tables)} files called {split}.csv; pass the folder of one data set")
        for table in tables:
            for row in csv.DictReader(store.read(table).decode("utf-8-sig").splitlines()):
                if "example_path" not in row or column not in row:
                    raise InputError(f"{path}/{table}: columns example_path and {column} are needed")
                image = PurePosixPath(table).parent / row["example_path"] / "images/visible/composite.png"
                rows.append(Row(image.as_posix(), (), (row[column],), split))
    if not rows:
        raise InputError(f"{path}: no train.csv, val.csv or test.csv with ForestNet's examples in it")
    return listed_dataset(store, rows, [], path, known=None if merged else "forestnet-12", options=options)
