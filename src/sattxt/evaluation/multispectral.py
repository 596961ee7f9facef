"""What RGB should foretell of Sentinel-2 tiles with all their bands."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sattxt.data.dataset import Samples
from sattxt.data.multispectral import Bands, BandSamples, picture

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


@dataclass(frozen=True)
class Tile:
    """Reflectance x 10,000 by band; bands may differ in resolution."""

    bands: Bands

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3): red, green and blue stretched as EuroSAT's RGB tiles are. All that a model gets to see."""
        return picture(self.bands, "tile")

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
class RenderedData(BandSamples):
    """The samples of a split, seen through their RGB rendering."""

    def tile(self, index: int) -> Tile:
        """All bands of a sample; errors as :meth:`BandSamples.bands`."""
        return Tile(self.bands(index))


def rendered(data: Samples) -> RenderedData:
    """The same samples, seen through their RGB rendering."""
    return RenderedData(**{f.name: getattr(data, f.name) for f in fields(data)})


def _normalised_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    side = min(len(a), len(b))
    a, b = (x.reshape(side, len(x) // side, -1, len(x) // side).mean(axis=(1, 3)) for x in (a, b))
    return float(((a - b) / np.maximum(a + b, 1)).mean())
