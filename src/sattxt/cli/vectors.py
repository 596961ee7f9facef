"""Embeddings into a file: .npy, .safetensors or .parquet, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sattxt
from sattxt.errors import InputError, MissingExtraError
from sattxt.io import atomic_write

Vectors = NDArray[np.float32]
Facts = dict[str, str]


def check_output(path: Path) -> None:
    """Refuse, before any work is done, a file that :func:`write` could not write.

    Raises:
        InputError: the suffix is not one of the three, or the folder does not exist.
        MissingExtraError: .parquet without pyarrow.
    """
    if path.suffix not in _WRITERS:
        raise InputError(f"-o {path}: the name must end in {', '.join(_WRITERS)}")
    if not path.parent.is_dir():
        raise InputError(f"-o {path}: the folder {path.parent} does not exist")
    if path.suffix == ".parquet":
        _pyarrow()


def write(path: Path, ids: Sequence[str], parts: Sequence[Vectors], *, model: str) -> tuple[int, int]:
    """Write the rows of ``parts`` (each (n, D) float32), named by ``ids``; returns (N, D).

    Raises:
        DiskFullError: no space is left; nothing was written.
    """
    rows = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    facts = {"model": model, "sattxt": sattxt.__version__}
    _WRITERS[path.suffix](path, ids, np.ascontiguousarray(rows, dtype=np.float32), facts)
    return rows.shape[0], rows.shape[1]


def _write_npy(path: Path, ids: Sequence[str], rows: Vectors, facts: Facts) -> None:
    with atomic_write(path) as file:
        np.save(file, rows)
    with atomic_write(path.with_name(path.name + ".json")) as file:
        file.write(json.dumps({**facts, "ids": list(ids)}, ensure_ascii=True, indent=1).encode())


def _write_safetensors(path: Path, ids: Sequence[str], rows: Vectors, facts: Facts) -> None:
    from safetensors.numpy import save

    with atomic_write(path) as file:
        file.write(save({"embeddings": rows}, metadata={**facts, "ids": json.dumps(list(ids))}))


def _write_parquet(path: Path, ids: Sequence[str], rows: Vectors, facts: Facts) -> None:
    arrow, parquet = _pyarrow()
    flat = arrow.array(rows.reshape(-1))
    names = [name.encode("utf-8", "backslashreplace").decode() for name in ids]
    columns = {"id": arrow.array(names), "embedding": arrow.FixedSizeListArray.from_arrays(flat, max(rows.shape[1], 1))}
    table = arrow.table(columns).replace_schema_metadata(facts)
    with atomic_write(path) as file:
        parquet.write_table(table, file, compression="zstd")


_WRITERS: dict[str, Callable[[Path, Sequence[str], Vectors, Facts], None]] = {
    ".npy": _write_npy,
    ".safetensors": _write_safetensors,
    ".parquet": _write_parquet,
}


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("geo", "pyarrow", "writing .parquet") from error
    return pyarrow, pyarrow.parquet
