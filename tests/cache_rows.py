"""What tests of the text cache put into it, and what they find in its file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np

from sattxt.text.cache import TextCache


def vectors_of(texts: list[str], width: int = 8) -> np.ndarray:
    """A vector that depends on the text alone, so that any process can check any other's."""
    return np.stack([np.random.default_rng(list(text.encode())).standard_normal(width) for text in texts]).astype("f4")


def missing(cache: TextCache, texts: list[str]) -> list[str]:
    """The texts that the cache does not give a vector for."""
    found = cache.get_many("space", texts)
    return [text for text in texts if text not in found]


def rows(path: Path, columns: str) -> list[tuple]:
    """The rows of the file, oldest first, as SQLite reads them."""
    raw = sqlite3.connect(path)
    found = raw.execute(f"SELECT {columns} FROM vectors JOIN spaces ON spaces.id = space ORDER BY vectors.id")
    listed = [tuple(v.decode() if isinstance(v, bytes) else v for v in row) for row in found]
    raw.close()
    return listed


def texts_in(path: Path) -> list[str]:
    return [text for (text,) in rows(path, "text")]
