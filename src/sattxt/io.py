"""Files: the cache directory, JSON, and writing so that a reader sees all of a file or directory or nothing of it."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sattxt.errors import DiskFullError, InputError, WeightsError

#: ``errno`` of a full disk, or of a used-up quota.
DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def user_cache_dir() -> Path:
    """``$SATTXT_CACHE``, or the platform's cache directory for sattxt. It is not created here."""
    if chosen := os.environ.get("SATTXT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sattxt"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "sattxt" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sattxt"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; :class:`WeightsError` names the file if it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: holds {type(data).__name__}, an object is needed")
    return data


def to_json(value: Any) -> str:
    """``value`` as JSON that encodes as UTF-8, non-ASCII characters as they are.

    The bytes of a file name that are no UTF-8 become ``\\udcXX``, which ``json.loads`` and ``os.fsencode`` turn back.
    """
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def check_new(target: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file unless that is asked for; :class:`InputError` says how to ask."""
    if target.exists() and not target.is_file():
        raise InputError(f"{target}: is a folder or a device; pass the path of a file")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: is there already; pass another path, or overwrite=True")


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn a full disk (or an unwritable one) into one of our errors, naming ``target``."""
    try:
        yield
    except Exception as error:
        code = getattr(error, "errno", None)
        if code in DISK_FULL or "No space left" in str(error):  # safetensors and torch wrap the system's error
            raise DiskFullError(f"{target}: no space left on the disk; free some, or pass another folder") from error
        named = Path(str(getattr(error, "filename", None) or "/"))
        if code == errno.ENOENT and named.parent in target.parents:  # in /proc, say
            raise WeightsError(f"{target}: its folder cannot be made; pass another folder") from error
        if code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.EISDIR, errno.ENOTDIR):
            raise WeightsError(f"{target}: cannot be written ({os.strerror(code)}); pass another folder") from error
        raise


@contextmanager
def write_directory(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that becomes ``target`` when the block ends without an error.

    What was at ``target`` is replaced. Missing parent folders are made.

    Raises:
        DiskFullError: no space is left. WeightsError: the folder cannot be written. ``target`` is as it was, and
            nothing is left beside it.
    """
    target = target.absolute()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    old = temporary.with_suffix(".old")
    with disk_errors(target):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            readable = temporary.stat().st_mode & 0o777
            for item in temporary.rglob("*"):  # some writers make files that only their owner can read
                item.chmod(readable if item.is_dir() else readable & 0o666)
            if target.exists():
                os.rename(target, old)
            os.rename(temporary, target)
        finally:
            if old.exists() and not target.exists():
                os.rename(old, target)
            for folder in (temporary, old):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_write(target: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A temporary binary file beside ``target`` that becomes ``target`` when the block ends without an error.

    Writers that need a path use the file's ``name``. Missing parent folders are made.

    Args:
        durable: flush it to the disk first, and its name after: a loss of power takes it back no more.

    Raises:
        DiskFullError: no space is left. WeightsError: the folder cannot be written. ``target`` is as it was.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, target)
            if durable and hasattr(os, "O_DIRECTORY"):  # elsewhere a folder cannot be flushed
                folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        finally:
            temporary.unlink(missing_ok=True)


def first_line(error: BaseException | str) -> str:
    """The first line of an error's message, or its type's name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def is_system_failure(error: BaseException) -> bool:
    """Whether the system is out of file handles, memory or space, which is not the fault of the file being read."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)
