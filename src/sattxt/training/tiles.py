"""Training data: tiles of a fixed size with labels, captions and perhaps all their bands, and which ones a step sees.

Tiles that cannot be read are counted, reported and left out, never silently dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sattxt.data.multispectral import RGB_BANDS, render
from sattxt.errors import InputError, MissingExtraError
from sattxt.images.bands import canonical
from sattxt.io import first_line, is_system_failure

log = logging.getLogger(__name__)

_THREADS = 4  # that decode tiles


@dataclass
class Tiles:
    """Tiles of one data set and one split, in memory or decoded at every :meth:`take`.

    A tile that turns out to be unreadable is logged and added to ``skipped`` once; the next readable one stands in for
    it. Which one that is depends on the data alone, not on what was asked before, so a run stays a pure function of its
    seed and step. The labels and captions of what was taken are those at :meth:`actual`.

    Raises:
        InputError: there are bands, and red, green and blue, which the student sees, are not among them.
    """

    name: str
    keys: list[str]  # the tiles' names
    pixels: Tensor | Callable[[int], NDArray[Any]]  # (N, C, S, S), or an index to its tile (C, S, S), from any thread
    labels: Tensor = field(default_factory=lambda: torch.empty(0))  # (N,) int64 into ``classes``; -1: none (default)
    classes: tuple[str, ...] = ()
    captions: list[list[str]] = field(default_factory=list)  # the texts of each tile, possibly none
    maps: Tensor = field(default_factory=lambda: torch.empty(0))  # (N, K, R, R) uint8: 255 times each class's share
    bands: tuple[str, ...] = ()  # names of the C bands, int16 reflectance x 10,000; (): RGB in 0-255
    skipped: list[tuple[str, str]] = field(default_factory=list)  # names of what could not be used, and why

    def __post_init__(self) -> None:
        self.labels = self.labels if len(self.labels) else torch.full((len(self.keys),), -1)
        self.captions = [list(texts) for texts in self.captions] or [[] for _ in self.keys]
        self.bands = tuple(canonical(band) for band in self.bands)
        self._failed: dict[int, tuple[str, str]] = {}
        self._last: tuple[list[int], Tensor] | None = None
        missing = [band for band in reversed(RGB_BANDS) if self.bands and band not in self.bands]
        if missing:
            raise InputError(
                f"{self.name}: needs the bands B02, B03 and B04 to render RGB from, and lacks {', '.join(missing)}; it "
                f"has {', '.join(self.bands)}"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, index: Tensor) -> Tensor:
        """(n, 3, S, S) uint8: the RGB tiles at ``index``, int64 (n,), or what stands in for them.

        Raises:
            InputError: no tile at all can be read.
        """
        stored = self._stored(index)
        if not self.bands:
            return stored
        return torch.from_numpy(render(stored[:, [self.bands.index(band) for band in RGB_BANDS]].numpy()))

    def spectral(self, index: Tensor) -> Tensor:
        """(n, len(bands), S, S) float32 of the same tiles, reflectance x 10,000.

        Raises: as :meth:`take`.
        """
        return self._stored(index).float()

    def actual(self, index: Tensor) -> Tensor:
        """Which tiles :meth:`take` gave for ``index``, int64 (n,): itself but where one was unreadable."""
        return torch.tensor([self._readable(i)[0] if i in self._failed else i for i in index.tolist()]).long()

    def in_memory(self) -> Tiles:
        """All tiles decoded, without those that cannot be read.

        Raises:
            InputError: none can be read.
        """
        if isinstance(self.pixels, Tensor):
            return self
        _, first = self._readable(0)
        pixels, kept = torch.from_numpy(np.empty((len(self), *first.shape), first.dtype)), list[int]()
        with ThreadPoolExecutor(_THREADS) as pool:
            for index, tile in enumerate(pool.map(self._attempt, range(len(self)))):
                if tile is not None:
                    pixels[len(kept)] = torch.from_numpy(tile)
                    kept.append(index)
        return replace(
            self, keys=[self.keys[i] for i in kept], pixels=pixels[: len(kept)], labels=self.labels[kept],
            captions=[self.captions[i] for i in kept], skipped=sorted(self.skipped),
        )  # fmt: skip

    def _stored(self, index: Tensor) -> Tensor:
        if isinstance(self.pixels, Tensor):
            return self.pixels[index]
        wanted = index.tolist()
        if self._last is None or self._last[0] != wanted:  # RGB and bands of the same tiles are decoded once
            with ThreadPoolExecutor(_THREADS) as pool:
                found = [tile for _, tile in pool.map(self._readable, wanted or [0])]
            self._last = wanted, torch.from_numpy(np.stack(found))[: len(wanted)]
        return self._last[1]

    def _readable(self, index: int) -> tuple[int, NDArray[Any]]:
        """The tile, or the next that can be read, with its index."""
        for candidate in (*range(index, len(self)), *range(index)):
            tile = self._attempt(candidate)
            if tile is not None:
                return candidate, tile
        raise InputError(
            "{}: none of {} tiles can be read, first {}: {}".format(self.name, len(self), *self._failed[0])
        )

    def _attempt(self, index: int) -> NDArray[Any] | None:
        """The tile, or ``None`` where it cannot be read, which is logged and counted once."""
        assert not isinstance(self.pixels, Tensor)
        if index in self._failed:
            return None
        try:
            return self.pixels(index)
        except Exception as error:  # decoders raise many kinds
            if isinstance(error, MissingExtraError | MemoryError) or is_system_failure(error):
                raise
            failed = (self.keys[index], first_line(error).split(f"{self.keys[index]}: ", 1)[-1])
        if self._failed.setdefault(index, failed) is failed:  # the first of several threads
            self.skipped.append(failed)
            log.warning("%s: %s is left out: %s", self.name, *failed)
        return None


def take_in_turn(size: int, count: int, seed: int, step: int) -> Tensor:
    """(count,) int64: which of ``size`` tiles step ``step`` of a run sees, walking them in shuffled epochs.

    A pure function, so that a resumed run sees what it would have seen.
    """
    places = range(step * count, (step + 1) * count)
    return torch.stack([_shuffle(size, seed * 1_000_003 + place // size)[place % size] for place in places])


@lru_cache(maxsize=64)
def _shuffle(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))
