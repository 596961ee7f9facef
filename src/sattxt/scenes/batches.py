"""A scene's chips in batches, read in a thread while the model computes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.scenes.chips import read_chips
from sattxt.scenes.grids import Chips
from sattxt.scenes.raster import Scene
from sattxt.scenes.settings import StoreSettings
from sattxt.vision.embeddings import FloatArray

#: Chips encoded together.
BATCH = 64
_AHEAD = 8  # batches read before they are needed

#: Places of chips in the unit, their pixels (n, H, W, 3), and shares (n,) with data and under cloud.
Batch = tuple[NDArray[np.int64], NDArray[np.uint8], FloatArray, "FloatArray | None"]


def read_ahead(
    scene: Scene, chips: Chips, settings: StoreSettings, prepare: Callable[[NDArray[np.uint8]], Any]
) -> Generator[tuple[NDArray[np.int64], Any, FloatArray, FloatArray | None], None, None]:
    """A unit's chips in batches of ``BATCH``, read in a thread of their own, a few batches ahead.

    Args:
        prepare: what the thread makes of the pixels (n, H, W, 3) of a batch, which stands in their place.
    """
    ready: Queue[Any] = Queue(_AHEAD)
    stopped = threading.Event()

    def put(value: Any) -> None:
        while not stopped.is_set():
            with suppress(Full):
                ready.put(value, timeout=0.1)
                return

    def read() -> None:
        try:
            for indices, rgb, valid, cloud in _batches(scene, chips, settings):
                put((indices, prepare(rgb), valid, cloud))
                if stopped.is_set():
                    return
            put(None)
        except Exception as error:  # raised where the batch is due
            put(error)

    reader = threading.Thread(target=read, name="sattxt-scene", daemon=True)
    reader.start()
    try:
        while (batch := ready.get()) is not None:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    finally:
        stopped.set()
        with suppress(Empty):
            ready.get_nowait()
        reader.join()


def _batches(scene: Scene, chips: Chips, settings: StoreSettings) -> Iterator[Batch]:
    """The chips that the store keeps, ``BATCH`` at a time: the same batches on every run."""
    limits = {"min_valid": settings.min_valid, "max_cloud": settings.max_cloud}
    held: list[Batch] = []
    for batch in read_chips(scene, chips, stretch=settings.read_stretch, **limits):
        if not len(batch[0]):
            continue
        held.append(batch)
        while sum(len(each[0]) for each in held) >= BATCH:
            whole = _join(held)
            yield tuple(None if part is None else part[:BATCH] for part in whole)  # type: ignore[misc]
            rest = tuple(None if part is None else part[BATCH:] for part in whole)
            held = [rest] if len(rest[0]) else []  # type: ignore[list-item,arg-type]
    if held:
        yield _join(held)


def _join(batches: Sequence[Batch]) -> Batch:
    indices, rgb, valid, cloud = zip(*batches, strict=True)
    clouds = None if any(part is None for part in cloud) else np.concatenate(cloud)
    return np.concatenate(indices), np.concatenate(rgb), np.concatenate(valid), clouds
