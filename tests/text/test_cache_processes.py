"""The text cache shared by threads, processes and forks, and unharmed by kill -9."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from cache_rows import missing, texts_in, vectors_of

from sattxt.text.cache import TextCache


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "text.sqlite3"


def test_threads_share_one_cache(path: Path) -> None:
    cache = TextCache(path)
    failures: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for i in range(10):
                texts = [f"{name} {i}", f"shared {i}"]
                cache.put_many("space", texts, vectors_of(texts))
                found = cache.get_many("space", texts)
                assert np.array_equal(np.stack([found[text] for text in texts]), vectors_of(texts))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(texts_in(path)) == 4 * 10 + 10


WRITER = """
import sys
import numpy as np
from sattxt.text.cache import TextCache

def vectors_of(texts, width=8):
    return np.stack([np.random.default_rng(list(t.encode())).standard_normal(width) for t in texts]).astype("f4")

path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
cache = TextCache(path)
print("ready", flush=True)
sys.stdin.readline()
for i in range(count):
    texts = [f"{name} {i} {j}" for j in range(5)] + [f"shared {i}"]
    cache.put_many("space", texts, vectors_of(texts))
    print(i, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def test_eight_processes_write_at_once(path: Path) -> None:
    """All start on a file that does not exist yet: who makes it is decided between them."""
    writers = [writer(path, f"writer {n}", 10) for n in range(8)]
    for process in writers:
        start(process)
    for process in writers:
        process.communicate()
        assert process.returncode == 0
    texts = [f"writer {n} {i} {j}" for n in range(8) for i in range(10) for j in range(5)]
    texts += [f"shared {i}" for i in range(10)]
    with TextCache(path) as cache:
        found = cache.get_many("space", texts)
        assert np.array_equal(np.stack([found[text] for text in texts]), vectors_of(texts))
        assert len(texts_in(path)) == len(texts)


def test_kill_9_loses_nothing_acknowledged(path: Path) -> None:
    acknowledged: list[str] = []
    for attempt in range(4):
        process = writer(path, f"attempt {attempt}", 100_000)
        start(process)
        assert process.stdout is not None
        last = -1
        while last < 3 + 9 * attempt:
            last = int(process.stdout.readline())
        process.kill()  # it is on its way into further writes
        rest = process.stdout.read()
        complete = [int(line) for line in rest.split("\n")[:-1]]
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]
        process.stdout.close()
        last = max([last, *complete])
        acknowledged += [f"attempt {attempt} {i} {j}" for i in range(last + 1) for j in range(5)]
        with TextCache(path) as cache:
            found = cache.get_many("space", acknowledged)
            assert np.array_equal(np.stack([found[text] for text in acknowledged]), vectors_of(acknowledged))
            cache.put_many("space", [f"after {attempt}"], vectors_of([f"after {attempt}"]))
            assert missing(cache, [f"after {attempt}"]) == []
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()


def _put_in_child(cache: TextCache, name: str) -> None:
    cache.put_many("space", [name], vectors_of([name]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_cache_in_use_survives_a_fork(path: Path) -> None:
    cache = TextCache(path)
    cache.put_many("space", ["parent"], vectors_of(["parent"]))
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_put_in_child, args=(cache, f"child {n}")) for n in range(3)]
    for child in children:
        child.start()
        cache.put_many("space", [child.name], vectors_of([child.name]))
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    names = ["parent", *(f"child {n}" for n in range(3)), *(child.name for child in children)]
    found = cache.get_many("space", names)
    assert np.array_equal(np.stack([found[name] for name in names]), vectors_of(names))


def test_it_travels_to_other_processes_by_its_path(path: Path) -> None:
    cache = TextCache(path, "float16")
    cache.put_many("space", ["a"], [[1.0]])
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.path, copy.precision) == (path, "float16")
    assert texts_in(path) == ["a"]
