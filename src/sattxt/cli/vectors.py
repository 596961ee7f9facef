"""Embeddings into a file: .npy, .safetensors or .parquet, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import sattxt
from sattxt.errors import InputError, MissingExtraError
from sattxt.io import atomic_write
from sattxt.vision.embeddings import FloatArray

_SUFFIXES = (".npy", ".safetensors", ".parquet")


def check_output(path: Path) -> None:
    """Refuse, before any work is done, a file that :func:`write` could not write.

    Raises:
        InputError: the suffix is not one of the three, or the folder does not exist.
        MissingExtraError: .parquet without pyarrow.
    """
    if path.suffix not in _SUFFIXES:
        raise InputError(f"-o {path}: the name must end in {', '.join(_SUFFIXES)}")
    if not path.parent.is_dir():
        raise InputError(f"-o {path}: the folder {path.parent} does not exist")
    if path.suffix == ".parquet":
        _pyarrow()


def write(path: Path, ids: Sequence[str], parts: Sequence[FloatArray], *, model: str) -> tuple[int, int]:
    """Write the rows of ``parts`` (each (n, D) float32), named by ``ids``; returns (N, D).

    Raises:
        DiskFullError: no space is left; nothing was written.
    """
    rows = np.ascontiguousarray(np.concatenate(parts) if parts else np.zeros((0, 0)), dtype=np.float32)
    facts = {"model": model, "sattxt": sattxt.__version__}
    with atomic_write(path) as file:
        if path.suffix == ".npy":
            np.save(file, rows)
        elif path.suffix == ".safetensors":
            from safetensors.numpy import save

            file.write(save({"embeddings": rows}, metadata={**facts, "ids": json.dumps(list(ids))}))
        else:
            arrow, parquet = _pyarrow()
            names = arrow.array([name.encode("utf-8", "backslashreplace").decode() for name in ids])
            column = arrow.FixedSizeListArray.from_arrays(arrow.array(rows.reshape(-1)), max(rows.shape[1], 1))
            table = arrow.table({"id": names, "embedding": column}).replace_schema_metadata(facts)
            parquet.write_table(table, file, compression="zstd")
    if path.suffix == ".npy":
        with atomic_write(path.with_name(path.name + ".json")) as file:
            file.write(json.dumps({**facts, "ids": list(ids)}, ensure_ascii=True, indent=1).encode())
    return rows.shape[0], rows.shape[1]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("geo", "pyarrow", "writing .parquet") from error
    return pyarrow, pyarrow.parquet
