"""Tiles of stage 1: what the student sees (RGB) beside what the teacher sees (bands) of the same ground.

In memory (:class:`PairSet`), or decoded as they are asked for (:class:`LazyPairs`).
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sattxt.errors import InputError, MissingExtraError
from sattxt.images.bands import EUROSAT_MS, canonical
from sattxt.training.data import WORKERS, Decoder, TileSet
from sattxt.training.spectral import STRETCH, read_two_pages

log = logging.getLogger(__name__)

#: Reflectance x 10,000 where EuroSAT's RGB stretch clips.
CLIP = 10_000 * STRETCH
_RGB = ("B04", "B03", "B02")
_TWO_PAGE_BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")


@dataclass
class PairSet:
    """RGB and multispectral tiles of one data set and one split, pixel for pixel of the same ground.

    images: (N, 3, S, S) uint8. bands: Sentinel-2 names. reflectance: (N, len(bands), T, T) of any dtype, reflectance x
    10,000; ``None`` where the images are all there is. They must then have EuroSAT's stretch (0 to 2750 becomes 1 to
    255), from which red, green and blue are recovered below the clip. keys: the tiles' names. skipped: tiles that could
    not be read, with the reason.

    Raises:
        InputError: shapes, names and counts do not fit together, or a reflectance is NaN or infinite.
    """

    name: str
    images: Tensor
    bands: tuple[str, ...]
    reflectance: Tensor | None
    keys: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        images, values = self.images, self.reflectance
        if (
            images.ndim != 4
            or images.shape[1] != 3
            or images.dtype != torch.uint8
            or images.shape[2] != images.shape[3]
        ):
            raise InputError(f"{self.name}: images is {images.dtype} {tuple(images.shape)}; pass (N, 3, S, S) uint8")
        if not len(images) or len(self.keys) != len(images):
            raise InputError(
                f"{self.name}: {len(images)} images, {len(self.keys)} keys; pass one key an image, at least one"
            )
        self.bands = tuple(canonical(band) for band in self.bands)
        if len(set(self.bands)) != len(self.bands):
            raise InputError(f"{self.name}: bands names a band twice ({', '.join(self.bands)})")
        if values is None:
            if self.bands != _RGB:
                raise InputError(f"{self.name}: without reflectance, bands must be {_RGB}")
            return
        if values.ndim != 4 or values.shape[:2] != (len(images), len(self.bands)) or values.shape[2] != values.shape[3]:
            raise InputError(
                f"{self.name}: reflectance is {tuple(values.shape)} for {len(images)} images and {len(self.bands)} "
                f"bands; pass ({len(images)}, {len(self.bands)}, T, T)"
            )
        if values.is_floating_point():
            bad = [key for key, tile in zip(self.keys, values, strict=True) if not bool(torch.isfinite(tile).all())]
            if bad:
                raise InputError(f"{self.name}: {len(bad)} tiles hold NaN or infinity, first {bad[0]}; leave them out")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor) -> Tensor:
        """(n, 3, S, S) uint8: the RGB tiles at ``index``, int64 (n,)."""
        return self.images[index]

    @property
    def size(self) -> int:
        """Side of the multispectral tiles in pixels."""
        return (self.images if self.reflectance is None else self.reflectance).shape[-1]

    def spectral(self, index: Tensor) -> Tensor:
        """(n, len(bands), T, T) float32 of the tiles in ``index``, reflectance x 10,000."""
        if self.reflectance is not None:
            return self.reflectance[index].to(torch.float32)
        return (self.images[index].to(torch.float32) - 1).clamp_(min=0) * (CLIP / 254)

    def actual(self, index: Tensor) -> Tensor:
        """``index`` itself; see :meth:`LazyPairs.actual`."""
        return index

    @classmethod
    def from_rgb(cls, tiles: TileSet) -> PairSet:
        """Tiles with EuroSAT's stretch and nothing but RGB: a weaker signal, for teachers that take RGB alone."""
        return cls(tiles.name, tiles.images, _RGB, None, list(tiles.keys), list(tiles.skipped))


