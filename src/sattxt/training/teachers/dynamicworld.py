"""Dynamic World (Brown et al. 2022, Scientific Data 9, 251) as a teacher: land cover of every Sentinel-2 pixel.

The network was made for top-of-atmosphere reflectance (L1C). Surface reflectance (L2A) is darker in the blue, and it
calls dark water trees; so tiles without the air's own light are given a nominal one first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.data.multispectral import Bands
from sattxt.errors import ImageError, WeightsError, import_extra
from sattxt.io import first_line, read_json
from sattxt.training.schema import Config
from sattxt.training.teachers.base import Teacher

_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
#: Nominal light of clear air, reflectance x 10,000 by band, which L1C has and L2A has not.
_AIR = (760.0, 494.0, 304.0, 256.0, 209.0, 171.0, 142.0, 28.0, 14.0)
#: A tile whose darkest blue (first percentile) is below this has none of that light: of 3,983 tiles, all 41 of L1C are
#: above, and all but 21 of L2A (snow, bright ground) below.
_DARK_BLUE = 650.0


class DynamicWorldSource(Config):
    """The Dynamic World network."""

    kind: Literal["dynamicworld"] = "dynamicworld"
    path: str  # a folder with forward.onnx and preprocess.json, under the data folder or anywhere


class DynamicWorldTeacher(Teacher):
    """Nine bands in, logits of nine land-cover classes a pixel out. Open one with :meth:`from_folder`.

    Args:
        session: an ``onnxruntime.InferenceSession`` that maps (N, H, W, 9) normalised bands to (N, H, W, 9) logits.
        classes: names of the classes, in the order of the logits.
        mean, spread: of log(0.005 x + 1) a band, as published with the network.
    """

    def __init__(self, session: Any, classes: Sequence[str], mean: Tensor, spread: Tensor) -> None:
        super().__init__("dynamicworld", _BANDS, len(classes), mean, spread)
        self.session, self.classes = session, tuple(classes)
        self.eval()

    @classmethod
    def from_folder(cls, folder: str | Path) -> DynamicWorldTeacher:
        """Open a folder with ``forward.onnx`` and ``preprocess.json`` (extra ``train``).

        Raises:
            WeightsError: a file is missing, damaged, or not of this network. MissingExtraError: no onnxruntime.
        """
        folder = Path(folder)
        runtime = import_extra("onnxruntime", "train", "onnxruntime", "the Dynamic World teacher")
        facts = read_json(folder / "preprocess.json")
        try:
            numbers, classes = torch.tensor(facts["p"], dtype=torch.float32), facts["classes"]
            if numbers.shape != (len(_BANDS), 2) or len(classes) != len(_BANDS):
                raise ValueError(f"{len(classes)} classes, {len(numbers)} bands, not 9 each")
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{folder / 'preprocess.json'}: is not Dynamic World's ({first_line(error)})") from error
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        try:
            session = runtime.InferenceSession(str(folder / "forward.onnx"), options, ["CPUExecutionProvider"])
        except Exception as error:  # its own kinds, one for each cause
            raise WeightsError(f"{folder / 'forward.onnx'}: cannot be opened ({first_line(error)})") from error
        return cls(session, classes, numbers[:, 0], numbers[:, 1])

    def normalise(self, values: Tensor, names: Sequence[str]) -> Tensor:
        """(N, 9, H, W) in (0, 1), as the network takes them: a logarithm, scaled, through a sigmoid."""
        stack = self.stack(values, names)
        bands = torch.stack([stack[band] for band in self.bands], dim=1)
        darkest = bands[:, 0].flatten(1).quantile(0.01, dim=1)
        air = torch.tensor(_AIR).view(1, -1, 1, 1) * (darkest < _DARK_BLUE).view(-1, 1, 1, 1)
        scaled = (((bands + air).clamp(min=0) * 0.005 + 1).log() - self.offset) / self.scale
        return torch.sigmoid(5 * scaled - 1)

    @torch.no_grad()
    def encode(self, values: Tensor, names: Sequence[str]) -> Tensor:
        """(N, 9, H, W) float32 logits. Arguments: as :meth:`Teacher.stack`."""
        pixels = self.normalise(values, names).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        (name,) = (node.name for node in self.session.get_inputs())
        (logits,) = self.session.run(None, {name: pixels})
        return torch.from_numpy(logits).permute(0, 3, 1, 2).to(values.device)

    def land_cover(self, bands: Bands, side: int) -> Tensor:
        """(9, side, side) probabilities of the classes in a tile, means over the pixels of each place.

        The network was trained with smoothed labels: where it is surest it says 0.55. So its logits are doubled, which
        makes that 0.9.

        Args:
            bands: (H, W) reflectance x 10,000 by Sentinel-2 name; coarser ones are resampled, bilinearly.

        Raises:
            ImageError: a band is missing, or the tile has fewer than ``side`` pixels a side.
        """
        size = max(len(band) for band in bands.values())
        missing = [band for band in self.bands if band not in bands]
        if missing or size < side:
            raise ImageError(f"lacks the bands {', '.join(missing)}" if missing else f"is smaller than {side} pixels")
        planes = [torch.from_numpy(bands[band])[None, None] for band in self.bands]
        tile = torch.cat([F.interpolate(plane, (size, size), mode="bilinear") for plane in planes], dim=1)
        return F.adaptive_avg_pool2d((2 * self.encode(tile, self.bands)).softmax(dim=1), side)[0]
