"""Files by name, whether they lie in a folder, a zip or a tar: read in place, from several threads and processes."""

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
from typing import Any

from sattxt.errors import InputError

IMAGE_SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_PACKED: dict[str, Any] = {".gz": gzip, ".tgz": gzip, ".bz2": bz2, ".xz": lzma}


class Store:
    """Files below the folder ``path``, or in the archive there. Names have forward slashes; hidden files are left out.

    A store can be pickled, and used after a fork: each process opens an archive for itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: list[str] | None = None

    def names(self) -> list[str]:
        """All file names, sorted."""
        if self._names is None:
            found = []
            for parent, folders, files in os.walk(self.path, followlinks=True):
                folders[:] = [folder for folder in folders if _visible(folder)]
                below = Path(parent).relative_to(self.path).as_posix()
                found += [file if below == "." else f"{below}/{file}" for file in files if _visible(file)]
            self._names = sorted(found)
        return self._names

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            InputError: there is no such file, or it cannot be read.
        """
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise InputError(f"{self.path / name}: {error.strerror or error}") from error

    def checksum(self, name: str) -> int:
        """CRC-32 of a file's content, the same in a folder as in an archive."""
        return zlib.crc32(self.read(name))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)


def open_store(path: str | os.PathLike[str]) -> Store:
    """The files in a folder, zip or tar.

    Raises:
        InputError: there is nothing at ``path``, or an archive of another kind.
    """
    found = Path(path)
    if found.is_dir():
        return Store(found)
    if not found.is_file():
        raise InputError(f"{found}: no such folder or archive")
    try:
        with found.open("rb") as file:
            head = file.read(512)
        # A tar before a zip, which is looked for at the end: a tar's last member may be one.
        if head[257:262] != b"ustar" and zipfile.is_zipfile(found):
            return _Zip(found)
        if tarfile.is_tarfile(found):
            return _Tar(found)
    except OSError as error:
        raise InputError(f"{found}: cannot be read ({error})") from error
    raise InputError(f"{found}: is no zip or tar; unpack it and pass the folder")


def is_image(name: str) -> bool:
    """Whether a file name ends like an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _visible(name: str) -> bool:
    return not (name.startswith((".", "__MACOSX")) or "/." in name or "/__MACOSX" in name)


class _Archive(Store):
    """The members of an archive, opened anew in every process: a file position shared with a parent is of no use."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._open()
        self._names = sorted(self._found)

    def _open(self) -> None:
        self._lock = threading.Lock()  # a parent's may be held for ever
        self._archive, found = self._members()
        self._found = {name: member for name, member in found.items() if _visible(name)}
        self._process = os.getpid()

    def _members(self) -> tuple[Any, dict[str, Any]]:
        """The open archive, and its files by name."""
        raise NotImplementedError

    def _member(self, name: str) -> Any:
        if self._process != os.getpid():
            self._open()
        if name not in self._found:
            raise InputError(f"{self.path}: has no file {name!r}")
        return self._found[name]


class _Zip(_Archive):
    def _members(self) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        try:
            archive = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{self.path}: cannot be read as a zip ({error})") from error
        return archive, {info.filename: info for info in archive.infolist() if not info.is_dir()}

    def read(self, name: str) -> bytes:
        member = self._member(name)
        try:
            content: bytes = self._archive.read(member)
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise InputError(f"{self.path}: {name}: cannot be unpacked ({error})") from error
        return content

    def checksum(self, name: str) -> int:
        return int(self._member(name).CRC)  # from the zip's directory, nothing is unpacked


class _Tar(_Archive):
    """A compressed one is unpacked to a temporary file first, as it cannot be read in places."""

    def _members(self) -> tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]:
        try:
            unpack = _PACKED.get(self.path.suffix.lower())
            if unpack is None:
                archive = tarfile.open(self.path, "r:*")  # noqa: SIM115
            else:
                plain = tempfile.TemporaryFile()  # noqa: SIM115
                with unpack.open(self.path) as packed:
                    shutil.copyfileobj(packed, plain, 1 << 20)
                plain.seek(0)
                archive = tarfile.open(fileobj=plain, mode="r:")  # noqa: SIM115
            members = archive.getmembers()
        except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
            raise InputError(f"{self.path}: cannot be read as a tar ({error})") from error
        return archive, {member.name.removeprefix("./"): member for member in members if member.isfile()}

    def read(self, name: str) -> bytes:
        member = self._member(name)
        with self._lock:
            file = self._archive.extractfile(member)
            return b"" if file is None else bytes(file.read())
