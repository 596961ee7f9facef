"""Text vectors on disk: what a frozen text encoder once computed is never computed again.

An SQLite file of rows (space, exact text) -> vector. A *space* names all that a vector depends on besides the text:
the encoder's fingerprint and the precision it ran in. Texts are exact: nothing is normalised, folded or stripped.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
import warnings
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sattxt.errors import CacheError, DiskFullError, InputError, SatTxtError
from sattxt.io import DISK_FULL, user_cache_dir
from sattxt.text.encoder import FloatArray, check_texts

Precision = Literal["float32", "float16"]

#: Seconds to wait for another process's write before giving up.
BUSY_SECONDS = 60.0

_STORED: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_ROWS = 500  # texts a query or transaction: below every build's limit on SQL variables; no writer keeps others long
_LITTLE_SPACE = 1 << 20  # bytes left on a disk that counts as full
_APPLICATION_ID, _VERSION = 0x53415458, 1
#: Changes nothing where it was run before. A text is UTF-8 in a blob: compared byte by byte, NUL characters included.
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS spaces (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, width INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (id INTEGER PRIMARY KEY, space INTEGER NOT NULL REFERENCES spaces(id),
    text BLOB NOT NULL, dtype TEXT NOT NULL, crc32 INTEGER NOT NULL, vector BLOB NOT NULL, UNIQUE (space, text));
PRAGMA application_id={_APPLICATION_ID};
PRAGMA user_version={_VERSION};
COMMIT
"""
_DAMAGED = "damaged, or no text cache at all: move it away, with the -wal and -shm files, and a new one is made"
#: What SQLite says, and what it means to a user.
_MEANINGS = {
    "locked": f"another process has been writing for {BUSY_SECONDS:.0f} s; try again later",
    "unable to open": "cannot be opened: a folder, or without permission; pass the path of a file",
    "disk I/O": "cannot be read or written; check the disk, or pass another path",
    "malformed": _DAMAGED,
    "not a database": _DAMAGED,
}


class TextCacheWarning(UserWarning):
    """The text cache goes on with less: rows are damaged, or new ones cannot be kept."""


class ReadOnlyFileError(CacheError):
    """The file, or the folder it would be made in, cannot be written."""


