"""A store's chips by labels: one table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sattxt.errors import import_extra
from sattxt.io import atomic_write
from sattxt.scenes.parts import geo_key, part_schema
from sattxt.vision.embeddings import FloatArray

if TYPE_CHECKING:
    from sattxt.classify.classifier import Classifier


@dataclass(frozen=True, repr=False)
class Labelled:
    """Chips with a probability for each label.

    labels: the K labels. table: a ``pyarrow.Table`` of N chips: the columns of a store's parts, then ``label`` (the
    most probable), ``prob`` (its probability), ``fit`` (in [0, 1], how sure it is that any label fits; null where the
    model cannot tell) and a column ``p:LABEL`` a label. probs: (N, K) float32.
    """

    labels: tuple[str, ...]
    table: Any
    probs: FloatArray
    multi_label: bool

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the chips that each label is the most probable of, in [0, 1]."""
        counts = np.bincount(self.probs.argmax(axis=1), minlength=len(self.labels)) / max(1, len(self))
        return dict(zip(self.labels, counts.tolist(), strict=True))

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat dict a chip (id, item_id, label, prob, fit, a probability a label), for ``pandas.DataFrame``."""
        own = [name for name in self.table.schema.names if name not in part_schema().names]
        return list(self.table.select(["id", "item_id", "grid_cell", "start_datetime", *own]).to_pylist())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the table as GeoParquet 1.1, whole or not at all; a file that is there is replaced.

        Raises:
            DiskFullError: no space is left.
        """
        parquet = import_extra("pyarrow.parquet", "geo", "pyarrow", "a store")
        table = self.table.replace_schema_metadata({"geo": json.dumps(geo_key(self.table))})
        with atomic_write(Path(path)) as file:
            parquet.write_table(table, file, compression="zstd")
        return Path(path)

    def __repr__(self) -> str:
        ranked = sorted(self.shares.items(), key=lambda item: -item[1])[:5]
        return f"Labelled({len(self)} chips: {', '.join(f'{label} {100 * share:.1f} %' for label, share in ranked)})"


def label_rows(blocks: Iterable[tuple[Any, FloatArray]], classifier: Classifier) -> Labelled:
    """The chips of ``blocks`` (a table and (N, D) embeddings each) by a classifier's labels."""
    arrow = import_extra("pyarrow", "geo", "pyarrow", "a store")
    tables, parts = [part_schema().empty_table()], [np.zeros((0, len(classifier.labels)), np.float32)]
    fits: list[float | None] = []
    for table, embeddings in blocks:
        tables.append(table)
        _, probs, fit = classifier.measure(embeddings)
        parts.append(probs)
        fits += [None] * len(probs) if fit is None else fit.tolist()
    whole, probs = arrow.concat_tables(tables), np.concatenate(parts)
    best = probs.argmax(axis=1) if len(probs) else np.zeros(0, np.int64)
    whole = whole.append_column("label", arrow.array([classifier.labels[i] for i in best], arrow.string()))
    whole = whole.append_column("prob", arrow.array(probs.max(axis=1, initial=0), arrow.float32()))
    whole = whole.append_column("fit", arrow.array(fits, arrow.float32()))
    for label, column in zip(classifier.labels, probs.T, strict=True):
        whole = whole.append_column(f"p:{label}", arrow.array(column))
    return Labelled(classifier.labels, whole, probs, classifier.multi_label)