class LazyPairs:
    """Pairs as :class:`PairSet` has them, decoded as they are asked for, for data that do not fit in memory.

    RGB is rendered from the bands with EuroSAT's stretch. A tile that turns out to be unreadable is logged and added to
    ``skipped`` once, and the next readable one stands in for it, in RGB and bands alike. The batch asked for last is
    kept, so that RGB and bands of the same tiles are decoded once.

    Args:
        decode: an index to its (len(bands), size, size) int16, reflectance x 10,000; called from several threads.

    Raises:
        InputError: no tiles, or red, green or blue is not among the bands.
    """

    def __init__(
        self,
        name: str,
        keys: Sequence[str],
        decode: Callable[[int], NDArray[np.int16]],
        bands: Sequence[str],
        size: int,
        *,
        skipped: Sequence[tuple[str, str]] = (),
        workers: int = WORKERS,
    ) -> None:
        self.name, self.keys, self.size, self.skipped = name, list(keys), size, list(skipped)
        self.bands = tuple(canonical(band) for band in bands)
        if not self.keys:
            raise InputError(f"{name}: holds no tile")
        if len(set(self.bands)) != len(self.bands):
            raise InputError(f"{name}: bands names a band twice ({', '.join(self.bands)})")
        check_rgb(self.bands, name)
        self._decoder = Decoder(name, self.keys, decode, self.skipped, workers)
        self._last: tuple[list[int], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """What the decoded tiles would take in memory, with their RGB."""
        return len(self) * (2 * len(self.bands) + 3) * self.size**2

    def take(self, index: Tensor) -> Tensor:
        """(n, 3, size, size) uint8: the RGB tiles at ``index``, int64 (n,), or what stands in for them.

        Raises:
            InputError: no tile at all can be read.
        """
        return _rendered(self._stored(index), self.bands)

    def spectral(self, index: Tensor) -> Tensor:
        """(n, len(bands), size, size) float32 of the same tiles, reflectance x 10,000.

        Raises: as :meth:`take`.
        """
        return self._stored(index).to(torch.float32)

    def actual(self, index: Tensor) -> Tensor:
        """Which tiles :meth:`take` gave for ``index``, int64 (n,): itself but where one was unreadable."""
        return torch.tensor([self._decoder.stand_in(i) for i in index.tolist()], dtype=torch.int64)

    def in_memory(self) -> PairSet:
        """All tiles decoded, without those that cannot be read.

        Raises:
            InputError: none can be read.
        """
        stored = torch.empty((len(self), len(self.bands), self.size, self.size), dtype=torch.int16)
        rows = self._decoder.fill(stored)
        values = stored if len(rows) == len(self) else stored[rows]
        images = _rendered(values, self.bands)
        return PairSet(self.name, images, self.bands, values, [self.keys[i] for i in rows], sorted(self.skipped))

    def _stored(self, index: Tensor) -> Tensor:
        wanted = index.tolist()
        if self._last is None or self._last[0] != wanted:
            found = self._decoder.each(wanted)
            empty = np.empty((0, len(self.bands), self.size, self.size), np.int16)
            tiles = np.stack([tile for _, tile in found]) if found else empty
            self._last = wanted, torch.from_numpy(tiles)
        return self._last[1]


def check_rgb(bands: Sequence[str], where: str) -> None:
    """Raise InputError unless red, green and blue, which the student sees, are among the bands."""
    missing = [band for band in reversed(_RGB) if band not in bands]
    if missing:
        raise InputError(
            f"{where}: needs the bands B02, B03 and B04 to render RGB from, and lacks {', '.join(missing)}; it has "
            f"{', '.join(bands)}"
        )


def render_rgb(values: NDArray[Any], bands: Sequence[str]) -> NDArray[np.uint8]:
    """(3, H, W) uint8 with EuroSAT's stretch, of (C, H, W) reflectance x 10,000."""
    rgb: NDArray[np.uint8] = _rendered(torch.from_numpy(values)[None], tuple(bands))[0].numpy()
    return rgb


def _rendered(stored: Tensor, bands: Sequence[str]) -> Tensor:
    """(N, 3, H, W) uint8 of (N, C, H, W) reflectance x 10,000."""
    rgb = [list(bands).index(band) for band in _RGB]
    return (stored[:, rgb].float() * (255 / CLIP)).clamp_(0, 255).round_().to(torch.uint8)


def read_eurosat_ms(path: Path, split: str, *, name: str = "eurosat-ms") -> PairSet:
    """``{split}/{class}/*.tif`` in a zip, 13 bands in EuroSAT's order (B8A last), reflectance x 10,000.

    Raises:
        InputError: the archive is missing, or no tile in it can be read.
        MissingExtraError: rasterio is not installed.
    """
    return _read(path, split, name, EUROSAT_MS, _thirteen_bands)


def read_s2_pairs(path: Path, split: str, *, name: str = "s2") -> PairSet:
    """Two-page Sentinel-2 TIFFs in a zip (see ``spectral.read_s2_tiles``), the 20 m bands resampled to 10 m.

    Raises: as :func:`read_eurosat_ms`.
    """
    return _read(path, split, name, _TWO_PAGE_BANDS, _two_pages)


def _read(path: Path, split: str, name: str, bands: tuple[str, ...], decode: Callable[[bytes], np.ndarray]) -> PairSet:
    if not path.is_file():
        raise InputError(f"{path}: no such archive")
    keys: list[str] = []
    tiles: list[np.ndarray] = []
    skipped: list[tuple[str, str]] = []
    with zipfile.ZipFile(path) as archive:
        for key in sorted(k for k in archive.namelist() if k.startswith(f"{split}/") and k.endswith(".tif")):
            try:
                tile = decode(archive.read(key))
                if tiles and tile.shape != tiles[0].shape:
                    raise ValueError(f"{tile.shape} instead of {tiles[0].shape}")
            except MissingExtraError:
                raise
            except Exception as error:  # rasterio's errors have no common base below Exception
                skipped.append((key, str(error)))
                continue
            keys.append(key)
            tiles.append(tile)
    if not tiles:
        why = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise InputError(f"{path}: no multispectral tile can be read under {split}/{why}")
    if skipped:
        counts = len(skipped), len(skipped) + len(keys)
        log.warning("%s: %d of %d tiles cannot be read, first %s (%s)", path, *counts, *skipped[0])
    stacked = torch.from_numpy(np.stack(tiles))
    return PairSet(name, _rendered(stacked, bands), bands, stacked, keys, skipped)


def _thirteen_bands(blob: bytes) -> np.ndarray:
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError as error:
        raise MissingExtraError("geo", "rasterio", "reading multispectral TIFFs") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.MemoryFile(blob) as memory, memory.open() as file:
            values: np.ndarray = file.read()
    if len(values) != len(EUROSAT_MS):
        raise ValueError(f"has {len(values)} bands instead of {len(EUROSAT_MS)}")
    clipped: np.ndarray = np.minimum(values, 32767).astype(np.int16)
    return clipped


def _two_pages(blob: bytes) -> np.ndarray:
    ten, twenty = (torch.from_numpy(page).permute(2, 0, 1) for page in read_two_pages(blob))
    twenty = torch.nn.functional.interpolate(twenty[None], size=ten.shape[1:], mode="bilinear", align_corners=False)[0]
    values: np.ndarray = (torch.cat([ten, twenty]) * 10_000).round().numpy().astype(np.int16)
    return values
