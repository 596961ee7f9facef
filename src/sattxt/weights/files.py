"""Writing to disk so that a reader sees all of a file or directory or nothing of it, and one error for a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sattxt.errors import DiskFullError, WeightsError

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn a full disk (or an unwritable one) into one of our errors, naming ``target``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(f"{target}: no space left on the disk; free some, or pass another folder") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise WeightsError(f"{target}: cannot be written ({error.strerror}); pass another folder") from error
        raise
    except Exception as error:  # safetensors wraps the operating system's error in its own
        if type(error).__name__ == "SafetensorError" and "No space left" in str(error):
            raise DiskFullError(f"{target}: no space left on the disk; free some, or pass another folder") from error
        raise


@contextmanager
def write_directory(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that becomes ``target`` when the block ends without an error.

    What was at ``target`` is replaced; on an error it stays, and the temporary folder goes.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    old = temporary.with_suffix(".old")
    try:
        os.chmod(temporary, 0o777 & ~_umask())
        yield temporary
        for item in temporary.rglob("*"):  # some writers make files that only their owner can read
            os.chmod(item, (0o777 if item.is_dir() else 0o666) & ~_umask())
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(temporary, target)
        except OSError:
            if old.exists():
                os.rename(old, target)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write a small text file in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
