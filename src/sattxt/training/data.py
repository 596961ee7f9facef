"""Training data: RGB tiles as uint8 with their labels and captions, in memory or decoded as they are asked for.

Samples that cannot be read are counted, reported and left out, never silently dropped.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sattxt.data.archive import is_image, open_store
from sattxt.data.tables import jsonl_captions, text_of
from sattxt.errors import InputError, MissingExtraError
from sattxt.images.options import ImageOptions
from sattxt.images.read import to_rgb
from sattxt.images.tiff import SYSTEM_ERRNOS
from sattxt.io import first_line

log = logging.getLogger(__name__)

#: Threads that decode tiles.
WORKERS = 4


@dataclass
class TileSet:
    """Tiles of one data set and one split.

    images: (N, 3, S, S) uint8. labels: (N,) int64 into ``classes``, or -1 where there is none.
    captions: one list of texts a tile, possibly empty. keys: the tile's path in its archive. skipped: tiles that could
    not be read or used, with the reason.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    captions: list[list[str]]
    keys: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor) -> Tensor:
        """(n, 3, S, S) uint8: the tiles at ``index``, int64 (n,)."""
        return self.images[index]

    def actual(self, index: Tensor) -> Tensor:
        """``index`` itself; see :meth:`LazyTiles.actual`."""
        return index


class Decoder:
    """Arrays decoded on demand in threads; one that cannot be read is replaced by the next that can.

    What stands in depends on the data alone, not on what was asked before, so a run stays a pure function of its seed
    and step.

    Args:
        name: of the data set, for messages.
        keys: the samples' names.
        decode: an index to its array, all of one shape and dtype. Any error but :class:`MissingExtraError` and a system
            out of files or memory means that the sample is unreadable.
        skipped: grows by every unreadable sample, once.
    """

    def __init__(
        self,
        name: str,
        keys: Sequence[str],
        decode: Callable[[int], NDArray[Any]],
        skipped: list[tuple[str, str]],
        workers: int = WORKERS,
    ) -> None:
        self._name, self._keys, self._decode, self._skipped, self._workers = name, keys, decode, skipped, workers
        self._failed: dict[int, str] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def each(self, index: Sequence[int]) -> list[tuple[int, NDArray[Any]]]:
        """For each index the one that was decoded (itself, or its stand-in) and the array.

        Raises:
            InputError: no sample can be read.
        """
        if len(index) < 2:
            return [self._readable(i) for i in index]
        with ThreadPoolExecutor(min(self._workers, len(index))) as pool:
            return list(pool.map(self._readable, index))

    def attempt(self, index: int) -> NDArray[Any] | None:
        """The array, or ``None`` where it cannot be read, which is logged and counted once."""
        if index in self._failed:
            return None
        try:
            return self._decode(index)
        except (MissingExtraError, MemoryError):
            raise
        except Exception as error:  # decoders and rasterio raise many kinds
            if isinstance(error, OSError) and error.errno in SYSTEM_ERRNOS:
                raise
            reason = first_line(error)
        with self._lock:
            if index not in self._failed:
                self._failed[index] = reason
                self._skipped.append((self._keys[index], reason))
                log.warning("%s: %s is left out: %s", self._name, self._keys[index], reason)
        return None

    def fill(self, out: Tensor) -> list[int]:
        """Decode every sample into ``out``, one a row; returns the rows that could be read.

        Raises:
            InputError: none can be read.
        """
        kept = [False] * len(self._keys)

        def one(index: int) -> None:
            array = self.attempt(index)
            if array is not None:
                out[index], kept[index] = torch.from_numpy(array), True

        with ThreadPoolExecutor(self._workers) as pool:
            list(pool.map(one, range(len(self._keys))))
        rows = [i for i, good in enumerate(kept) if good]
        if not rows:
            raise self._nothing()
        return rows

    def _nothing(self) -> InputError:
        count = len(self._keys)
        return InputError(f"{self._name}: none of {count} tiles can be read, first {self._keys[0]}: {self._failed[0]}")

    def stand_in(self, index: int) -> int:
        """The index itself, or what stands in for it if it is known to be unreadable."""
        while index in self._failed:
            index = self._readable(index)[0]
        return index

    def _readable(self, index: int) -> tuple[int, NDArray[Any]]:
        count = len(self._keys)
        for offset in range(count):
            candidate = (index + offset) % count
            array = self.attempt(candidate)
            if array is not None:
                return candidate, array
        raise self._nothing()


