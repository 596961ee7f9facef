"""Files and folders are written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sattxt.errors import DiskFullError, InputError, WeightsError
from sattxt.io import (
    atomic_write,
    check_new,
    disk_errors,
    first_line,
    is_system_failure,
    read_json,
    user_cache_dir,
    write_directory,
)


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def fail_in_a_file(target: Path, error: BaseException) -> None:
    with atomic_write(target) as file:
        file.write(b"half")
        raise error


def fail_in_a_folder(target: Path, error: BaseException) -> None:
    with write_directory(target) as folder:
        (folder / "half").touch()
        raise error


def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.bin"
    with atomic_write(target) as file:
        file.write(b"one")
        assert not target.exists()
    with atomic_write(target) as file:
        Path(file.name).write_bytes(b"two")
        assert target.read_bytes() == b"one"
    assert (target.read_bytes(), names(target.parent)) == (b"two", ["a.bin"])


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError),
        (RuntimeError("I/O error: No space left on device (os error 28)"), DiskFullError),
        (OSError(errno.EROFS, "Read-only file system"), WeightsError),
        (ValueError("x"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_after_an_error_the_old_one_stays_and_nothing_is_left(
    tmp_path: Path, error: BaseException, raised: type[BaseException]
) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(raised):
        fail_in_a_file(tmp_path / "file", error)
    with pytest.raises(raised):
        fail_in_a_folder(tmp_path / "folder", error)
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path / "folder") == ["old"]


def test_a_folder_is_replaced_and_all_may_read_it(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    for name in ("one", "two"):
        with write_directory(target) as folder:
            (folder / name).touch(mode=0o600)
    assert (names(target), names(target.parent)) == (["two"], ["folder"])
    (tmp_path / "plain").touch()
    assert (target / "two").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a Linux device")
def test_the_systems_error_for_a_full_disk_is_understood(tmp_path: Path) -> None:
    full = Path("/dev/full")
    with (
        pytest.raises(DiskFullError, match="no space left"),
        disk_errors(tmp_path),
        full.open("wb", buffering=0) as file,
    ):
        file.write(b"x" * 100)


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("\n one \ntwo")) == "one "
    assert first_line(ValueError()) == "ValueError"
    assert first_line("x" * 501) == "x" * 500


def test_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text, message in (("[1]", "holds list, an object is needed"), ("{", "cannot be read as JSON")):
        path.write_text(text)
        with pytest.raises(WeightsError, match=f"a.json: {message}"):
            read_json(path)


def test_the_cache_directory_is_the_platforms_unless_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SATTXT_CACHE", str(tmp_path))
    assert user_cache_dir() == tmp_path
    monkeypatch.delenv("SATTXT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for platform, end in (("linux", "sattxt"), ("darwin", "Caches/sattxt"), ("win32", "sattxt/Cache")):
        monkeypatch.setattr("sys.platform", platform)
        assert user_cache_dir().as_posix().endswith(end)


@pytest.mark.parametrize(
    ("error", "system"),
    [
        (OSError(errno.EMFILE, "Too many open files"), True),
        (OSError(errno.ENOSPC, "No space left"), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (ValueError("damaged"), False),
    ],
)
def test_what_is_the_systems_fault_and_not_the_files(error: Exception, system: bool) -> None:
    assert is_system_failure(error) == system


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="/dev/null is a Unix device")
def test_a_device_is_never_replaced() -> None:
    with pytest.raises(InputError, match=r"/dev/null: is a folder or a device"):
        check_new(Path("/dev/null"), overwrite=True)


def test_a_durable_file_reaches_the_disk_before_its_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (steps.append("flush"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda one, two: (steps.append("name"), replace(one, two)))
    with atomic_write(tmp_path / "a") as file:
        file.write(b"x")
    assert steps == ["name"]
    with atomic_write(tmp_path / "a", durable=True) as file:
        file.write(b"y")
    assert steps == ["name", "flush", "name", "flush"]
    assert (tmp_path / "a").read_bytes() == b"y"


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    rename = os.rename

    def refuse(one: Path, two: Path) -> None:
        if Path(one).suffix == ".tmp":
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(one, two)

    monkeypatch.setattr(os, "rename", refuse)
    with (
        pytest.raises(WeightsError, match=r"folder: cannot be written \(Permission denied\); pass another folder"),
        write_directory(tmp_path / "folder") as folder,
    ):
        (folder / "new").touch()
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["old"]
