"""What a user passes in the place of images: one of them, a collection, a folder or a glob; and how they are loaded.

Many images are decoded in threads while the model runs, in order and in bounded memory.
"""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from sattxt.errors import ImageError, InputError, SatTxtError
from sattxt.images.options import check_count
from sattxt.images.read import source_name
from sattxt.io import first_line, is_system_failure

IMAGE_SUFFIXES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

Array = NDArray[Any]
#: Of each image, in the order of the sources: its source's position, the source itself, and the image.
LoadedBatch = list[tuple[int, Any, Array]]
#: A source's position, itself, its name, and its image or what loading it raised.
_Loaded = tuple[int, Any, str, Array | Exception]


@dataclass(frozen=True)
class Failure:
    """An image that could not be read: its position among the sources, its name, and one line on why."""

    index: int
    source: str
    error: str

    def __str__(self) -> str:
        return self.error


def is_image(name: str) -> bool:
    """Whether a file name ends like an image's."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_single(images: Any) -> bool:
    """Whether ``images`` is one image, not several: a collection of them, a folder, or a glob.

    Raises:
        InputError: it is neither.
    """
    if isinstance(images, (str, os.PathLike)):
        return not _is_several(os.fsdecode(images))
    if hasattr(images, "read") or hasattr(images, "getbands"):
        return True
    if hasattr(images, "ndim"):
        if images.ndim == 1 and getattr(images.dtype, "kind", "") in "OUST":  # paths, in an array or a pandas Series
            return False
        if images.ndim not in (2, 3, 4):
            raise InputError(f"an array of {images.ndim} axes is no tile; pass (H, W, 3), (3, H, W) or (N, H, W, 3)")
        return bool(images.ndim < 4)
    if isinstance(images, Iterable) and not isinstance(images, (bytes, Mapping)):
        return False
    raise InputError(
        f"{type(images).__name__} is no image; pass a path, an open file, a PIL image, an array, or a list of these"
    )


def sources_of(images: Any) -> Any:
    """The images to go through, one or several: an iterable of what :func:`sattxt.images.read.to_rgb` takes.

    Raises:
        InputError: they are no images. ImageError: a folder or glob holds none.
    """
    if is_single(images):
        return [images]
    return expand(os.fsdecode(images)) if isinstance(images, (str, os.PathLike)) else images


def expand(name: str) -> list[str]:
    """The files that a name means: those of a folder (all below it), those that match a glob, or the one.

    Files and folders whose names begin with a point are left out of a folder's.

    Raises:
        ImageError: a folder holds no image, or nothing matches the glob.
    """
    if not _is_several(name):
        return [name]
    if os.path.isdir(name):
        found = []
        for parent, folders, files in os.walk(name):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            found += [os.path.join(parent, each) for each in sorted(files) if is_image(each) and each[0] != "."]
        lacking = f"this folder holds no image (files ending in {' '.join(sorted(IMAGE_SUFFIXES))})"
    else:
        found = sorted(path for path in glob.iglob(name, recursive=True) if not os.path.isdir(path))
        lacking = "no file matches this pattern"
    if not found:
        raise ImageError(f"{name}: {lacking}")
    return found


def _is_several(name: str) -> bool:
    if "\0" in name or "://" in name:
        return False
    return os.path.isdir(name) or (glob.has_magic(name) and not os.path.lexists(name))


def default_workers() -> int:
    """Threads to decode with: the cores this process may use, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def stream(
    sources: Iterable[Any],
    load: Callable[[Any, str], Array],
    *,
    batch_size: int,
    workers: int | None = None,
    failures: list[Failure] | None = None,
    name_of: Callable[[Any, int], str] = source_name,
) -> Generator[LoadedBatch, None, None]:
    """Load ``sources`` in threads and give them out in batches, in order.

    At most ``2 * batch_size + workers`` sources are in the works beside the batch in the caller's hands, however
    many there are; ``sources`` may be a generator (it is drawn from in the caller's thread). To leave early, close
    the stream (``contextlib.closing``): that waits for the images being decoded, not for those still queued.

    Args:
        sources: paths, or anything ``load`` takes.
        load: makes an (H, W, 3) array of one source, which its errors call by the name given; called from several
            threads.
        batch_size: images in a batch; the last one may be smaller.
        workers: threads; 0 loads in the caller's thread, ``None`` takes as many as there are cores (8 at most).
        failures: a list that grows by the images that cannot be read, which are then left out. By default the first
            one ends the stream, after the images before it were given out. Only :class:`ImageError` and
            :class:`OSError` count as failures of an image: all else propagates.
        name_of: what errors call a source, given it and its position; by default :func:`source_name`.

    Raises:
        InputError: an argument has no meaning. While iterating:
        ImageError: an image cannot be read (``failures=None``); names the source.
    """
    check_count("batch_size", batch_size)
    workers = default_workers() if workers is None else check_count("workers", workers, least=0)
    loaded = _load_ahead(enumerate(sources), load, name_of, 2 * batch_size + workers, workers)
    return _batches(loaded, batch_size, failures)


def _load_ahead(
    numbered: enumerate[Any],
    load: Callable[[Any, str], Array],
    name_of: Callable[[Any, int], str],
    ahead: int,
    workers: int,
) -> Generator[_Loaded, None, None]:
    """Each source with its image, in order; ``ahead`` of them are in the works at most."""

    def load_all(task: list[tuple[int, Any]]) -> list[_Loaded]:
        loaded: list[_Loaded] = []
        for index, source in task:
            name = name_of(source, index)
            try:
                loaded.append((index, source, name, load(source, name)))
            except Exception as error:  # raised where the image is due
                loaded.append((index, source, name, error))
        return loaded

    if workers == 0:
        for item in numbered:
            yield from load_all([item])
        return
    # Handing a task to a thread costs about as much as decoding a small tile, so a task is up to 8 where there is room.
    size = max(1, min(8, ahead // (4 * workers)))
    pending: deque[Future[list[_Loaded]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sattxt-load")
    try:
        while task := list(islice(numbered, size)):
            pending.append(pool.submit(load_all, task))
            if (len(pending) + 1) * size > ahead:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _batches(
    loaded: Generator[_Loaded, None, None], batch_size: int, failures: list[Failure] | None
) -> Generator[LoadedBatch, None, None]:
    batch: LoadedBatch = []
    with closing(loaded):
        for index, source, name, outcome in loaded:
            if isinstance(outcome, Exception):
                failure = Failure(index, name, _reason(outcome, name))
                if failures is not None:
                    failures.append(failure)
                    continue
                if batch:
                    yield batch
                raise ImageError(failure.error) from outcome
            batch.append((index, source, outcome))
            if len(batch) == batch_size:
                yield batch
                batch = []
        if batch:
            yield batch


def _reason(error: Exception, name: str) -> str:
    """One line on why an image cannot be read. An error that is not of this image is raised."""
    of_image = isinstance(error, ImageError) or (isinstance(error, OSError) and not isinstance(error, SatTxtError))
    if not of_image or is_system_failure(error):
        raise error
    text = getattr(error, "strerror", None) or first_line(error)
    return text if text.startswith(name) else f"{name}: {text}"
