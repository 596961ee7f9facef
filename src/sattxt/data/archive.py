"""Files by name, whether they lie in a folder, a zip or a tar: read in place, from several threads and processes."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from sattxt.errors import ImageError, InputError

#: What reading a file of a damaged archive raises.
_DAMAGED = (OSError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, tarfile.TarError, zlib.error)


class Store:
    """Files below the folder ``path``, or in the archive there. Names have forward slashes; hidden files are left out.

    name: the folder's or archive's, without what follows the dot. A store can be pickled, and used after a fork.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name if path.is_dir() else path.resolve().name.split(".")[0]
        self._names = sorted(filter(_visible, self._list()))

    def names(self) -> list[str]:
        """All file names, sorted."""
        return self._names

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            ImageError: there is no such file, or it cannot be read or unpacked.
        """
        try:
            return self._read(name)
        except _DAMAGED as error:
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"{self.path}/{name}: cannot be read ({reason})") from error

    def checksum(self, name: str) -> int:
        """CRC-32 of a file's content, the same in a folder as in an archive; -1 where it cannot be read."""
        try:
            return self._checksum(name)
        except _DAMAGED:
            return -1

    def _list(self) -> list[str]:
        found = []
        for parent, folders, files in os.walk(self.path, followlinks=True):
            folders[:] = filter(_visible, folders)
            below = Path(parent).relative_to(self.path).as_posix()
            found += files if below == "." else [f"{below}/{file}" for file in files]
        return found

    def _read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def _checksum(self, name: str) -> int:
        return zlib.crc32(self._read(name))


def open_store(path: str | os.PathLike[str]) -> Store:
    """The files in a folder, zip or tar (not a compressed one).

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
        if head[257:262] == b"ustar":
            return _Tar(found)
        if zipfile.is_zipfile(found):
            return _Zip(found)
    except _DAMAGED as error:
        raise InputError(f"{found}: cannot be read as a zip or tar ({error})") from error
    raise InputError(f"{found}: is no zip or tar; unpack it and pass the folder")


def _visible(name: str) -> bool:
    return not (name.startswith((".", "__MACOSX")) or "/." in name or "/__MACOSX" in name)


class _Zip(Store):
    """Opened anew in every process: a file position and a lock shared with a parent are of no use."""

    _process = -1
    _archive: Any = None

    def _list(self) -> list[str]:
        return [info.filename for info in self._opened().infolist() if not info.is_dir()]

    def _read(self, name: str) -> bytes:
        return bytes(self._opened().read(name))

    def _checksum(self, name: str) -> int:
        return int(self._opened().getinfo(name).CRC)  # in the zip's directory: nothing is unpacked

    def _opened(self) -> Any:
        if self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
        return self._archive

    def __reduce__(self) -> tuple[Any, ...]:
        return _Zip, (self.path,)


class _Tar(Store):
    """Read by place, so that threads and processes can share it."""

    def _list(self) -> list[str]:
        with tarfile.open(self.path, "r:") as archive:
            members = [member for member in archive if member.isfile() and not member.issparse()]
        self._places = {member.name.removeprefix("./"): (member.offset_data, member.size) for member in members}
        return list(self._places)

    def _read(self, name: str) -> bytes:
        place, size = self._places[name]
        with self.path.open("rb") as file:
            file.seek(place)
            return file.read(size)
