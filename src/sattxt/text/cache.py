"""Text vectors on disk: what a frozen text encoder once computed is never computed again.

An SQLite file of rows (space, exact text) -> vector. A *space* names all that a vector depends on besides the text:
the encoder's fingerprint and the precision it ran in. Texts are exact: nothing is normalised, folded or stripped.
"""

from __future__ import annotations

import os
import sqlite3
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sattxt.errors import CacheError, InputError
from sattxt.io import user_cache_dir
from sattxt.text.sqlite_file import ReadOnlyFileError, SqliteFile

Precision = Literal["float32", "float16"]
FloatArray = npt.NDArray[np.float32]

_STORED: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_READ_ROWS = 500  # texts per query: below every build's limit on SQL variables
_WRITE_BYTES = 4 << 20  # of vectors per transaction, so that no writer keeps the others waiting
_SCHEMA = (
    "CREATE TABLE spaces (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, width INTEGER NOT NULL)",
    # text is UTF-8 in a blob: compared byte by byte, NUL characters included
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY, space INTEGER NOT NULL REFERENCES spaces(id), text BLOB NOT NULL,"
    " dtype TEXT NOT NULL, crc32 INTEGER NOT NULL, vector BLOB NOT NULL, UNIQUE (space, text))",
)


class TextCacheWarning(UserWarning):
    """The text cache goes on with less: rows are damaged, or new ones cannot be kept."""


class SpaceStats(NamedTuple):
    """The rows of one space in one precision."""

    space: str
    texts: int
    width: int
    dtype: str


@dataclass(frozen=True)
class CacheStats:
    """What a text cache holds: its file, its size in bytes, and one entry per space and precision."""

    path: Path
    bytes: int
    spaces: list[SpaceStats]