class TextCache(AbstractContextManager["TextCache"]):
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

    # Opening costs ten times what reading a vector does, so the connection is kept: one for all threads, behind
    # _LOCK, opened anew when the file was replaced, and closed before a fork.
    _connection: sqlite3.Connection | None = None
    _opened: tuple[int, int] | None = None  # device and inode of the file it is open on

    def __init__(self, path: str | os.PathLike[str] | None = None, precision: Precision = "float32") -> None:
        if precision not in _STORED:
            raise InputError(f"precision={precision!r}: pass 'float32' or 'float16'")
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise InputError(f"a text cache is a file: pass its path, not {type(path).__name__}")
        self.path = user_cache_dir() / "text.sqlite3" if path is None else Path(path).expanduser()
        self.precision: Precision = precision
        _CACHES.add(self)

    def get_many(
        self, space: str, texts: Iterable[str], *, width: int | None = None, accept_float16: bool | None = None
    ) -> dict[str, FloatArray]:
        """The vectors there are: text to (width,) float32, in no particular order; texts without one are left out.

        Args:
            width: that vectors must have.
            accept_float16: also take rows stored in float16 (widened). Default: only in a ``"float16"`` cache.

        Raises:
            CacheError: a vector has another width.
        """
        accept = self.precision == "float16" if accept_float16 is None else accept_float16
        texts_of = {text.encode("utf-8"): text for text in check_texts(texts, blank=True)}
        keys = list(texts_of)
        found: dict[str, FloatArray] = {}
        for start in range(0, len(keys), _ROWS):
            with self._open() as connection:
                if connection is None:
                    return {}
                rows = self._sound_rows(connection, space, keys[start : start + _ROWS], accept)
            if rows and width not in (None, len(rows[0][1])):  # all vectors of a space have one
                raise CacheError(
                    f"{self.path}: holds vectors of width {len(rows[0][1])}, for {texts_of[rows[0][0]][:40]!r} among "
                    f"others; this text encoder's have width {width}: delete the file, or pass text_cache=False"
                )
            found.update((texts_of[key], vector.astype(np.float32)) for key, vector in rows)
        return found

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
        keys = [text.encode("utf-8") for text in check_texts(texts, blank=True)]
        stored = as_stored(vectors, len(keys), self.precision)
        firsts = sorted({key: index for index, key in reversed(list(enumerate(keys)))}.values())
        written = 0
        try:
            for start in range(0, len(firsts), _ROWS):
                chunk = {keys[index]: stored[index].tobytes() for index in firsts[start : start + _ROWS]}
                written += self._write(space, stored.shape[1], stored.dtype.name, chunk)
        except ReadOnlyFileError as error:
            warnings.warn(f"{error}: new text vectors are not kept", TextCacheWarning, stacklevel=2)
        return written

    def close(self) -> None:
        """Close the file; a later use opens it again."""
        with _LOCK:
            self._drop()

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._drop()

    def __reduce__(self) -> tuple[type[TextCache], tuple[Path, Precision]]:
        return type(self), (self.path, self.precision)

    def _sound_rows(
        self, connection: sqlite3.Connection, space: str, keys: list[bytes], float16: bool
    ) -> list[tuple[bytes, npt.NDArray[Any]]]:
        """The sound rows of at most ``_ROWS`` keys; damaged ones are reported and left out."""
        found = connection.execute(
            "SELECT text, dtype, crc32, vector, width FROM vectors JOIN spaces ON spaces.id = vectors.space"
            f" WHERE spaces.name = ? AND text IN ({','.join('?' * len(keys))})",
            (space, *keys),
        ).fetchall()
        seeds = {dtype: _seed(space, dtype) for dtype in _STORED}
        sound: list[tuple[bytes, npt.NDArray[Any]]] = []
        damaged: list[Any] = []
        for key, dtype, crc32, blob, width in found:
            stored = _STORED.get(dtype)
            if (
                stored is None
                or not isinstance(blob, bytes)
                or len(blob) != width * stored.itemsize
                or zlib.crc32(key + blob, seeds[dtype]) != crc32
            ):
                damaged.append(key)
            elif float16 or dtype == "float32":
                sound.append((key, np.frombuffer(blob, dtype=stored)))
        if damaged:
            first = damaged[0].decode("utf-8", "replace")
            warnings.warn(
                f"{self.path}: {len(damaged)} damaged row(s), the first for {first!r}; they count as missing",
                TextCacheWarning,
                stacklevel=4,
            )
        return sound

    def _write(self, space: str, width: int, dtype: str, rows: dict[bytes, bytes]) -> int:
        """Write what is not there yet, in one transaction; returns how many rows."""
        with self._open(write=True) as connection:
            assert connection is not None  # opened for writing, it always is
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("INSERT OR IGNORE INTO spaces (name, width) VALUES (?, ?)", (space, width))
                number, known = connection.execute("SELECT id, width FROM spaces WHERE name=?", (space,)).fetchone()
                if known != width:
                    raise CacheError(f"{self.path}: space {space!r} holds vectors of width {known}, not {width}")
                there = {key for key, _ in self._sound_rows(connection, space, list(rows), dtype == "float16")}
                new = [(key, blob) for key, blob in rows.items() if key not in there]
                seed = _seed(space, dtype)
                connection.executemany(
                    "INSERT OR REPLACE INTO vectors (space, text, dtype, crc32, vector) VALUES (?, ?, ?, ?, ?)",
                    [(number, key, dtype, zlib.crc32(key + blob, seed), blob) for key, blob in new],
                )
        return len(new)

    @contextmanager
    def _open(self, *, write: bool = False) -> Iterator[sqlite3.Connection | None]:
        """The open file, errors typed; ``None`` where nothing has been written yet and nothing is to be."""
        with _LOCK:
            try:
                yield self._connect(write=write)
            except (sqlite3.Error, OSError) as error:
                self._drop()
                raise self._typed(error) from error

    def _connect(self, *, write: bool) -> sqlite3.Connection | None:
        identity = self._identity()
        if self._connection is not None and identity == self._opened:
            return self._connection
        self._drop()
        if identity is None and not write:
            return None
        if write:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        # In a folder that cannot be written, a file with no log beside it can be read as it is. Others may change it
        # later, so such a connection serves once: _opened stays None.
        frozen = not (write or _writable(self.path.parent) or self.path.with_name(f"{self.path.name}-wal").exists())
        mode = "ro&immutable=1" if frozen else "rwc" if write else "rw"
        connection = self._connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        facts = connection.execute(  # one statement, one snapshot: another process may be making the tables just now
            "SELECT application_id, user_version, (SELECT COUNT(*) FROM sqlite_master)"
            " FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        if facts == (0, 0, 0):  # a new file, or an empty one
            if not write:
                self._drop()
                return None
            # Without a log (others are at the file just now, or its file system has no shared memory) SQLite's rollback
            # journal is as safe; readers wait for writers.
            with suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_SCHEMA)
        elif facts[0] != _APPLICATION_ID:
            raise CacheError(f"{self.path}: an SQLite file of another program, not a text cache; pass another path")
        elif facts[1] != _VERSION:
            raise CacheError(
                f"{self.path}: a text cache of version {facts[1]}, this sattxt reads version {_VERSION}; "
                "update sattxt or pass another path"
            )
        self._opened = None if frozen else self._identity()
        return connection

    def _identity(self) -> tuple[int, int] | None:
        with suppress(FileNotFoundError):
            status = self.path.stat()
            return status.st_dev, status.st_ino
        return None

    def _drop(self) -> None:
        connection, self._connection, self._opened = self._connection, None, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _typed(self, error: sqlite3.Error | OSError) -> SatTxtError:
        said, number = str(error), getattr(error, "errno", None)
        folder = self.path.parent
        crowded = "disk I/O" in said and folder.exists() and shutil.disk_usage(folder).free < _LITTLE_SPACE
        if number in DISK_FULL or "is full" in said or crowded:
            return DiskFullError(f"{self.path}: no space left on the disk; what was cached before is kept")
        closed = "unable to open" in said and not (_writable(self.path) and _writable(folder))
        if closed or "readonly" in said or number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return ReadOnlyFileError(f"{self.path}: cannot be written")
        if isinstance(error, OSError):
            return CacheError(f"{self.path}: {error.strerror or said}; pass a path in a folder that can be written")
        meaning = next((meaning for part, meaning in _MEANINGS.items() if part in said), _DAMAGED)
        return CacheError(f"{self.path}: {meaning} ({said})")


