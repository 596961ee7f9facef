"""Files by name, whether they lie in a folder, a zip or a tar; read in place, from several threads."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from pathlib import Path
from typing import Any, Protocol

from sattxt.errors import InputError

IMAGE_SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_PACKED: dict[str, Any] = {".gz": gzip, ".tgz": gzip, ".bz2": bz2, ".xz": lzma}


class Store(Protocol):
    """Files below ``path``. Names have forward slashes; hidden files are left out."""

    path: Path

    def names(self) -> list[str]:
        """All file names, sorted."""

    def read(self, name: str) -> bytes:
        """A file's content."""

    def checksum(self, name: str) -> int:
        """CRC-32 of a file's content, the same in a folder as in an archive."""


def open_store(path: str | os.PathLike[str]) -> Store:
    """The files in a folder, zip or tar.

    Raises:
        InputError: there is nothing at ``path``, or an archive of another kind.
    """
    found = Path(path)
    if found.is_dir():
        return FolderStore(found)
    if not found.is_file():
        raise InputError(f"{found}: no such folder or archive")
    try:
        with found.open("rb") as file:
            head = file.read(512)
        if head[257:262] == b"ustar":  # before zip, which is looked for at the end: a tar's last member may be one
            return TarStore(found)
        if zipfile.is_zipfile(found):
            return ZipStore(found)
        if tarfile.is_tarfile(found):
            return TarStore(found)
    except OSError as error:
        raise InputError(f"{found}: cannot be read ({error})") from error
    raise InputError(f"{found}: is no zip or tar; unpack it and pass the folder")


def is_image(name: str) -> bool:
    """Whether a file name ends like an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _visible(name: str) -> bool:
    return not (name.startswith((".", "__MACOSX")) or "/." in name or "/__MACOSX" in name)


class FolderStore:
    """Files below a folder, found once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: list[str] | None = None

    def names(self) -> list[str]:
        """See :class:`Store`."""
        if self._names is None:
            found = []
            for parent, folders, files in os.walk(self.path, followlinks=True):
                folders[:] = [folder for folder in folders if _visible(folder)]
                below = Path(parent).relative_to(self.path).as_posix()
                found += [file if below == "." else f"{below}/{file}" for file in files if _visible(file)]
            self._names = sorted(found)
        return self._names

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise InputError(f"{self.path / name}: {error.strerror or error}") from error

    def checksum(self, name: str) -> int:
        """See :class:`Store`."""
        return zlib.crc32(self.read(name))


class ZipStore:
    """The members of a zip."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: cannot be read as a zip ({error})") from error
        self._members = {i.filename: i for i in self._archive.infolist() if not i.is_dir() and _visible(i.filename)}

    def names(self) -> list[str]:
        """See :class:`Store`."""
        return sorted(self._members)

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""
        try:
            return self._archive.read(self._members[name])
        except KeyError:
            raise InputError(f"{self.path}: has no file {name!r}") from None
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise InputError(f"{self.path}: {name}: cannot be unpacked ({error})") from error

    def checksum(self, name: str) -> int:
        """See :class:`Store`; from the zip's directory, nothing is unpacked."""
        return self._members[name].CRC


class TarStore:
    """The members of a tar. A compressed one is unpacked to a temporary file first, as it cannot be read in places."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            unpack = _PACKED.get(path.suffix.lower())
            if unpack is None:
                self._archive = tarfile.open(path, "r:*")  # noqa: SIM115
            else:
                plain = tempfile.TemporaryFile()  # noqa: SIM115
                with unpack.open(path) as packed:
                    shutil.copyfileobj(packed, plain, 1 << 20)
                plain.seek(0)
                self._archive = tarfile.open(fileobj=plain, mode="r:")  # noqa: SIM115
            members = self._archive.getmembers()
        except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
            raise InputError(f"{path}: cannot be read as a tar ({error})") from error
        self._members = {m.name.removeprefix("./"): m for m in members if m.isfile()}
        self._members = {name: m for name, m in self._members.items() if _visible(name)}

    def names(self) -> list[str]:
        """See :class:`Store`."""
        return sorted(self._members)

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""
        if name not in self._members:
            raise InputError(f"{self.path}: has no file {name!r}")
        with self._lock:
            file = self._archive.extractfile(self._members[name])
            return b"" if file is None else file.read()

    def checksum(self, name: str) -> int:
        """See :class:`Store`."""
        return zlib.crc32(self.read(name))
