"""Sentinel-2 tiles with all their bands: GeoTIFFs of one or several pages, in a folder, zip or tar; and captions that
are written from the bands.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sattxt.data.archive import open_store
from sattxt.data.dataset import Dataset, Sample, Samples, by_split, split_of
from sattxt.errors import ImageError, InputError
from sattxt.images.bands import canonical
from sattxt.images.options import MAX_PIXELS, ImageOptions
from sattxt.images.stretch import SENTINEL2_RANGE
from sattxt.images.tiff import read_pages

#: The bands that RGB is rendered from, in its order.
RGB_BANDS = ("B04", "B03", "B02")
_SUFFIXES = (".tif", ".tiff")
_TEN_METRES = ("B02", "B03", "B04", "B08")

Bands = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class BandSamples(Samples):
    """Samples with all their bands, seen as pictures through the RGB rendering of these.

    scale: what makes reflectance x 10,000 of stored values, once the offset of ``options`` is taken off.
    """

    scale: float = 1.0

    def bands(self, index: int) -> Bands:
        """Reflectance x 10,000 of a sample: (H, W) float32 by Sentinel-2 name, each band at its own resolution.

        Raises:
            ImageError: it cannot be read, has no data somewhere, or its bands or their unit are not known.
            MissingExtraError: rasterio is not installed.
        """
        name = self.samples[index].files[0]
        return read_bands(self.store.read(name), f"{self.store.path}/{name}", self.options, self.scale)

    def image(self, index: int) -> NDArray[Any]:
        """(H, W, 3) uint8: red, green and blue with EuroSAT's stretch."""
        return picture(self.bands(index), self._where(index))

    def _where(self, index: int) -> str:
        return f"{self.store.path}/{self.samples[index].id}"


def with_bands(data: Samples) -> BandSamples:
    """The same samples with all the bands in their files; ``options`` may have their names and the offset."""
    if isinstance(data, BandSamples):
        return data
    return BandSamples(**{f.name: getattr(data, f.name) for f in fields(Samples)})


def picture(bands: Bands, where: str) -> NDArray[np.uint8]:
    """(H, W, 3): red, green and blue of a tile with EuroSAT's stretch.

    Raises:
        ImageError: one of them is not among the bands.
    """
    missing = [band for band in RGB_BANDS if band not in bands]
    if missing:
        raise ImageError(f"{where}: has no band {missing[0]}; its bands are {', '.join(bands)}")
    return render(np.stack([bands[band] for band in RGB_BANDS], axis=-1))


