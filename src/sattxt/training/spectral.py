"""What multispectral Sentinel-2 tiles say of themselves: RGB renderings, indices, and captions written from them."""

from __future__ import annotations

import logging
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from sattxt.errors import InputError, MissingExtraError
from sattxt.io import first_line
from sattxt.training.data import TileSet

log = logging.getLogger(__name__)

#: EuroSAT's own stretch: reflectance x 10,000 from 0 to 2750 becomes 0 to 255 (Helber et al. 2019).
STRETCH = 0.2750


def read_s2_tiles(path: Path, split: str, *, name: str = "s2") -> TileSet:
    """Two-page Sentinel-2 TIFFs in a zip as RGB tiles with captions derived from their spectral indices.

    Page 0 holds B02 B03 B04 B08 at 10 m, page 1 B05 B06 B07 B8A B11 B12 at 20 m, uint8, reflectance = (v / 255)^2.
    Tiles that cannot be read are skipped and counted.

    Raises:
        InputError: the archive is missing, or no tile in it can be read.
        MissingExtraError: rasterio is not installed.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such archive")
    images: list[np.ndarray] = []
    captions, keys = [], []
    skipped: list[tuple[str, str]] = []
    with zipfile.ZipFile(path) as archive:
        for key in sorted(k for k in archive.namelist() if k.startswith(f"{split}/") and k.endswith(".tif")):
            try:
                ten, twenty = read_two_pages(archive.read(key))
                rgb = np.clip(ten[..., [2, 1, 0]] / STRETCH, 0, 1) * 255
                if images and rgb.shape[:2] != images[0].shape[1:]:
                    raise ValueError(f"is {rgb.shape[:2]} pixels instead of {images[0].shape[1:]}")
                written = index_captions(ten, twenty)
            except MissingExtraError:
                raise
            except Exception as error:  # rasterio's errors have no common base below Exception
                skipped.append((key, first_line(error)))
                continue
            images.append(rgb.round().astype(np.uint8).transpose(2, 0, 1))
            captions.append(written)
            keys.append(key)
    if not images:
        why = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise InputError(f"{path}: no tile can be read under {split}/{why}")
    if skipped:
        counts = len(skipped), len(skipped) + len(keys)
        log.warning("%s: %d of %d tiles cannot be read, first %s (%s)", path, *counts, *skipped[0])
    return TileSet(name, torch.from_numpy(np.stack(images)), torch.full((len(keys),), -1), (), captions, keys, skipped)


def read_two_pages(blob: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Reflectances (H, W, 4) at 10 m and (H/2, W/2, 6) at 20 m, float32 in [0, 1].

    Read by rasterio: Pillow takes only the first band of a TIFF whose bands are stored one after another.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError as error:
        raise MissingExtraError("geo", "rasterio", "reading multispectral TIFFs") from error
    pages: list[np.ndarray] = []
    with warnings.catch_warnings(), rasterio.MemoryFile(blob) as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open() as dataset:
            names = dataset.subdatasets
        for name in names[:2]:
            with rasterio.open(name) as page:
                values: np.ndarray = page.read().transpose(1, 2, 0).astype(np.float32)
                pages.append((values / 255) ** 2)
    return pages[0], pages[1]


def index_captions(ten: np.ndarray, twenty: np.ndarray) -> list[str]:
    """Captions of what NDVI, MNDWI, NDBI and NDSI show; several phrasings, most telling cover first.

    Args:
        ten: (H, W, 4) B02 B03 B04 B08 and twenty: (H/2, W/2, 6) B05 B06 B07 B8A B11 B12, reflectance in [0, 1].
    """
    ten = ten.reshape(ten.shape[0] // 2, 2, ten.shape[1] // 2, 2, 4).mean(axis=(1, 3))
    green, red, nir, swir = ten[..., 1], ten[..., 2], ten[..., 3], twenty[..., 4]
    brightness = ten[..., :3].mean(-1)

    def index(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a - b) / np.maximum(a + b, 1e-4)

    ndvi, water_index, snow_index = index(nir, red), index(green, swir), index(green, swir)
    snow = (snow_index > 0.4) & (brightness > 0.3)
    water = (water_index > 0.1) & (nir < 0.15) & ~snow
    land = ~snow & ~water
    cover = {
        "water": water.mean(),
        "snow or cloud": snow.mean(),
        "dense green vegetation": (land & (ndvi > 0.6)).mean(),
        "sparse vegetation or grass": (land & (ndvi > 0.3) & (ndvi <= 0.6)).mean(),
        "bare soil or built-up ground": (land & (ndvi <= 0.3)).mean(),
    }
    coarse = brightness.reshape(brightness.shape[0] // 4, 4, brightness.shape[1] // 4, 4).mean(axis=(1, 3))
    rough = np.abs(brightness - coarse.repeat(4, 0).repeat(4, 1)).mean()
    texture = rough / (brightness.mean() + 1e-3)
    forest = (land & (ndvi > 0.6) & (brightness < 0.055) & (nir < 0.35)).mean()
    built = (land & (ndvi < 0.35) & (index(swir, nir) > 0) & (brightness > 0.12)).mean()
    ranked = sorted(cover.items(), key=lambda item: -item[1])
    (first, share), (second, rest) = ranked[0], ranked[1]
    amount = "almost entirely" if share > 0.9 else "mostly" if share > 0.6 else "partly"
    texts = [f"a satellite image {amount} covered by {first}", f"Sentinel-2 view of {first}"]
    if rest > 0.12:
        texts.append(f"{first} with some {second} seen from space")
        texts.append(f"an area of {first} and {second} at 10 metre resolution")
    if forest > 0.5:
        texts.append("dark green tree cover, probably forest, seen by Sentinel-2")
    if built > 0.35:
        texts.append("bright bare or sealed ground such as fields after harvest, rock or buildings")
    if 0.05 < cover["water"] < 0.6:
        texts.append("land beside a body of water such as a river, lake or coast")
    grass = (land & (ndvi > 0.6) & (nir > 0.3)).mean()
    middle = (land & (ndvi > 0.1) & (ndvi < 0.5)).mean()
    if forest > 0.6:
        texts += ["forest seen by a satellite", "dense trees covering the land"]
    if grass > 0.6 and texture < 0.14:
        texts += ["a green meadow or pasture", "evenly green grassland seen from space"]
    if middle > 0.5 and texture > 0.17 and np.median(index(swir, nir)) > -0.15:
        texts += ["houses and streets of a town", "a built-up area with many buildings"]
    if cover["sparse vegetation or grass"] > 0.5 and texture < 0.16:
        texts += ["shrubs and natural grassland", "low wild vegetation on open ground"]
    bare = cover["bare soil or built-up ground"]
    if bare > 0.4 and texture < 0.17:
        texts += ["crop fields with bare soil", "farmland after the harvest seen by a satellite"]
    if np.std(ndvi) > 0.15 and cover["water"] < 0.05 and texture < 0.17 and forest < 0.4:
        texts += ["agricultural fields of different crops", "cropland divided into parcels"]
    if cover["water"] > 0.9:
        texts += ["a large lake or the sea from above", "nothing but water"]
    if np.std(ndvi) > 0.2 and cover["water"] < 0.05:
        texts.append("a patchwork of green and bare fields in farmland")
    return texts
