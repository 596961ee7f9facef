"""Tiles of stage 1 in memory: what the student sees (RGB) beside what the teacher sees (bands) of the same ground."""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sattxt.bands import EUROSAT_MS, canonical
from sattxt.errors import InputError, MissingExtraError
from sattxt.training.data import TileSet
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

    @property
    def size(self) -> int:
        """Side of the multispectral tiles in pixels."""
        return (self.images if self.reflectance is None else self.reflectance).shape[-1]

    def spectral(self, index: Tensor) -> Tensor:
        """(n, len(bands), T, T) float32 of the tiles in ``index``, reflectance x 10,000."""
        if self.reflectance is not None:
            return self.reflectance[index].to(torch.float32)
        return (self.images[index].to(torch.float32) - 1).clamp_(min=0) * (CLIP / 254)

    @classmethod
    def from_rgb(cls, tiles: TileSet) -> PairSet:
        """Tiles with EuroSAT's stretch and nothing but RGB: a weaker signal, for teachers that take RGB alone."""
        return cls(tiles.name, tiles.images, _RGB, None, list(tiles.keys), list(tiles.skipped))


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
        log.warning("%s: %d of %d tiles cannot be read, first %s (%s)", path, len(skipped), len(keys), *skipped[0])
    stacked = torch.from_numpy(np.stack(tiles))
    rgb = [bands.index(band) for band in _RGB]
    images = (stacked[:, rgb].float() * (255 / CLIP)).clamp_(0, 255).round_().to(torch.uint8)
    return PairSet(name, images, bands, stacked, keys, skipped)


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
