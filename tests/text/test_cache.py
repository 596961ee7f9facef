"""The text cache: exact, and clear about damage, foreign files, full disks and missing permissions."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from cache_rows import missing, rows, texts_in, vectors_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sattxt.errors import CacheError, DiskFullError, InputError
from sattxt.text.cache import TextCache, TextCacheWarning

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "text.sqlite3"


# -- round trips ---------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), texts=st.lists(TEXTS, min_size=1, max_size=8, unique=True))
def test_every_text_and_finite_vector_comes_back_bit_for_bit(path: Path, data: st.DataObject, texts: list[str]) -> None:
    vectors = data.draw(arrays(np.float32, (len(texts), 3), elements=FINITE))
    path.unlink(missing_ok=True)
    with TextCache(path) as cache:
        cache.put_many("space", texts, vectors)
    with TextCache(path) as cache:
        found = cache.get_many("space", texts)
    assert texts_in(path) == texts
    assert [found[text].tobytes() for text in texts] == [vector.tobytes() for vector in vectors]


def test_texts_are_exact(path: Path) -> None:
    texts = ["forest", "Forest", "forest ", "é", "e\u0301", "a\0b", "a\0c", "a", "", "🛰", "'; DROP TABLE vectors; --"]
    cache = TextCache(path)
    cache.put_many("space", texts, vectors_of(texts))
    found = cache.get_many("space", texts)
    assert len(found) == len(texts)
    assert all(np.array_equal(found[text], vector) for text, vector in zip(texts, vectors_of(texts), strict=True))
    assert missing(cache, ["b", "a\0d", "a", "FOREST"]) == ["b", "a\0d", "FOREST"]


def test_spaces_are_apart(path: Path) -> None:
    cache = TextCache(path)
    cache.put_many("one", ["river"], [[1.0, 2.0]])
    cache.put_many("two", ["river"], [[3.0, 4.0, 5.0]])
    assert cache.get_many("one", ["river"])["river"].tolist() == [1, 2]
    assert cache.get_many("two", ["river"])["river"].tolist() == [3, 4, 5]
    assert cache.get_many("three", ["river"]) == {}


def test_more_texts_than_sql_takes_variables(path: Path) -> None:
    texts = [f"prompt {i}" for i in range(3000)]
    vectors = np.arange(6000, dtype=np.float32).reshape(3000, 2)
    cache = TextCache(path)
    assert cache.put_many("space", texts, vectors) == 3000
    found = cache.get_many("space", [*texts, "another"])
    assert len(found) == 3000
    assert np.array_equal(np.stack([found[text] for text in texts]), vectors)


def test_the_first_vector_stays(path: Path) -> None:
    cache = TextCache(path)
    assert cache.put_many("space", ["a", "a"], [[1.0], [2.0]]) == 1
    assert cache.put_many("space", ["a", "b"], [[3.0], [4.0]]) == 1
    assert {text: float(v[0]) for text, v in cache.get_many("space", ["a", "b"]).items()} == {"a": 1.0, "b": 4.0}


# -- precision -----------------------------------------------------------------------------------------------------


def test_float16_is_read_only_where_it_was_asked_for(path: Path) -> None:
    exact, half = TextCache(path), TextCache(path, "float16")
    vector = np.array([[0.1, -3.3]], dtype=np.float32)
    half.put_many("space", ["lake"], vector)
    rounded = half.get_many("space", ["lake"])["lake"]
    assert rounded.dtype == np.float32
    assert np.array_equal(rounded, vector[0].astype(np.float16).astype(np.float32))
    assert not np.array_equal(rounded, vector[0])

    assert missing(exact, ["lake"]) == ["lake"]
    assert np.array_equal(exact.get_many("space", ["lake"], accept_float16=True)["lake"], rounded)

    exact.put_many("space", ["lake"], vector)  # the exact vector takes the rounded one's place ...
    half.put_many("space", ["lake"], vector)  # ... and is not rounded again
    assert np.array_equal(exact.get_many("space", ["lake"])["lake"], vector[0])


def test_float16_input_is_recorded_as_such(path: Path) -> None:
    cache = TextCache(path)
    cache.put_many("space", ["lake"], np.ones((1, 4), dtype=np.float16))
    assert rows(path, "text, dtype, width") == [("lake", "float16", 4)]
    assert missing(cache, ["lake"]) == ["lake"]


# -- bad arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([[1.0, np.nan], [1.0, 1.0]], r"vectors\[0\] holds NaN"),
        ([[1.0, 1.0], [np.inf, 1.0]], r"vectors\[1\] holds NaN or inf"),
        ([[1e39, 1.0], [1.0, 1.0]], "too large for float32"),
        ([[1.0, 1.0]], r"\(1, 2\); for 2 texts pass floats of shape \(2, width\)"),
        ([1.0, 1.0], r"pass floats of shape \(2, width\)"),
        ([[1, 1], [1, 1]], "int64"),
        ([[], []], r"\(2, 0\)"),
        ([[1.0] * 3, [1.0] * 3], "holds vectors of width 2, not 3"),
    ],
)
def test_bad_vectors_are_refused_and_nothing_changes(path: Path, vectors: list, said: str) -> None:
    cache = TextCache(path)
    cache.put_many("space", ["there"], [[1.0, 2.0]])
    with pytest.raises(CacheError, match=said):
        cache.put_many("space", ["a", "b"], vectors)
    assert texts_in(path) == ["there"]


def test_too_large_for_float16(path: Path) -> None:
    with pytest.raises(CacheError, match="too large for float16; use 'float32'"):
        TextCache(path, "float16").put_many("space", ["a"], [[1e6]])
    assert not path.exists()


@pytest.mark.parametrize("texts", [["a", "\ud800"], ["a", 3], b"a"])
def test_bad_texts_are_refused(path: Path, texts: object) -> None:
    cache = TextCache(path)
    for call in (cache.get_many, lambda s, t: cache.put_many(s, t, [[1.0], [2.0]])):
        with pytest.raises(InputError, match="texts"):
            call("space", texts)


def test_unknown_precision(path: Path) -> None:
    with pytest.raises(InputError, match="'float32' or 'float16'"):
        TextCache(path, "bfloat16")  # type: ignore[arg-type]


# -- the file ------------------------------------------------------------------------------------------------------


def test_reading_makes_no_file_and_the_default_is_the_users_cache(tmp_path: Path) -> None:
    cache = TextCache()
    assert cache.path == tmp_path / "sattxt-cache" / "text.sqlite3"
    assert cache.get_many("space", ["a"]) == {}
    assert not cache.path.parent.exists()
    cache.put_many("space", ["a"], [[1.0]])
    assert cache.path.is_file()


def test_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "50% off? #1 é" / "text ?mode=memory.db"
    TextCache(path).put_many("space", ["a"], [[1.0]])
    assert path.is_file()
    assert texts_in(path) == ["a"]


def test_a_file_made_or_removed_by_others_is_noticed(path: Path) -> None:
    cache = TextCache(path)
    assert cache.get_many("space", ["a"]) == {}
    with TextCache(path) as other:
        other.put_many("space", ["a"], [[1.0]])
    assert list(cache.get_many("space", ["a"])) == ["a"]
    for file in path.parent.glob("text.sqlite3*"):
        file.unlink()
    assert cache.get_many("space", ["a"]) == {}
    cache.put_many("space", ["b"], [[2.0]])
    assert texts_in(path) == ["b"]


def test_an_empty_file_is_an_empty_cache(path: Path) -> None:
    path.touch()
    cache = TextCache(path)
    assert cache.get_many("space", ["a"]) == {}
    cache.put_many("space", ["a"], [[1.0]])
    assert texts_in(path) == ["a"]


def test_a_file_that_is_no_database_is_named_and_left_alone(path: Path) -> None:
    path.write_bytes(b"not a database, but some notes of mine" * 100)
    before = path.read_bytes()
    cache = TextCache(path)
    for call in (lambda: cache.get_many("s", ["a"]), lambda: cache.put_many("s", ["a"], [[1.0]])):
        with pytest.raises(CacheError, match=r"text\.sqlite3: damaged, or no text cache .*move it away"):
            call()
    assert path.read_bytes() == before


def test_a_damaged_file_is_named_and_works_again_once_moved_away(path: Path) -> None:
    texts = [f"prompt {i}" for i in range(500)]
    with TextCache(path) as cache:
        cache.put_many("space", texts, vectors_of(texts, 64))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    cache = TextCache(path)
    with pytest.raises(CacheError, match=r"text\.sqlite3: .*move it away"):
        cache.get_many("space", texts)
    assert path.stat().st_size == len(content)
    path.rename(path.with_suffix(".damaged"))
    cache.put_many("space", texts[:1], vectors_of(texts[:1]))
    assert texts_in(path) == texts[:1]


def test_a_truncated_file(path: Path) -> None:
    texts = [f"prompt {i}" for i in range(500)]
    with TextCache(path) as cache:
        cache.put_many("space", texts, vectors_of(texts, 64))
    os.truncate(path, 3 * 4096 + 100)
    with pytest.raises(CacheError, match=r"text\.sqlite3: "):
        TextCache(path).get_many("space", texts)


@pytest.mark.parametrize("column", ["vector", "dtype", "crc32"])
def test_a_damaged_row_counts_as_missing_and_can_be_written_again(path: Path, column: str) -> None:
    texts = ["sound", "damaged"]
    value = {"vector": bytes(32), "dtype": "float16", "crc32": 7}[column]
    with TextCache(path) as cache:
        cache.put_many("space", texts, vectors_of(texts))
    with sqlite3.connect(path) as raw:
        raw.execute(f"UPDATE vectors SET {column}=? WHERE text=?", (value, b"damaged"))
    raw.close()
    cache = TextCache(path)
    with pytest.warns(TextCacheWarning, match=r"text\.sqlite3: 1 damaged row.*'damaged'"):
        assert list(cache.get_many("space", texts)) == ["sound"]
    with pytest.warns(TextCacheWarning):
        assert missing(cache, texts) == ["damaged"]
    with pytest.warns(TextCacheWarning):
        cache.put_many("space", texts, vectors_of(texts))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(cache.get_many("space", texts)["damaged"], vectors_of(texts)[1])


def test_another_programs_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE bookmarks (url TEXT)")
    raw.close()
    with pytest.raises(CacheError, match="of another program"):
        TextCache(path).put_many("space", ["a"], [[1.0]])


def test_a_newer_version_is_refused(path: Path) -> None:
    TextCache(path).put_many("space", ["a"], [[1.0]])
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version=99")
    raw.close()
    with pytest.raises(CacheError, match=r"version 99.*update sattxt"):
        TextCache(path).get_many("space", ["a"])


def test_a_folder_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="a folder"):
        TextCache(tmp_path).get_many("space", ["a"])
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="pass a path in a folder"):
        TextCache(tmp_path / "file" / "text.sqlite3").put_many("space", ["a"], [[1.0]])


def test_a_file_that_another_process_keeps_busy_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sattxt.text.cache.BUSY_SECONDS", 0.1)
    TextCache(path).put_many("space", ["a"], [[1.0]])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    cache = TextCache(path)
    assert list(cache.get_many("space", ["a"])) == ["a"]
    with pytest.raises(CacheError, match=r"text\.sqlite3: another process has been writing for .*try again later"):
        cache.put_many("space", ["b"], [[2.0]])
    other.execute("ROLLBACK")
    other.close()
    assert cache.put_many("space", ["b"], [[2.0]]) == 1


# -- no space, no permission ---------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_keeps_what_was_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"prompt {i}" for i in range(2000)]
    vectors = vectors_of(texts, 64)
    TextCache(path).put_many("space", ["before"], vectors[:1])
    connect = sqlite3.connect

    def limited(*args: object, **options: object) -> sqlite3.Connection:
        connection = connect(*args, **options)  # type: ignore[call-overload]
        connection.execute("PRAGMA max_page_count=60")
        return connection

    monkeypatch.setattr(sqlite3, "connect", limited)
    cache = TextCache(path)
    with pytest.raises(DiskFullError, match=r"text\.sqlite3: no space left.*is kept"):
        cache.put_many("space", texts, vectors)
    assert "before" in cache.get_many("space", ["before"])

    monkeypatch.setattr(sqlite3, "connect", connect)
    cache = TextCache(path)
    cache.put_many("space", texts, vectors)
    assert missing(cache, ["before", *texts]) == []


def test_no_space_for_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(DiskFullError, match="no space left"):
        TextCache(tmp_path / "new" / "text.sqlite3").put_many("space", ["a"], [[1.0]])


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take the right to write in ``folder`` away, from root too (by being somebody else for a while)."""
    modes = {entry: entry.stat().st_mode for entry in [folder, *folder.iterdir()]}
    for entry in modes:
        entry.chmod(0o555 if entry.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for entry, mode in modes.items():
            entry.chmod(mode)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_read_only_cache_is_read_and_new_vectors_are_let_go_with_a_warning(open_folder: Path) -> None:
    path = open_folder / "text.sqlite3"
    with TextCache(path) as cache:
        cache.put_many("space", ["a"], [[1.0]])
    with read_only(open_folder):
        cache = TextCache(path)
        assert cache.get_many("space", ["a"])["a"].tolist() == [1.0]
        with pytest.warns(TextCacheWarning, match="new text vectors are not kept"):
            assert cache.put_many("space", ["b"], [[2.0]]) == 0
        assert missing(cache, ["a", "b"]) == ["b"]
        with pytest.warns(TextCacheWarning, match="not kept"):
            TextCache(open_folder / "new" / "text.sqlite3").put_many("space", ["b"], [[2.0]])
    cache.put_many("space", ["b"], [[2.0]])
    assert missing(cache, ["a", "b"]) == []
