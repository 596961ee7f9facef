"""Hashes of files, and checking files against recorded ones.

``SHA256SUMS`` lies in every model directory, in the format of the tool of that name. The ledger, a JSON file in the
user's cache directory, remembers what was seen before: the hashes of large files, the hashes of downloads for which
nobody published one, and the listings of hub repositories.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sattxt.errors import ChecksumError, WeightsError
from sattxt.io import atomic_write, read_json, user_cache_dir

SUMS_FILE = "SHA256SUMS"

#: Files of this size and more are hashed once, and then only when their size or modification time changes.
LARGE = 64 * 2**20


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, as 64 lower-case hex digits.

    Raises:
        WeightsError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


def digest_files(files: Iterable[tuple[str, str]]) -> str:
    """One sha256 over (name, sha256) pairs, whatever their order.

    It depends on names and contents only, so a folder and the same files on the hub (whose listing states every
    sha256) give the same one. Names are relative paths with forward slashes. Where order matters (adapters are merged
    one after the other), it belongs in the names: ``base/model.safetensors``, ``adapter-0/adapter_model.safetensors``.
    """
    lines = sorted(f"{sha256.lower()}  {name}" for name, sha256 in files)
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS for every other file under ``folder``."""
    files = sorted(item for item in folder.rglob("*") if item.is_file() and item.name != SUMS_FILE)
    lines = [f"{sha256_file(item)}  {item.relative_to(folder).as_posix()}\n" for item in files]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def read_sums(folder: Path) -> dict[str, str]:
    """Relative file name to sha256, from ``folder``'s SHA256SUMS.

    Raises:
        WeightsError: it is missing, or a line of it cannot be understood.
    """
    path = folder / SUMS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); write the model again with save_pretrained") from error
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = re.match(r"([0-9a-fA-F]{64}) [ *](.+)$", line)
        if match is None or ".." in Path(match.group(2)).parts or Path(match.group(2)).is_absolute():
            raise WeightsError(f"{path}: line {number} is not '<sha256>  <file>'")
        sums[match.group(2)] = match.group(1).lower()
    return sums


def verify_sums(folder: Path, *, optional: tuple[str, ...] = ()) -> None:
    """Compare the files under ``folder`` with its SHA256SUMS.

    Args:
        folder: a model directory.
        optional: prefixes of files that may be absent.

    Raises:
        ChecksumError: a file is another than the one recorded.
        WeightsError: a file, or SHA256SUMS itself, is missing.
    """
    for name, expected in read_sums(folder).items():
        path = folder / name
        if os.path.isfile(path):  # False, too, for a name that no file can have
            verify_file(path, expected)
        elif not name.startswith(optional):
            raise WeightsError(f"{path}: is listed in {SUMS_FILE} and missing; copy or download the model again")


def verify_file(path: Path, expected: str) -> None:
    """Compare a file's sha256 with ``expected``: all 64 hex digits of it, or the first few.

    Raises:
        ChecksumError: they differ.
    """
    actual = hash_of(path)
    if not actual.startswith(expected.lower()):
        raise ChecksumError(
            f"{path}: its sha256 is {actual}, recorded is {expected}: the file was damaged or replaced; "
            "remove it and download, convert or install it again"
        )


def hash_of(path: Path) -> str:
    """A file's sha256; for a large file from the ledger, where it was hashed before and has not changed since.

    Raises:
        WeightsError: the file cannot be read.
    """
    if not path.is_file() or path.stat().st_size < LARGE:
        return sha256_file(path)
    key, state = str(path.resolve()), [path.stat().st_size, path.stat().st_mtime_ns]
    known = recall("files", key)
    if not isinstance(known, list) or known[:2] != state:
        known = [*state, sha256_file(path)]
        remember("files", key, known)
    return str(known[2])


def check_download(source: str, path: Path, published: str | None = None) -> None:
    """Check a fetched file against its published hash, and against that of its first use.

    Args:
        source: where it came from: ``repository@revision/file``.
        path: where it is now.
        published: its known sha256.

    Raises:
        ChecksumError: the file is not the known one.
    """
    if published is not None:
        verify_file(path, published)
    actual, known = hash_of(path), recall("sources", source)
    if known is None:
        remember("sources", source, actual)
    elif known != actual:
        raise ChecksumError(
            f"{source}: its sha256 is {actual}, on first use it was {known}: the file changed at its source. If you "
            f"trust the new one, remove its entry from {_ledger()}"
        )


def recall(section: str, key: str) -> Any:
    """What the ledger holds under ``key``, or None.

    Raises:
        WeightsError: the ledger is damaged.
    """
    try:
        return read_json(_ledger()).get(section, {}).get(key) if _ledger().is_file() else None
    except WeightsError as error:
        raise WeightsError(f"{error}; remove it to record all hashes anew") from error


def remember(section: str, key: str, value: Any) -> None:
    """Add to the ledger. A cache directory that cannot be written only costs work done again, or working offline."""
    from filelock import FileLock  # pulls in asyncio, a tenth of a second

    with suppress(OSError, WeightsError):
        _ledger().parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{_ledger()}.lock"):
            ledger = read_json(_ledger()) if _ledger().is_file() else {}
            ledger.setdefault(section, {})[key] = value
            with atomic_write(_ledger()) as file:
                file.write(json.dumps(ledger, indent=1, sort_keys=True).encode())


def _ledger() -> Path:
    return user_cache_dir() / "checksums.json"
