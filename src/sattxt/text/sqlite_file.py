"""One SQLite file shared by threads and processes: opened when needed, closed before a fork, errors typed.

Nothing here knows what the file holds; :mod:`sattxt.text.cache` does.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sattxt.errors import CacheError, DiskFullError, SatTxtError

#: Seconds to wait for another process's write before giving up.
BUSY_SECONDS = 60.0
_LITTLE_SPACE = 1 << 20


class ReadOnlyFileError(CacheError):
    """The file, or the folder it would be made in, cannot be written."""


class SqliteFile:
    """A database in WAL mode, made by the first write and not before.

    One connection at a time, behind a lock, serves every thread. It is opened anew when the file was replaced, and
    closed before a fork, so that no child ever inherits an open one.
    """

    def __init__(self, path: Path, *, application_id: int, version: int, schema: Sequence[str]) -> None:
        self.path = path
        self._application_id = application_id
        self._version = version
        self._schema = tuple(schema)
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        self._opened: tuple[int, int] | None = None
        self._immutable = False
        _FILES.add(self)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection to read from, or ``None`` where nothing has been written yet."""
        with self._lock, self._typed_errors():
            connection = self._connect(write=False)
            try:
                yield connection
            finally:
                if self._immutable:
                    self._drop()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a write transaction, committed on leaving the block and rolled back on an error.

        Raises:
            ReadOnlyFileError: the file or its folder cannot be written.
            DiskFullError: no space is left; what was committed before is kept.
        """
        with self._lock, self._typed_errors():
            connection = self._connect(write=True)
            if connection is None:
                raise ReadOnlyFileError(f"{self.path}: cannot be written")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise

    def shrink(self) -> None:
        """Give deleted rows' space back to the disk, where nobody else is using the file just now."""
        with self._lock, suppress(sqlite3.OperationalError):
            connection = self._connect(write=False)
            if connection is not None and not self._immutable:
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def bytes(self) -> int:
        """Size on disk, the write-ahead log included; 0 where there is no file."""
        total = 0
        for path in (self.path, self._beside("-wal")):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            self._drop()

    def __del__(self) -> None:
        self._drop()

    # -- opening -----------------------------------------------------------------------------------------------

    def _connect(self, *, write: bool) -> sqlite3.Connection | None:
        identity = self._identity()
        if self._connection is not None:
            if identity is not None and identity == self._opened:
                return self._connection
            self._drop()
        if identity is None:
            if not write:
                return None
            self._make_folder()
        deadline = time.monotonic() + BUSY_SECONDS
        while True:  # some steps of opening report a busy file at once, whatever the time-out
            try:
                return self._open(write=write)
            except sqlite3.OperationalError as error:
                self._drop()
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            except BaseException:
                self._drop()
                raise

    def _open(self, *, write: bool) -> sqlite3.Connection | None:
        uri = self.path.absolute().as_uri()
        try:
            connection = self._attach(f"{uri}?mode={'rwc' if write else 'rw'}")
            used = self._is_used(connection)
        except sqlite3.OperationalError as error:
            if write or not self._may_be_immutable(error):
                raise
            self._drop()
            connection = self._attach(f"{uri}?mode=ro&immutable=1")
            self._immutable = True
            used = self._is_used(connection)
        if not used and not write:
            self._drop()
            return None
        if not used:
            self._initialise(connection)
        self._opened = self._identity()
        return connection

    def _attach(self, uri: str) -> sqlite3.Connection:
        self._connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        return self._connection

    def _may_be_immutable(self, error: sqlite3.OperationalError) -> bool:
        """Whether the file lies in a read-only folder with no log beside it: then it can be read as it is."""
        if "locked" in str(error) or _allowed(self.path.parent, os.W_OK) or not _allowed(self.path, os.R_OK):
            return False
        log = self._beside("-wal")
        return not (log.exists() and log.stat().st_size)

    def _is_used(self, connection: sqlite3.Connection) -> bool:
        """Whether the file holds our tables; an empty file does not, any other one is refused."""
        alone = not connection.in_transaction
        if alone:  # one snapshot: another process may be making the tables just now
            connection.execute("BEGIN")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if alone:
            connection.execute("COMMIT")
        if application == 0 and version == 0 and tables == 0:
            return False
        if application != self._application_id:
            raise CacheError(f"{self.path}: an SQLite file of another program, not a text cache; pass another path")
        if version != self._version:
            raise CacheError(
                f"{self.path}: a text cache of version {version}, this sattxt reads version {self._version}; "
                "update sattxt or pass another path"
            )
        return True

    def _initialise(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise
            # A file system without shared memory: the rollback journal is as safe, readers wait for writers.
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not self._is_used(connection):
                for statement in self._schema:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id={self._application_id}")
                connection.execute(f"PRAGMA user_version={self._version}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        if self.path.is_dir():
            raise CacheError(f"{self.path}: a folder; pass the path of a file")
        return status.st_dev, status.st_ino

    def _make_folder(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._opened, self._immutable = None, False
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    # -- errors ------------------------------------------------------------------------------------------------

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except SatTxtError:
            raise
        except sqlite3.Error as error:
            typed = self._translate(error)
            if not isinstance(typed, DiskFullError):
                self._drop()
            raise typed from error
        except OSError as error:
            raise self._translate_os(error) from error

    def _translate(self, error: sqlite3.Error) -> SatTxtError:
        said = str(error)
        full = DiskFullError(f"{self.path}: no space left on the disk; what was cached before is kept")
        if "is full" in said:
            return full
        if "readonly" in said:
            return ReadOnlyFileError(f"{self.path}: cannot be written")
        if "locked" in said or "busy" in said:
            return CacheError(
                f"{self.path}: another process has been writing for {BUSY_SECONDS:.0f} s; try again later"
            )
        if "unable to open" in said:
            if not _allowed(self.path if self.path.exists() else self.path.parent, os.W_OK):
                return ReadOnlyFileError(f"{self.path}: cannot be opened for writing")
            return CacheError(f"{self.path}: cannot be opened; check the path and its permissions")
        if "disk I/O" in said:
            with suppress(OSError):
                if shutil.disk_usage(self.path.parent).free < _LITTLE_SPACE:
                    return full
            return CacheError(f"{self.path}: cannot be read or written ({said}); check the disk, or pass another path")
        if isinstance(error, sqlite3.DatabaseError) and ("malformed" in said or "not a database" in said):
            return CacheError(
                f"{self.path}: damaged, or no text cache ({said}); move it away, with the -wal and -shm files beside "
                "it, and a new one is made"
            )
        return CacheError(f"{self.path}: {said}; if it is damaged, move it away and a new one is made")

    def _translate_os(self, error: OSError) -> SatTxtError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFullError(f"{self.path}: no space left on the disk; what was cached before is kept")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return ReadOnlyFileError(f"{self.path}: {error.strerror}")
        return CacheError(f"{self.path}: {error.strerror or error}; pass a path in a folder that can be written")


def _allowed(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


# -- forks -----------------------------------------------------------------------------------------------------
# SQLite forbids carrying an open connection over a fork, even to close it. So none is open while one happens.

_FILES: weakref.WeakSet[SqliteFile] = weakref.WeakSet()
_FORKING = threading.Lock()
_held: list[SqliteFile] = []


def _before_fork() -> None:
    _FORKING.acquire()
    for file in list(_FILES):
        file._lock.acquire()
        file._drop()
        _held.append(file)


def _after_in_parent() -> None:
    for file in _held:
        file._lock.release()
    _held.clear()
    _FORKING.release()


def _after_in_child() -> None:
    global _FORKING
    for file in _held:
        file._lock = threading.RLock()
    _held.clear()
    _FORKING = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
