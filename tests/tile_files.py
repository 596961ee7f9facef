"""Small data sets on disk: pictures, archives, tables, multi-band files."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from evaluation_fakes import tile
from PIL import Image

if TYPE_CHECKING:
    from sattxt.training.tiles import Tiles

COLOURS = {"lake": (0, 0, 200), "wood": (0, 100, 0), "sand": (220, 180, 120)}


def png(colour: tuple[int, int, int], side: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as out:
            for name, content in files.items():
                out.writestr(name, content)
    else:
        with tarfile.open(path, "w") as out:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
    return path


def class_files(count: int = 12, prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}{name}/{name}_{i}.png": png(c) for name, c in COLOURS.items() for i in range(count)}


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A .jsonl, .csv or .parquet; lists in a csv's cells are JSON."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(dict.fromkeys(k for row in rows for k in row)))
            writer.writeheader()
            cells = [{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
            writer.writerows(cells)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def geotiff(values: np.ndarray, names: list[str] | None = None, **options: Any) -> bytes:
    """A TIFF of (C, H, W) values; ``tags`` among the options are the file's."""
    rasterio = pytest.importorskip("rasterio")
    options.setdefault("transform", rasterio.Affine(10, 0, 0, 0, -10, 100))
    with rasterio.MemoryFile() as memory:
        shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
        tags = options.pop("tags", {})
        with memory.open(driver="GTiff", **shape, **options) as out:
            out.write(values)
            out.update_tags(**tags)
            if names:
                out.descriptions = names
        return bytes(memory.read())


def bands(first: int, side: int = 8, count: int = 4) -> np.ndarray:
    """(count, side, side) uint16, each band one more than the band before."""
    return (first + np.arange(count)[:, None, None] + np.zeros((count, side, side))).astype(np.uint16)


def write_png(path: Path, colour: str = "red", seed: int = 0) -> Path:
    """A noisy tile of a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tile(colour, seed)).save(path)
    return path


def write_geotiff(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(geotiff(values))
    return path


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


def open_set(entry: dict[str, Any], root: Path, split: str, *, pairs: bool = False) -> Tiles:
    """A split of a recipe's data set of stage 2, or of stage 1; ``name`` and ``count`` may be left out."""
    from sattxt.training.sets import entry_config

    config = entry_config(str(entry.get("kind") or ""), pairs=pairs)
    return config(**{"name": "t", "count": 1, **entry}).open(root, split)


def open_pairs(entry: dict[str, Any], root: Path, split: str) -> Tiles:
    return open_set(entry, root, split, pairs=True)
