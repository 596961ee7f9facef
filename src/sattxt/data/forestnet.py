"""ForestNet: ``{train,val,test}.csv`` beside ``examples/PLACE/images/visible/composite.png``."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from sattxt.data.archive import open_store
from sattxt.data.dataset import Dataset
from sattxt.data.tables import Row, check_columns, listed_dataset, parse_table
from sattxt.errors import InputError
from sattxt.images.options import ImageOptions


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
