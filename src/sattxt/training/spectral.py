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
