"""Files in folders, zips and tars."""

from __future__ import annotations

from tile_files import pack

from sattxt.data.archive import open_store


def test_a_tar_whose_last_member_is_a_zip_is_a_tar(tmp_path):
    inner = pack(tmp_path / "inner.zip", {"a.txt": b"inside"})
    outer = pack(tmp_path / "outer.tar", {"first.txt": b"1", "inner.zip": inner.read_bytes()})
    assert open_store(outer).names() == ["first.txt", "inner.zip"]
    assert open_store(inner).names() == ["a.txt"]