def render(reflectance: NDArray[Any]) -> NDArray[np.uint8]:
    """EuroSAT's stretch (Helber et al. 2019), value by value: reflectance x 10,000 from 0 to 2750 becomes 0 to 255."""
    low, high = SENTINEL2_RANGE
    scaled = (np.asarray(reflectance, np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.asarray(np.clip(scaled, 0, 255).round(), dtype=np.uint8)


def read_bands(content: bytes, where: str, options: ImageOptions, scale: float = 1.0) -> Bands:
    """The bands of a Sentinel-2 TIFF of one page, or of several, each of a resolution; as :meth:`BandSamples.bands`.

    Args:
        options: ``offset`` and ``band_names``. By default the names in the bands' descriptions, or in a JSON image
            description with ``bands`` (where ``"reflectance": "(v/255)**2"`` says that 8-bit values are square-root
            coded).

    Raises: as :meth:`BandSamples.bands`.
    """
    found: Bands = {}
    for page, stored in read_pages(content, max_pixels=MAX_PIXELS, where=where):
        if np.ma.getmaskarray(stored).any():
            raise ImageError(f"{where}: holds pixels that it calls nodata")
        values = np.ma.getdata(stored)
        names = options.band_names or page.names
        if names is None or not all(names):
            raise ImageError(
                f"{where}: the names of its {len(values)} bands are not known; pass them all in order (--band-names, "
                "or bands: in a recipe), or --dataset eurosat"
            )
        if _coding(page.description) == "(v/255)**2":
            reflectance = np.square(values.astype(np.float32) / np.float32(255)) * np.float32(10_000)
        elif values.dtype == np.uint8:
            raise ImageError(f"{where}: has 8 bits and does not say how reflectance is coded in them")
        else:
            reflectance = scaled(values, options.subtracted(page.offset(0), values.dtype), scale, where)
        found |= named(reflectance, names, where)
    return found


def _coding(description: str) -> Any:
    try:
        return json.loads(description.rstrip("\0")).get("reflectance")
    except (ValueError, AttributeError, RecursionError):
        return None


def scaled(values: NDArray[Any], offset: float, scale: float, where: str) -> NDArray[np.float32]:
    """``(values - offset) * scale``, reflectance x 10,000.

    Raises:
        ImageError: NaN or infinity among the values, or floats that are reflectance in 0-1.
    """
    if not np.isfinite(values).all():
        raise ImageError(f"{where}: holds NaN or infinity")
    found: NDArray[np.float32] = (values.astype(np.float32) - np.float32(offset)) * np.float32(scale)
    if values.dtype.kind == "f" and 0 < (largest := float(np.abs(found).max())) < 2:
        raise ImageError(
            f"{where}: holds reflectance in 0-1 (at most {largest:.3g}) where 0-10000 is due; pass scale: 10000"
        )
    return found


def named(values: NDArray[np.float32], names: Sequence[str | None], where: str) -> Bands:
    """The bands of a tile (C, H, W) by their Sentinel-2 names."""
    if len(values) != len(names):
        raise ImageError(f"{where}: has {len(values)} bands, {len(names)} are named ({', '.join(map(str, names))})")
    return {canonical(str(name)): band for name, band in zip(names, values, strict=True)}


def read_geotiffs(
    path: Path,
    *,
    bands: tuple[str, ...] | None = None,
    scale: float = 1.0,
    offset: float | Literal["auto"] = "auto",
    options: ImageOptions | None = None,
) -> Dataset:
    """Multi-band GeoTIFFs, one a tile, anywhere below a folder or in an archive. The split is a folder's of that name.

    Args:
        bands: all band names in order; by default those that the files have.
        scale: what makes reflectance x 10,000 of stored values once the offset is taken off.
        offset: taken off stored values; ``"auto"``: what ``options`` say.

    Raises:
        InputError: there are none.
    """
    store = open_store(path)
    names = [name for name in store.names() if name.lower().endswith(_SUFFIXES)]
    if not names:
        raise InputError(f"{path}: holds no file ending in {' or '.join(_SUFFIXES)}")
    return Dataset(
        store.name,
        store,
        by_split([(split_of(name), Sample((name,))) for name in names]),
        options=reading(options, offset, bands),
        view=partial(BandSamples, scale=scale),
    )


def reading(
    options: ImageOptions | None, offset: float | Literal["auto"], bands: tuple[str, ...] | None = None
) -> ImageOptions:
    """How to read Sentinel-2 tiles: ``options``, with an offset and band names of its own where they are given."""
    options = options or ImageOptions(stretch="sentinel2")
    chosen = options.offset if offset == "auto" else offset
    return replace(options, offset=chosen, band_names=bands or options.band_names)


def index_captions(bands: Bands) -> list[str]:
    """Captions of what NDVI, MNDWI, NDBI and NDSI show; several phrasings, most telling cover first.

    Args:
        bands: B02, B03, B04 and B08 (2 H, 2 W) and B11 (H, W), reflectance x 10,000; H and W are multiples of 4.

    Raises:
        ImageError: a band is missing.
    """
    missing = [band for band in (*_TEN_METRES, "B11") if band not in bands]
    if missing:
        raise ImageError(f"lacks the bands {', '.join(missing)}, which captions are written from")
    ten = np.stack([bands[band] for band in _TEN_METRES], axis=-1) / 10_000
    ten = ten.reshape(ten.shape[0] // 2, 2, ten.shape[1] // 2, 2, 4).mean(axis=(1, 3))
    green, red, nir, swir = ten[..., 1], ten[..., 2], ten[..., 3], bands["B11"] / 10_000
    brightness = ten[..., :3].mean(-1)

    def index(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        return (a - b) / np.maximum(a + b, 1e-4)

    ndvi, wetness = index(nir, red), index(green, swir)  # the latter is MNDWI, and NDSI
    snow = (wetness > 0.4) & (brightness > 0.3)
    water = (wetness > 0.1) & (nir < 0.15) & ~snow
    land = ~snow & ~water
    cover = {
        "water": water.mean(),
        "snow or cloud": snow.mean(),
        "dense green vegetation": (land & (ndvi > 0.6)).mean(),
        "sparse vegetation or grass": (land & (ndvi > 0.3) & (ndvi <= 0.6)).mean(),
        "bare soil or built-up ground": (land & (ndvi <= 0.3)).mean(),
    }
    coarse = brightness.reshape(brightness.shape[0] // 4, 4, brightness.shape[1] // 4, 4).mean(axis=(1, 3))
    texture = np.abs(brightness - coarse.repeat(4, 0).repeat(4, 1)).mean() / (brightness.mean() + 1e-3)
    forest = (land & (ndvi > 0.6) & (brightness < 0.055) & (nir < 0.35)).mean()
    built = (land & (ndvi < 0.35) & (index(swir, nir) > 0) & (brightness > 0.12)).mean()
    (first, share), (second, rest), *_ = sorted(cover.items(), key=lambda item: -item[1])
    amount = "almost entirely" if share > 0.9 else "mostly" if share > 0.6 else "partly"
    grass = (land & (ndvi > 0.6) & (nir > 0.3)).mean()
    middle = (land & (ndvi > 0.1) & (ndvi < 0.5)).mean()
    town = middle > 0.5 and texture > 0.17 and np.median(index(swir, nir)) > -0.15
    shrubs = cover["sparse vegetation or grass"] > 0.5 and texture < 0.16
    soil = cover["bare soil or built-up ground"] > 0.4 and texture < 0.17
    varied, dry = np.std(ndvi), cover["water"] < 0.05
    texts = [
        (True, f"a satellite image {amount} covered by {first}"),
        (True, f"Sentinel-2 view of {first}"),
        (rest > 0.12, f"{first} with some {second} seen from space"),
        (rest > 0.12, f"an area of {first} and {second} at 10 metre resolution"),
        (forest > 0.5, "dark green tree cover, probably forest, seen by Sentinel-2"),
        (built > 0.35, "bright bare or sealed ground such as fields after harvest, rock or buildings"),
        (0.05 < cover["water"] < 0.6, "land beside a body of water such as a river, lake or coast"),
        (forest > 0.6, "forest seen by a satellite"),
        (forest > 0.6, "dense trees covering the land"),
        (grass > 0.6 and texture < 0.14, "a green meadow or pasture"),
        (grass > 0.6 and texture < 0.14, "evenly green grassland seen from space"),
        (town, "houses and streets of a town"),
        (town, "a built-up area with many buildings"),
        (shrubs, "shrubs and natural grassland"),
        (shrubs, "low wild vegetation on open ground"),
        (soil, "crop fields with bare soil"),
        (soil, "farmland after the harvest seen by a satellite"),
        (varied > 0.15 and dry and texture < 0.17 and forest < 0.4, "agricultural fields of different crops"),
        (varied > 0.15 and dry and texture < 0.17 and forest < 0.4, "cropland divided into parcels"),
        (cover["water"] > 0.9, "a large lake or the sea from above"),
        (cover["water"] > 0.9, "nothing but water"),
        (varied > 0.2 and dry, "a patchwork of green and bare fields in farmland"),
    ]
    return [text for fits, text in texts if fits]
