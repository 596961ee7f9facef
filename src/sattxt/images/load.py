"""Decode many images in threads while the model runs, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeVar

from numpy.typing import NDArray

from sattxt.errors import ImageError, InputError, SatTxtError
from sattxt.images.read import UNNAMED, source_name
from sattxt.images.tiff import SYSTEM_ERRNOS
from sattxt.io import first_line

Source = TypeVar("Source")
Array = NDArray[Any]

#: Sources that one task of a thread loads, at most.
_TASK = 8


@dataclass(frozen=True)
class Failure:
    """An image that could not be read: its position among the sources, its name, and one line on why."""

    index: int
    source: str
    error: str

    def __str__(self) -> str:
        return self.error


@dataclass(frozen=True)
class LoadedBatch:
    """Images in the order of their sources, with their positions among these."""

    indices: list[int] = field(default_factory=list)
    images: list[Array] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)


def default_workers() -> int:
    """Threads to decode with: the cores this process may use, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


class Stream(Iterator[LoadedBatch]):
    """Batches as they become ready; ``failures`` grows along. Made by :func:`stream`.

    Leaving a ``for`` loop early stops the threads as soon as the stream is closed, by ``close()``, ``with`` or when
    it is no longer referred to.
    """

    def __init__(self, batches: Iterator[LoadedBatch], failures: list[Failure]) -> None:
        self.failures = failures
        self._batches = batches

    def __next__(self) -> LoadedBatch:
        return next(self._batches)

    def close(self) -> None:
        """Stop decoding; waits for the images that are being decoded, not for those still queued."""
        self._batches.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def stream(
    sources: Iterable[Source],
    load: Callable[[Source], Array],
    *,
    batch_size: int,
    workers: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    name_of: Callable[[Source, int], str] | None = None,
) -> Stream:
    """Load ``sources`` in threads and give them out in batches, in order.

    At most ``2 * batch_size + workers`` sources are in the works beside the batch in the caller's hands, however
    many there are; ``sources`` may be a generator (it is drawn from in the caller's thread).

    Args:
        sources: paths, or anything ``load`` takes.
        load: makes an (H, W, 3) array of one source; called from several threads.
        batch_size: images in a batch; the last one may be smaller.
        workers: threads; 0 loads in the caller's thread, ``None`` takes as many as there are cores (8 at most).
        on_error: ``"raise"`` ends at the first image that cannot be read, after the images before it were given out;
            ``"skip"`` lists it in ``failures`` and goes on. Only :class:`ImageError` and :class:`OSError` count as
            failures of an image: all else propagates.
        name_of: what failures call a source, given it and its position; by default :func:`source_name`.

    Raises:
        InputError: an argument has no meaning. While iterating:
        ImageError: an image cannot be read (``on_error="raise"``); names the source.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: pass a positive number")
    if workers is None:
        workers = default_workers()
    if workers < 0:
        raise InputError(f"workers={workers}: pass 0 (no threads) or more")
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error={on_error!r}: pass 'raise' or 'skip'")
    failures: list[Failure] = []
    results = _results(sources, load, 2 * batch_size + workers, workers)
    return Stream(_batches(results, batch_size, on_error, failures, name_of or source_name), failures)


_Result = tuple[int, Any, Callable[[], Array]]


def _results(sources: Iterable[Source], load: Callable[[Source], Array], ahead: int, workers: int) -> Iterator[_Result]:
    """Each source's position, the source, and a call that returns its image or raises what loading raised.

    A task loads several sources where there is room for that: handing a task to a thread costs about as much as
    decoding a small tile.
    """
    if workers == 0:
        for index, source in enumerate(sources):
            yield index, source, lambda source=source: load(source)  # type: ignore[misc]
        return
    size = max(1, min(_TASK, ahead // (4 * workers)))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sattxt-load")
    try:
        pending: deque[tuple[int, list[Source], Future[list[Callable[[], Array]]]]] = deque()
        task: list[Source] = []
        submitted = 0

        def submit() -> None:
            nonlocal task, submitted
            pending.append((submitted, task, pool.submit(_load_all, load, task)))
            submitted += len(task)
            task = []

        for source in sources:
            task.append(source)
            if len(task) == size:
                submit()
                if (len(pending) + 1) * size > ahead:
                    yield from _finished(*pending.popleft())
        if task:
            submit()
        while pending:
            yield from _finished(*pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load_all(load: Callable[[Source], Array], sources: list[Source]) -> list[Callable[[], Array]]:
    """For each source a call that returns its image, or raises what loading it raised."""
    outcomes: list[Callable[[], Array]] = []
    for source in sources:
        try:
            outcomes.append(partial(_give, load(source)))
        except Exception as error:  # raised where the image is asked for
            outcomes.append(partial(_raise, error))
    return outcomes


def _give(image: Array) -> Array:
    return image


def _raise(error: Exception) -> Array:
    raise error


def _finished(start: int, sources: list[Source], future: Future[list[Callable[[], Array]]]) -> Iterator[_Result]:
    for offset, (source, outcome) in enumerate(zip(sources, future.result(), strict=True)):
        yield start + offset, source, outcome


def _batches(
    results: Iterator[_Result],
    batch_size: int,
    on_error: str,
    failures: list[Failure],
    name_of: Callable[[Any, int], str],
) -> Iterator[LoadedBatch]:
    batch = LoadedBatch()
    try:
        for index, source, result in results:
            try:
                image = result()
            except (ImageError, OSError) as error:
                if not _is_input_failure(error):
                    raise
                name = name_of(source, index)
                failure = Failure(index, name, _message(error, name))
                if on_error == "skip":
                    failures.append(failure)
                    continue
                if batch.indices:
                    yield batch
                raise ImageError(failure.error) from error
            batch.indices.append(index)
            batch.images.append(image)
            if len(batch) == batch_size:
                yield batch
                batch = LoadedBatch()
        if batch.indices:
            yield batch
    finally:
        results.close()  # type: ignore[attr-defined]


def _is_input_failure(error: ImageError | OSError) -> bool:
    if isinstance(error, ImageError):
        return True
    return not isinstance(error, SatTxtError) and error.errno not in SYSTEM_ERRNOS


def _message(error: Exception, name: str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    text = first_line(error)
    return text if text.startswith(name) else f"{name}: {text.removeprefix(f'{UNNAMED}: ')}"