class LazyTiles:
    """Tiles as :class:`TileSet` has them, decoded at every :meth:`take`, for data that do not fit in memory.

    The attributes are those of :class:`TileSet` but for ``images``. A tile that turns out to be unreadable is logged
    and added to ``skipped`` once; the next readable one stands in for it, and ``labels`` and ``captions`` at its index
    become those of the stand-in. What was computed from them before is to be looked up at :meth:`actual`.

    Args:
        decode: an index to its tile, (3, size, size) uint8; called from several threads.

    Raises:
        InputError: no tiles, or counts that do not fit together.
    """

    def __init__(
        self,
        name: str,
        keys: Sequence[str],
        decode: Callable[[int], NDArray[np.uint8]],
        size: int,
        *,
        labels: Tensor | None = None,
        classes: Sequence[str] = (),
        captions: Sequence[Sequence[str]] | None = None,
        skipped: Iterable[tuple[str, str]] = (),
        workers: int = WORKERS,
    ) -> None:
        self.name, self.keys, self.size, self.classes = name, list(keys), size, tuple(classes)
        self.labels = torch.full((len(self.keys),), -1) if labels is None else labels
        self.captions = [[] for _ in self.keys] if captions is None else [list(texts) for texts in captions]
        self.skipped = list(skipped)
        if not self.keys or len(self.labels) != len(self.keys) or len(self.captions) != len(self.keys):
            raise InputError(
                f"{name}: {len(self.keys)} tiles, {len(self.labels)} labels, {len(self.captions)} lists of captions; "
                "pass one of each a tile, at least one"
            )
        self._decoder = Decoder(name, self.keys, decode, self.skipped, workers)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """What the decoded tiles would take in memory."""
        return len(self) * 3 * self.size**2

    def take(self, index: Tensor) -> Tensor:
        """(n, 3, size, size) uint8: the tiles at ``index``, int64 (n,), or what stands in for them.

        Raises:
            InputError: no tile at all can be read.
        """
        wanted = index.tolist()
        found = self._decoder.each(wanted)
        for i, (used, _) in zip(wanted, found, strict=True):
            if used != i:
                self.labels[i], self.captions[i] = self.labels[used], self.captions[used]
        if not found:
            return torch.empty((0, 3, self.size, self.size), dtype=torch.uint8)
        return torch.from_numpy(np.stack([tile for _, tile in found]))

    def actual(self, index: Tensor) -> Tensor:
        """Which tiles :meth:`take` gave for ``index``, int64 (n,): itself but where one was unreadable."""
        return torch.tensor([self._decoder.stand_in(i) for i in index.tolist()], dtype=torch.int64)

    def in_memory(self) -> TileSet:
        """All tiles decoded, without those that cannot be read.

        Raises:
            InputError: none can be read.
        """
        images = torch.empty((len(self), 3, self.size, self.size), dtype=torch.uint8)
        rows = self._decoder.fill(images)
        return TileSet(
            name=self.name,
            images=images if len(rows) == len(self) else images[rows],
            labels=self.labels[rows],
            classes=self.classes,
            captions=[self.captions[i] for i in rows],
            keys=[self.keys[i] for i in rows],
            skipped=sorted(self.skipped),
        )


def read_captions(path: Path) -> dict[str, list[str]]:
    """``image`` to ``captions`` from a jsonl file; rows without a picture are left out.

    Raises:
        InputError: the file cannot be read, or a line has another form.
    """
    captions: dict[str, list[str]] = {}
    for row in jsonl_captions(text_of(path), str(path)):
        captions.setdefault(row.image, []).extend(row.captions)
    return captions


def read_zip(
    path: Path, split: str, size: int, *, name: str, captions: dict[str, list[str]] | None = None, workers: int = 2
) -> TileSet:
    """Tiles of ``{split}/{class}/{file}`` in a zip, resized to ``size`` where they differ.

    Raises:
        InputError: the archive is missing or has no image under ``split/``.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such archive")
    store = open_store(path)
    keys = [key for key in store.names() if key.startswith(f"{split}/") and is_image(key)]
    if not keys:
        raise InputError(f"{path}: no image lies under {split}/ (class folders are expected there)")
    classes = sorted({PurePosixPath(key).parts[1] for key in keys})
    lazy = LazyTiles(
        name,
        keys,
        lambda i: decode_tile(store.read(keys[i]), size, name=keys[i]),
        size,
        labels=torch.tensor([classes.index(PurePosixPath(key).parts[1]) for key in keys]),
        classes=classes,
        captions=[(captions or {}).get(key, []) for key in keys],
        workers=workers,
    )
    return lazy.in_memory()


_PLAIN = ImageOptions()


def decode_tile(blob: bytes, size: int, *, options: ImageOptions = _PLAIN, name: str) -> NDArray[np.uint8]:
    """(3, size, size) uint8 of an image file's content, resized by a Lanczos filter where it differs.

    Raises:
        ImageError: it cannot be read, or not without guessing what it holds; ``name`` is what it is called.
        MissingExtraError: a TIFF that needs rasterio.
    """
    return fit_tile(to_rgb(io.BytesIO(blob), options, name=name), size)


def fit_tile(rgb: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """(3, size, size) uint8 of (H, W, 3) pixels in 0..255."""
    if rgb.dtype != np.uint8:
        rgb = rgb.round().astype(np.uint8)
    if rgb.shape[:2] != (size, size):
        rgb = np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(rgb.transpose(2, 0, 1))


class Sampler:
    """Which tiles step ``t`` of a run sees: fixed counts a data set, each set walked in shuffled epochs.

    A pure function of the seed and the step, so that a resumed run sees what it would have seen.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int], seed: int) -> None:
        if len(sizes) != len(counts) or any(c <= 0 for c in counts) or any(s <= 0 for s in sizes):
            raise InputError("every data set needs tiles and a positive count a batch")
        self._sizes, self._counts, self._seed = tuple(sizes), tuple(counts), seed
        self._order: dict[tuple[int, int], Tensor] = {}

    def batch(self, step: int) -> list[Tensor]:
        """One int64 index tensor a data set."""
        return [self._indices(which, step) for which in range(len(self._sizes))]

    def _indices(self, which: int, step: int) -> Tensor:
        size, count = self._sizes[which], self._counts[which]
        positions = range(step * count, (step + 1) * count)
        return torch.stack([self._permutation(which, p // size)[p % size] for p in positions])

    def _permutation(self, which: int, epoch: int) -> Tensor:
        key = (which, epoch)
        if key not in self._order:
            for old in [k for k in self._order if k[0] == which and k[1] < epoch - 1]:
                del self._order[old]
            generator = torch.Generator().manual_seed((self._seed * 1000 + which) * 1_000_003 + epoch)
            self._order[key] = torch.randperm(self._sizes[which], generator=generator)
        return self._order[key]


def unique_texts(groups: Iterable[Iterable[str]]) -> list[str]:
    """All texts once, in first-seen order."""
    return list(dict.fromkeys(text for group in groups for text in group))
