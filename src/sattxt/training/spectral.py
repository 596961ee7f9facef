"""Captions that multispectral Sentinel-2 tiles write of themselves, from spectral indices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.data.multispectral import Bands
from sattxt.errors import ImageError

_TEN_METRES = ("B02", "B03", "B04", "B08")


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
