"""Files in folders, zips and tars."""

from __future__ import annotations

import gzip
import io
import multiprocessing
import pickle
import zipfile

import pytest
from evaluation_fakes import write_folders
from tile_files import pack, zipped

from sattxt.data.archive import open_store
from sattxt.data.registry import open_data
from sattxt.errors import ImageError, InputError


def test_a_tar_whose_last_member_is_a_zip_is_a_tar(tmp_path):
    inner = pack(tmp_path / "inner.zip", {"a.txt": b"inside"})
    outer = pack(tmp_path / "outer.tar", {"first.txt": b"1", "inner.zip": inner.read_bytes()})
    assert open_store(outer).names() == ["first.txt", "inner.zip"]
    assert open_store(inner).names() == ["a.txt"]


def test_a_damaged_zip_is_named(tmp_path):
    folder = write_folders(tmp_path / "x", 1)
    archive = zipped(folder)
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as opened:
        first = opened.infolist()[-1]
    content[first.header_offset + 60 : first.header_offset + 100] = bytes(40)
    archive.write_bytes(bytes(content))
    data = open_data(archive).split()
    with pytest.raises((InputError, ImageError), match=r"x\.zip"):
        [data.image(i) for i in range(len(data))]


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_an_archive_can_be_pickled_and_read_after_a_fork(tmp_path, suffix):
    files = {f"{i}.bin": bytes([i]) * 50_000 for i in range(20)}
    store = open_store(pack(tmp_path / f"a.{suffix}", files))
    assert pickle.loads(pickle.dumps(store)).read("3.bin") == files["3.bin"]
    context = multiprocessing.get_context("fork")
    right = context.Queue()

    def check() -> None:
        right.put(all(store.read(name) == content for name, content in [*files.items()] * 5))

    children = [context.Process(target=check) for _ in range(3)]
    for child in children:
        child.start()
    assert all(store.read(name) == content for name, content in [*files.items()] * 5)
    assert [right.get(timeout=60) for _ in children] == [True] * 3
    for child in children:
        child.join()


def test_a_file_that_is_not_there_is_named(tmp_path):
    for store in (open_store(pack(tmp_path / "a.zip", {"a": b""})), open_store(tmp_path)):
        with pytest.raises(ImageError, match="missing"):
            store.read("missing")
        assert store.checksum("missing") == -1


def test_a_damaged_or_compressed_archive_is_named(tmp_path):
    packed = pack(tmp_path / "a.tar", {"a.txt": b"inside"}).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(packed))
    (tmp_path / "c.tar").write_bytes(packed[:600])
    (tmp_path / "d.zip").write_bytes(pack(tmp_path / "whole.zip", {"a.txt": b"inside"}).read_bytes()[-60:])
    for name, reason in (("b.tar.gz", "is no zip or tar; unpack it"), ("d.zip", "cannot be read as a zip or tar")):
        with pytest.raises(InputError, match=rf"{name}: {reason}"):
            open_store(tmp_path / name)
    with pytest.raises((InputError, ImageError), match=r"c\.tar"):
        open_store(tmp_path / "c.tar").read("a.txt")
