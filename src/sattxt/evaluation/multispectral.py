"""Sentinel-2 tiles with all their bands: reflectances, an RGB rendering, and the targets that RGB should foretell."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.data.dataset import Samples
from sattxt.errors import ImageError, MissingExtraError
from sattxt.images.bands import canonical, reflectance_offset
from sattxt.images.stretch import SENTINEL2_RANGE

Array = NDArray[Any]

RGB = ("B04", "B03", "B02")
#: Bands that RGB does not hold, with the names results show.
HELD_OUT = {
    "B05": "red edge B05",
    "B06": "red edge B06",
    "B07": "red edge B07",
    "B08": "NIR B08",
    "B8A": "NIR B8A",
    "B11": "SWIR B11",
    "B12": "SWIR B12",
}
_SQUARE_ROOT = "(v/255)**2"


@dataclass(frozen=True)
class Tile:
    """Reflectances in [0, 1] or a little above, by band; bands may differ in resolution."""

    bands: dict[str, NDArray[np.float32]]

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3): red, green and blue stretched as EuroSAT's RGB tiles are. All that a model gets to see."""
        low, high = SENTINEL2_RANGE
        stacked = np.stack([self.bands[name] for name in RGB], axis=-1) * 10000
        return np.asarray(np.clip((stacked - low) * (255 / (high - low)), 0, 255).round(), dtype=np.uint8)

    @property
    def targets(self) -> dict[str, float]:
        """Tile means of the held-out bands, NDVI and NDWI (McFeeters), as far as the bands are there."""
        found = {shown: float(self.bands[name].mean()) for name, shown in HELD_OUT.items() if name in self.bands}
        if "B08" in self.bands:
            nir, red, green = self.bands["B08"], self.bands["B04"], self.bands["B03"]
            found["NDVI"] = _normalised_difference(nir, red)
            found["NDWI"] = _normalised_difference(green, nir)
        return found


@dataclass(frozen=True)
class RenderedData(Samples):
    """The samples of a split, seen through their RGB rendering."""

    def image(self, index: int) -> Array:
        """(H, W, 3) uint8 RGB rendering."""
        return self.tile(index).rgb

    def tile(self, index: int) -> Tile:
        """All bands of a sample.

        Raises:
            ImageError: it is no multispectral TIFF, or its bands are not known.
        """
        name = self.samples[index].id
        return read_tile(self.read(name), f"{self.store.path}/{name}", self.options.band_names)


def rendered(data: Samples) -> RenderedData:
    """The same samples, seen through their RGB rendering."""
    return RenderedData(**{name: getattr(data, name) for name in Samples.__dataclass_fields__})


def read_tile(content: bytes, where: str, band_names: Sequence[str] | None = None) -> Tile:
    """All bands of a Sentinel-2 TIFF: one page of 16-bit reflectance x 10,000, or several pages, each of a resolution.

    Names come from ``band_names``, the bands' descriptions, or a JSON image description with ``bands`` (where
    ``"reflectance": "(v/255)**2"`` says that 8-bit values are square-root coded). An offset that the tags tell of is
    taken off.

    Raises:
        ImageError: it cannot be read, its bands have no names, or red, green or blue is not among them.
        MissingExtraError: rasterio is not installed.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError as error:
        raise MissingExtraError("geo", "rasterio", "reading multispectral TIFFs") from error
    bands: dict[str, NDArray[np.float32]] = {}
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    try:
        with rasterio.MemoryFile(content) as memory:
            with memory.open(driver="GTiff") as first:
                pages = first.subdatasets
                if not pages:
                    bands |= _page(first, where, band_names)
            for page in pages:
                with rasterio.open(page) as opened:
                    bands |= _page(opened, where, None)
    except RasterioError as error:
        raise ImageError(f"{where}: cannot be read as a multispectral TIFF ({error})") from error
    missing = [name for name in RGB if name not in bands]
    if missing:
        raise ImageError(f"{where}: has no band {missing[0]}; its bands are {', '.join(bands)}")
    return Tile(bands)


def _page(opened: Any, where: str, band_names: Sequence[str] | None) -> dict[str, NDArray[np.float32]]:
    tags = opened.tags()
    try:
        described = json.loads(tags.get("TIFFTAG_IMAGEDESCRIPTION", "{}"))
    except ValueError:
        described = {}
    described = described if isinstance(described, dict) else {}
    names = band_names or (opened.descriptions if all(opened.descriptions) else described.get("bands"))
    if names is None or len(names) != opened.count:
        raise ImageError(
            f"{where}: the names of its {opened.count} bands are not known; pass --band-names (a list, or l1c, l2a, "
            "eurosat), or --dataset eurosat"
        )
    values = opened.read().astype(np.float32)
    if described.get("reflectance") == _SQUARE_ROOT:
        reflectance = (values / 255) ** 2
    elif opened.dtypes[0] == "uint8":
        raise ImageError(f"{where}: has 8 bits and does not say how reflectance is coded in them")
    else:
        reflectance = (values - (reflectance_offset(tags, where) or 0.0)) / 10000
    return {canonical(name): band for name, band in zip(names, reflectance, strict=True)}


def _normalised_difference(a: Array, b: Array) -> float:
    side = min(len(a), len(b))
    a, b = (x.reshape(side, len(x) // side, -1, len(x) // side).mean(axis=(1, 3)) for x in (a, b))
    return float(((a - b) / np.maximum(a + b, 1e-4)).mean())
