"""Files by name, whether they lie in a folder, a zip or a tar: read in place, from several threads and processes."""

from __future__ import annotations

import io
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

IMAGE_SUFFIXES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


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
    return name.lower().endswith(IMAGE_SUFFIXES)


def _visible(name: str) -> bool:
    return not (name.startswith((".", "__MACOSX")) or "/." in name or "/__MACOSX" in name)


class _Zip(Store):
    """Opened anew in every process: a file position and a lock shared with a parent are of no use."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._process = -1
        self._archive: Any = None
        members = self._opened().infolist()
        self._names = sorted(info.filename for info in members if _visible(info.filename) and not info.is_dir())

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""
        member = self._member(name)
        try:
            return bytes(self._opened().read(member))
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
            raise InputError(f"{self.path}: {name}: cannot be unpacked ({error})") from error

    def checksum(self, name: str) -> int:
        """See :class:`Store`; from the zip's directory, nothing is unpacked."""
        return self._member(name).CRC

    def _member(self, name: str) -> zipfile.ZipInfo:
        try:
            found: zipfile.ZipInfo = self._opened().getinfo(name)
        except KeyError as error:
            raise InputError(f"{self.path}: has no file {name!r}") from error
        return found

    def _opened(self) -> Any:
        if self._process != os.getpid():
            try:
                self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
            except (OSError, zipfile.BadZipFile) as error:
                raise InputError(f"{self.path}: cannot be read as a zip ({error})") from error
        return self._archive


class _Tar(Store):
    """Read by place from one file, without a position, so that threads and forked processes can share it.

    A compressed one is unpacked to a temporary file first.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file: Any = path.open("rb")
        self._lock = threading.Lock()
        try:
            with tarfile.open(path) as archive:
                packed: Any = archive.fileobj
                if not isinstance(packed, io.BufferedReader):  # compressed
                    self._file = tempfile.TemporaryFile()  # noqa: SIM115
                    packed.seek(0)
                    shutil.copyfileobj(packed, self._file, 1 << 20)
                    self._file.seek(0)
            with tarfile.open(fileobj=self._file, mode="r:") as archive:
                members = [member for member in archive.getmembers() if member.isfile() and not member.issparse()]
        except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
            raise InputError(f"{path}: cannot be read as a tar ({error})") from error
        named = ((member.name.removeprefix("./"), member) for member in members)
        self._places = {name: (member.size, member.offset_data) for name, member in named if _visible(name)}
        self._names = sorted(self._places)

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""
        if name not in self._places:
            raise InputError(f"{self.path}: has no file {name!r}")
        size, place = self._places[name]
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size, place)
        with self._lock:  # Windows, where there is no fork either
            self._file.seek(place)
            return bytes(self._file.read(size))
