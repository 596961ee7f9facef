"""Where a store's files lie: a folder, or a bucket of an object store. A reader sees all of a file or nothing of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, TypeAlias

from sattxt.errors import StoreError, import_extra
from sattxt.io import atomic_write, disk_errors, first_line


class Entry(NamedTuple):
    """A file: its name below the store, bytes, and when it was written, in seconds since 1970."""

    name: str
    size: int
    written: float


#: Reads what was written, and raises where it cannot.
Check: TypeAlias = Callable[[Path | bytes], Any]


class Files(Protocol):
    """Files by their names below a store, with forward slashes."""

    def __str__(self) -> str:
        """The folder, or the address without credentials."""

    def read(self, name: str) -> bytes:
        """A file's content; FileNotFoundError where there is none."""

    def write(self, name: str, content: bytes, check: Check | None = None, *, new: bool = False) -> None:
        """Write a file once ``check`` has read it; with ``new`` a file that is there stays."""

    def list(self, folder: str) -> list[Entry]:
        """The files below a folder, sorted; hidden and temporary ones too."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; ``None`` where there is none."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def keep(self, name: str) -> None:
        """Let a file count as written now."""

    def open(self, name: str) -> Path | bytes:
        """What a part is read from."""


def open_files(where: str | os.PathLike[str]) -> Files:
    """The files at a folder, or at an address such as ``s3://bucket/store`` (extra ``cloud``)."""
    text = os.fspath(where)
    return Bucket(text) if "://" in text else Folder(Path(text))


@dataclass(frozen=True)
class Folder:
    """Files in a folder."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes:
        """A file's content."""
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes, check: Check | None = None, *, new: bool = False) -> None:
        """Write a file, flushed to the disk and read back by ``check`` before it gets its name.

        Args:
            new: a file that is there stays; by default it is replaced.

        Raises:
            DiskFullError: no space is left. WeightsError: the folder cannot be written.
        """
        if new and (self.root / name).exists():
            return
        with atomic_write(self.root / name, durable=True) as file:
            file.write(content)
            file.flush()
            if check is not None:
                check(Path(file.name))

    def list(self, folder: str) -> list[Entry]:
        """The files below a folder, sorted."""
        found = []
        for parent, _, names in os.walk(self.root / folder):
            for name in names:
                path = Path(parent) / name
                with suppress(FileNotFoundError):  # another process has just renamed or removed it
                    state = path.stat()
                    found.append(Entry(path.relative_to(self.root).as_posix(), state.st_size, state.st_mtime))
        return sorted(found)

    def size(self, name: str) -> int | None:
        """Bytes of a file."""
        try:
            return (self.root / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, name: str) -> None:
        """Remove a file, and its folder where that is then empty."""
        path = self.root / name
        path.unlink(missing_ok=True)
        if PurePosixPath(name).parent.name:
            with suppress(OSError):
                path.parent.rmdir()

    def keep(self, name: str) -> None:
        """Let a file count as written now."""
        with disk_errors(self.root / name):
            os.utime(self.root / name)

    def open(self, name: str) -> Path:
        """A file's path."""
        return self.root / name


class Bucket:
    """Files below an address of an object store, whose single PUT is whole or not at all.

    Credentials come from the environment, as ``obstore`` reads them.
    """

    def __init__(self, address: str) -> None:
        self._api: Any = import_extra("obstore", "cloud", "obstore", "a store in a bucket")
        self._address = address.rstrip("/")
        self._store = _open_bucket(self._address)

    def __str__(self) -> str:
        scheme, _, rest = self._address.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self._address,)

    def read(self, name: str) -> bytes:
        """A file's content."""
        return bytes(self._api.get(self._store, name).bytes())

    def write(self, name: str, content: bytes, check: Check | None = None, *, new: bool = False) -> None:
        """Write a file in one PUT, once ``check`` has read the content; with ``new`` a file that is there stays."""
        if check is not None:
            check(content)
        exists = import_extra("obstore.exceptions", "cloud", "obstore", "a store in a bucket").AlreadyExistsError
        try:
            self._api.put(self._store, name, content, mode="create" if new else "overwrite")
        except exists:
            return
        except Exception as error:  # obstore raises a kind for each cause
            raise StoreError(f"{self}/{name}: cannot be written ({first_line(error)})") from error

    def list(self, folder: str) -> list[Entry]:
        """The files below a folder, sorted."""
        found = []
        for batch in self._api.list(self._store, folder):
            found += [Entry(m["path"], m["size"], m["last_modified"].timestamp()) for m in batch]
        return sorted(found)

    def size(self, name: str) -> int | None:
        """Bytes of a file."""
        try:
            return int(self._api.head(self._store, name)["size"])
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove a file."""
        with suppress(FileNotFoundError):
            self._api.delete(self._store, name)

    def keep(self, name: str) -> None:
        """Let a file count as written now: it is written again."""
        self.write(name, self.read(name))

    def open(self, name: str) -> bytes:
        """A file's content."""
        return self.read(name)


def _open_bucket(address: str) -> Any:
    stores: Any = import_extra("obstore.store", "cloud", "obstore", "a store in a bucket")
    try:
        return stores.from_url(address, **({"mkdir": True} if address.startswith("file://") else {}))
    except Exception as error:  # obstore raises a kind for each cause
        raise StoreError(
            f"{address}: cannot be opened ({first_line(error)}); pass s3://, gs://, az:// or a folder"
        ) from error


def seconds_old(entry: Entry) -> float:
    """How long ago a file was written."""
    return time.time() - entry.written