class TextCache:
    """Text vectors by space and exact text, in one SQLite file (WAL) that many processes may use at once.

    The file is made by the first write; before that, reading finds nothing. Writes are committed in small
    transactions: a process killed at any moment loses only what :meth:`put_many` had not yet returned from. A text's
    vector is written once and then stays: a second one for the same text is ignored, unless the first is damaged or
    of lower precision. Every row carries a checksum; a damaged row counts as missing, with a warning.

    Args:
        path: the file; default ``text.sqlite3`` in the user cache directory (``$SATTXT_CACHE``).
        precision: of newly written rows. ``"float32"`` is bit-exact. ``"float16"`` halves the file, and is also the
            permission to *read* float16 rows: a ``"float32"`` cache treats them as missing, so that rounded vectors
            never come in unasked. Rows of both kinds can lie in one file.

    Raises:
        CacheError: (from every method) the file is damaged, of a newer version, or no text cache at all. It is never
            deleted or overwritten; the message says to move it away.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, precision: Precision = "float32") -> None:
        if precision not in _STORED:
            raise InputError(f"precision={precision!r}: pass 'float32' or 'float16'")
        self.path = user_cache_dir() / "text.sqlite3" if path is None else Path(path).expanduser()
        self.precision: Precision = precision
        self._file = SqliteFile(self.path, application_id=0x53415458, version=1, schema=_SCHEMA)

    # -- reading -----------------------------------------------------------------------------------------------

    def get_many(
        self, space: str, texts: Iterable[str], *, accept_float16: bool | None = None
    ) -> dict[str, FloatArray]:
        """The vectors there are: text to (width,) float32, in no particular order; texts without one are left out.

        Args:
            accept_float16: also take rows stored in float16 (widened). Default: only in a ``"float16"`` cache.
        """
        return {
            text: row.astype(np.float32) for text, row in self.iter_many(space, texts, accept_float16=accept_float16)
        }

    def iter_many(
        self, space: str, texts: Iterable[str], *, accept_float16: bool | None = None
    ) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """As :meth:`get_many`, a pair at a time, as stored: read-only little-endian float32 or float16 arrays."""
        accept = self.precision == "float16" if accept_float16 is None else accept_float16
        keys = list(_encoded(texts))
        for start in range(0, len(keys), _READ_ROWS):
            with self._file.reading() as connection:
                if connection is None:
                    return
                known = _find_space(connection, space)
                if known is None:
                    return
                rows = self._rows(connection, known[0], space, known[1], keys[start : start + _READ_ROWS], accept)
            yield from ((key.decode("utf-8"), vector) for key, vector in rows)

    def missing(self, space: str, texts: Iterable[str], *, accept_float16: bool | None = None) -> list[str]:
        """The texts that :meth:`get_many` would leave out, each once, in their order."""
        listed = list(dict.fromkeys(_checked(texts)))
        there = {text for text, _ in self.iter_many(space, listed, accept_float16=accept_float16)}
        return [text for text in listed if text not in there]

    def texts(self, space: str) -> list[str]:
        """Every text of a space, oldest first, whatever the precision of its vector."""
        with self._file.reading() as connection:
            known = None if connection is None else _find_space(connection, space)
            if connection is None or known is None:
                return []
            rows = connection.execute("SELECT text FROM vectors WHERE space=? ORDER BY id", known[:1]).fetchall()
        return [bytes(text).decode("utf-8", errors="replace") for (text,) in rows]

    def stats(self) -> CacheStats:
        """Size and contents; an entry per space and precision, ordered by space."""
        with self._file.reading() as connection:
            rows = (
                []
                if connection is None
                else connection.execute(
                    "SELECT name, COUNT(*), width, dtype FROM vectors JOIN spaces ON spaces.id = vectors.space"
                    " GROUP BY spaces.id, dtype ORDER BY name, dtype"
                ).fetchall()
            )
        return CacheStats(self.path, self._file.bytes(), [SpaceStats(*row) for row in rows])

    # -- writing -----------------------------------------------------------------------------------------------

    def put_many(self, space: str, texts: Sequence[str], vectors: npt.ArrayLike) -> int:
        """Keep vectors; on return they are on disk.

        Args:
            texts: N texts; of a repeated one the first vector is kept.
            vectors: (N, width), finite, any float type. float16 input is stored as float16, whatever the precision
                of the cache; all else in the precision of the cache.

        Returns:
            How many rows were written: 0 for texts that are there already, and, with a :class:`TextCacheWarning`,
            where the file cannot be written.

        Raises:
            CacheError: vectors of the wrong shape, of another width than the space's, NaN or infinite, or too large
                for float16.
            InputError: a text is no string, or holds lone surrogates.
            DiskFullError: no space is left; what was written before is kept, this call's earlier part included.
        """
        keys = list(_encoded(texts, unique=False))
        dtype, stored = self._storable(vectors, len(keys))
        first: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, index)
        unique = list(first)
        step = max(1, min(_READ_ROWS, _WRITE_BYTES // max(1, stored[:1].nbytes)))
        written = 0
        try:
            for start in range(0, len(unique), step):
                chunk = unique[start : start + step]
                with self._file.writing() as connection:
                    number = self._space(connection, space, stored.shape[1])
                    kept = self._rows(connection, number, space, stored.shape[1], chunk, dtype == "float16")
                    there = {key for key, _ in kept}
                    seed = _seed(space, dtype)
                    blobs = [(key, stored[first[key]].tobytes()) for key in chunk if key not in there]
                    connection.executemany(
                        "INSERT OR REPLACE INTO vectors (space, text, dtype, crc32, vector) VALUES (?, ?, ?, ?, ?)",
                        [(number, key, dtype, _crc32(seed, key, blob), blob) for key, blob in blobs],
                    )
                written += len(blobs)
        except ReadOnlyFileError as error:
            warnings.warn(f"{error}: new text vectors are not kept", TextCacheWarning, stacklevel=2)
        return written

    def clear(self, space: str | None = None) -> int:
        """Forget one space, or everything; returns how many rows went. The file stays."""
        with self._file.reading() as connection:
            if connection is None:
                return 0
        with self._file.writing() as connection:
            if space is None:
                gone = connection.execute("DELETE FROM vectors").rowcount
                connection.execute("DELETE FROM spaces")
            else:
                gone = connection.execute(
                    "DELETE FROM vectors WHERE space IN (SELECT id FROM spaces WHERE name=?)", (space,)
                ).rowcount
                connection.execute("DELETE FROM spaces WHERE name=?", (space,))
        self._file.shrink()
        return gone

    def close(self) -> None:
        """Close the file; a later use opens it again."""
        self._file.close()

    def __enter__(self) -> TextCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[TextCache], tuple[Path, Precision]]:
        return type(self), (self.path, self.precision)

    def __repr__(self) -> str:
        return f"TextCache({str(self.path)!r}, precision={self.precision!r})"

    # -- rows --------------------------------------------------------------------------------------------------

    def _rows(
        self, connection: sqlite3.Connection, number: int, space: str, width: int, keys: list[bytes], float16: bool
    ) -> list[tuple[bytes, npt.NDArray[Any]]]:
        """The sound rows of at most ``_READ_ROWS`` keys; damaged ones are reported and left out."""
        found = connection.execute(
            f"SELECT text, dtype, crc32, vector FROM vectors WHERE space=? AND text IN ({','.join('?' * len(keys))})",
            (number, *keys),
        ).fetchall()
        seeds = {dtype: _seed(space, dtype) for dtype in _STORED}
        sound: list[tuple[bytes, npt.NDArray[Any]]] = []
        damaged: list[Any] = []
        for key, dtype, crc32, blob in found:
            stored = _STORED.get(dtype) if isinstance(dtype, str) else None
            if (
                stored is None
                or not isinstance(key, bytes)
                or not isinstance(blob, bytes)
                or len(blob) != width * stored.itemsize
                or _crc32(seeds[dtype], key, blob) != crc32
            ):
                damaged.append(key)
            elif float16 or dtype == "float32":
                sound.append((key, np.frombuffer(blob, dtype=stored)))
        if damaged:
            name = damaged[0].decode("utf-8", errors="replace") if isinstance(damaged[0], bytes) else damaged[0]
            warnings.warn(
                f"{self.path}: {len(damaged)} damaged row(s), the first for {name!r}; they count as missing",
                TextCacheWarning,
                stacklevel=4,
            )
        return sound

    def _space(self, connection: sqlite3.Connection, space: str, width: int) -> int:
        known = _find_space(connection, space)
        if known is None:
            return int(
                connection.execute("INSERT INTO spaces (name, width) VALUES (?, ?)", (space, width)).lastrowid or 0
            )
        if known[1] != width:
            raise CacheError(f"{self.path}: space {space!r} holds vectors of width {known[1]}, not {width}")
        return known[0]

    def _storable(self, vectors: npt.ArrayLike, count: int) -> tuple[Precision, npt.NDArray[Any]]:
        array = np.asarray(vectors)
        if count == 0 and array.size == 0:
            return self.precision, np.zeros((0, 0), dtype=_STORED[self.precision])
        if array.dtype.kind != "f" or array.ndim != 2 or array.shape[0] != count or array.shape[1] == 0:
            raise CacheError(
                f"vectors are {array.dtype} {array.shape}; for {count} texts pass floats of shape ({count}, width)"
            )
        dtype: Precision = "float16" if array.dtype == np.float16 else self.precision
        finite = np.isfinite(array).all(axis=1)
        if not finite.all():
            raise CacheError(f"vectors[{int(np.argmin(finite))}] holds NaN or infinity; only finite vectors are cached")
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(array, dtype=_STORED[dtype])
        finite = np.isfinite(stored).all(axis=1)
        if not finite.all():
            raise CacheError(f"vectors[{int(np.argmin(finite))}] holds values too large for {dtype}; use 'float32'")
        return dtype, stored


def _find_space(connection: sqlite3.Connection, space: str) -> tuple[int, int] | None:
    """Number and width of a space."""
    found: tuple[int, int] | None = connection.execute("SELECT id, width FROM spaces WHERE name=?", (space,)).fetchone()
    return found


def _checked(texts: Iterable[str]) -> Iterator[str]:
    if isinstance(texts, (str, bytes)):
        raise InputError(f"texts is {type(texts).__name__}; pass a list of strings")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"texts[{index}] is {type(text).__name__}; pass strings only")
        yield text


def _encoded(texts: Iterable[str], *, unique: bool = True) -> Iterator[bytes]:
    for index, text in enumerate(dict.fromkeys(_checked(texts)) if unique else _checked(texts)):
        try:
            yield text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"texts[{index}] is not valid Unicode ({error.reason}); pass clean text") from error


def _seed(space: str, dtype: str) -> int:
    return zlib.crc32(f"{space}\0{dtype}\0".encode())


def _crc32(seed: int, key: bytes, blob: bytes) -> int:
    return zlib.crc32(blob, zlib.crc32(key, seed))
