"""Many images in threads: in order, in bounded memory, one bad file never ends the job."""

from __future__ import annotations

import errno
import gc
import io
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sattxt.errors import DiskFullError, ImageError, InputError, MissingExtraError
from sattxt.images.load import Failure, LoadedBatch, default_workers, stream
from sattxt.images.read import source_name, source_path, to_rgb


def constant(value: int, name: str = "") -> np.ndarray:
    return np.full((2, 2, 3), value % 256, np.uint8)


def read(path: Path, name: str) -> np.ndarray:
    return to_rgb(path, name=name)


def indices_of(batch: LoadedBatch) -> list[int]:
    return [index for index, _, _ in batch]


def load_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("sattxt-load")]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    for i, path in enumerate(paths):
        Image.new("RGB", (4, 4), (i, i, i)).save(path)
    paths[3].write_bytes(b"not an image")
    paths[7].unlink()
    return paths


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 4), st.sets(st.integers(0, 59)))
def test_every_image_once_in_order(count: int, batch_size: int, workers: int, bad: set[int]) -> None:
    def load(source: int, name: str) -> np.ndarray:
        if source in bad:
            raise ImageError(f"{name}: no {source}")
        return constant(source)

    failures: list[Failure] = []
    batches = stream(range(count), load, batch_size=batch_size, workers=workers, failures=failures)
    sizes, seen = [], []
    for batch in batches:
        sizes.append(len(batch))
        seen += indices_of(batch)
        for index, source, image in batch:
            assert source == index
            assert (image == index).all()
    assert seen == [i for i in range(count) if i not in bad]
    assert all(size == batch_size for size in sizes[:-1])
    lost = sorted(i for i in bad if i < count)
    assert failures == [Failure(i, f"image {i}", f"image {i}: no {i}") for i in lost]
    assert not load_threads()


@pytest.mark.parametrize("workers", [0, 3])
def test_bad_files_are_skipped_and_listed(files: list[Path], workers: int) -> None:
    failures: list[Failure] = []
    batches = stream(files, read, batch_size=4, workers=workers, failures=failures)
    assert [indices_of(batch) for batch in batches] == [[0, 1, 2, 4], [5, 6, 8, 9]]
    assert [(f.index, f.source) for f in failures] == [(3, str(files[3])), (7, str(files[7]))]
    assert failures[1].error == f"{files[7]}: no such file"
    assert all(f.error.startswith(f.source) and "\n" not in f.error for f in failures)


@pytest.mark.parametrize("workers", [0, 3])
def test_raise_names_the_file_after_giving_out_what_came_before(files: list[Path], workers: int) -> None:
    batches = stream(files, read, batch_size=2, workers=workers)
    assert indices_of(next(batches)) == [0, 1]
    assert indices_of(next(batches)) == [2]
    with pytest.raises(ImageError, match=r"3\.png: is no image") as error:
        next(batches)
    assert str(error.value).count("3.png") == 1
    assert not load_threads()
    assert next(batches, None) is None


def test_sources_without_a_name_go_by_their_position() -> None:
    failures: list[Failure] = []
    sources = [constant(0), np.zeros((0, 3, 3)), io.BytesIO(b"x")]
    assert list(stream(sources, read, batch_size=2, workers=0, failures=failures)) == []
    # the first is 2 x 2 x 3: an ambiguous shape, and said so
    assert [f.source for f in failures] == ["image 0", "image 1", "image 2"]
    assert failures[1] == Failure(1, "image 1", "image 1: has shape 0x3x3, which is empty")


def test_a_message_that_does_not_name_the_source_gets_its_name(files: list[Path]) -> None:
    failures: list[Failure] = []
    batches = stream(
        range(10),
        lambda index, _: to_rgb(io.BytesIO(files[index].read_bytes())),
        batch_size=20,
        workers=2,
        failures=failures,
        name_of=lambda source, index: f"tile {source}/{index}",
    )
    assert len(next(batches)) == 8
    assert [f.source for f in failures] == ["tile 3/3", "tile 7/7"]
    assert failures[0].error.startswith("tile 3/3: img: is no image")
    assert str(failures[1]) == "tile 7/7: No such file or directory"


def test_source_names() -> None:
    assert source_name(Path("a/b.tif"), 4) == str(Path("a/b.tif"))
    assert source_name(constant(1), 4) == "image 4"
    assert source_path(constant(1)) is None


def test_plain_os_errors_are_input_failures_and_typed() -> None:
    def load(source: str, name: str) -> np.ndarray:
        raise PermissionError(errno.EACCES, "Permission denied", source)

    failures: list[Failure] = []
    assert list(stream(["a.tif"], load, batch_size=2, workers=1, failures=failures)) == []
    assert failures == [Failure(0, "a.tif", "a.tif: Permission denied")]
    with pytest.raises(ImageError, match=r"a\.tif: Permission denied"):
        list(stream(["a.tif"], load, batch_size=2, workers=1))


@pytest.mark.parametrize(
    "error",
    [
        KeyError("bug"),
        TypeError("bug"),
        OSError(errno.EMFILE, "Too many open files"),
        DiskFullError("no space"),
        MissingExtraError("geo", "rasterio", "a.tif"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_faults_that_are_not_of_one_image_propagate(error: Exception, workers: int) -> None:
    def load(source: int, name: str) -> np.ndarray:
        raise error

    with pytest.raises(type(error)):
        list(stream(range(9), load, batch_size=2, workers=workers, failures=[]))
    assert not load_threads()


def test_sources_are_drawn_only_as_far_ahead_as_promised() -> None:
    drawn = 0

    def sources() -> Iterator[int]:
        nonlocal drawn
        for i in range(1_000_000):
            drawn += 1
            yield i

    with closing(stream(sources(), constant, batch_size=8, workers=2)) as batches:
        for given_out in range(8, 81, 8):
            assert len(next(batches)) == 8
            assert drawn <= given_out + 2 * 8 + 2
    assert not load_threads()


def test_images_are_loaded_while_the_caller_works() -> None:
    loaded = threading.Semaphore(0)

    def load(source: int, name: str) -> np.ndarray:
        loaded.release()
        return constant(source)

    with closing(stream(range(100), load, batch_size=4, workers=1)) as batches:
        next(batches)
        for _ in range(8):  # four given out, and at least four more without asking for them
            assert loaded.acquire(timeout=30)


def test_leaving_early_stops_the_threads() -> None:
    for _ in stream(range(1000), constant, batch_size=2, workers=3):
        break
    gc.collect()
    assert not load_threads()

    batches = stream(range(1000), constant, batch_size=2, workers=3)
    next(batches)
    assert load_threads()
    batches.close()
    assert not load_threads()
    assert next(batches, None) is None


def test_an_error_of_the_sources_reaches_the_caller() -> None:
    def sources() -> Iterator[int]:
        yield 1
        raise RuntimeError("listing failed")

    with pytest.raises(RuntimeError, match="listing failed"):
        list(stream(sources(), constant, batch_size=1, workers=2))
    assert not load_threads()


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"workers": -1}])
def test_arguments_are_checked_at_once(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        stream([], constant, **{"batch_size": 1, **bad})


def test_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in ((1, 1), (3, 3), (8, 8), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert default_workers() == workers
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for cores, workers in ((5, 5), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert default_workers() == workers