def as_stored(vectors: npt.ArrayLike, count: int, precision: Precision) -> npt.NDArray[Any]:
    """``count`` vectors, (count, width), as they lie in a file: little-endian, in ``precision``; float16 ones stay.

    Raises:
        CacheError: they are no floats of that shape; one is NaN or infinite, or too large for the precision.
    """
    array = np.asarray(vectors)
    if array.dtype.kind != "f" or array.ndim != 2 or len(array) != count or array.shape[1] == 0:
        raise CacheError(
            f"vectors are {array.dtype} {array.shape}; for {count} texts pass floats of shape ({count}, width)"
        )
    dtype = _STORED["float16" if array.dtype == np.float16 else precision]
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype=dtype)
    finite = np.isfinite(stored).all(axis=1)
    if not finite.all():
        advice = "; use 'float32'" if precision == "float16" else ""
        raise CacheError(
            f"vectors[{int(np.argmin(finite))}] holds NaN or infinity, or values too large for {dtype.name}{advice}"
        )
    return stored


def _seed(space: str, dtype: str) -> int:
    return zlib.crc32(f"{space}\0{dtype}\0".encode())


def _writable(path: Path) -> bool:
    """Whether ``path`` can be written; one that does not exist counts as its folder does."""
    found = path if path.exists() else path.parent
    return os.access(found, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


_LOCK = threading.RLock()
_CACHES: weakref.WeakSet[TextCache] = weakref.WeakSet()


def _before_fork() -> None:
    """SQLite forbids carrying an open connection over a fork, even to close it: so none is open while one happens."""
    _LOCK.acquire()
    for cache in list(_CACHES):
        cache._drop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)
