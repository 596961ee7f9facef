"""Open-vocabulary segmentation from patch tokens.

A window's patch token p takes the place of the mean patch token in the image embedding [cls ; mean(patch)]
(SATtxt, section 3): the score of a pixel against a label is the cosine of [c * cls ; p] with the label's text
embedding, that is, of the embedding the image would have if all of it looked like this patch. ``c`` weighs the
window's context against the place itself.
"""

from __future__ import annotations

import colorsys
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sattxt.config import ImageConfig
from sattxt.errors import InputError
from sattxt.images.options import check_count
from sattxt.images.preprocess import Preprocessor
from sattxt.io import atomic_write
from sattxt.vision.embeddings import FloatArray
from sattxt.vision.tower import ImageTokens

#: Weight of the window's class token beside each patch token.
CLS_WEIGHT = 0.5


@dataclass(frozen=True)
class Segmentation:
    """A label map of an (H, W) image over K labels.

    label_map: (H, W) int16, index into ``labels``. scores: (K, H, W) float32 cosine similarities.
    logit_scale: what the scores are multiplied by before a softmax over labels. image: (H, W, 3) what was segmented.
    """

    labels: tuple[str, ...]
    label_map: NDArray[np.int16]
    scores: FloatArray
    logit_scale: float
    image: NDArray[np.uint8]

    @property
    def probs(self) -> FloatArray:
        """(K, H, W) softmax of the scaled scores."""
        return (torch.from_numpy(self.scores) * self.logit_scale).softmax(dim=0).numpy()

    @property
    def shares(self) -> dict[str, float]:
        """Share of the image that each label covers, in [0, 1]."""
        counts = np.bincount(self.label_map.ravel(), minlength=len(self.labels))
        return {label: float(c / self.label_map.size) for label, c in zip(self.labels, counts, strict=True)}

    @property
    def legend(self) -> dict[str, tuple[int, int, int]]:
        """The colour of each label in :meth:`to_image`."""
        return dict(zip(self.labels, label_colours(len(self.labels)), strict=True))

    def to_image(self, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """The label map drawn over the image, with a legend beside it."""
        colours = np.asarray(label_colours(len(self.labels)), dtype=np.float32)
        blended = (1 - opacity) * self.image + opacity * colours[self.label_map]
        picture = Image.fromarray(blended.round().astype(np.uint8))
        return draw_legend(picture, self.legend, self.shares) if legend else picture

    def save_png(self, path: str | os.PathLike[str], opacity: float = 0.55) -> Path:
        """Write :meth:`to_image` as a PNG, whole or not at all; a file that is there is replaced."""
        target = Path(path)
        with atomic_write(target) as file:
            self.to_image(opacity).save(file, format="PNG")
        return target


@torch.inference_mode()
def segment_image(
    rgb: NDArray[np.uint8] | FloatArray,
    labels: tuple[str, ...],
    weights: FloatArray,
    tokens: Callable[[Tensor], ImageTokens],
    config: ImageConfig,
    *,
    logit_scale: float,
    window: int | None = None,
    overlap: float = 0.5,
    batch_size: int = 64,
    progress: bool = False,
) -> Segmentation:
    """Segment an (H, W, 3) image in [0, 255] by overlapping windows whose scores are blended.

    Args:
        weights: (K, 2 D) unit text embeddings. tokens: pixel values (N, 3, S, S) to :class:`ImageTokens`.
        window: side of a window in image pixels; it is resized to ``config.size``. Smaller windows give finer maps
            that see less around them. Default: ``config.window``, or else ``config.size``. Never more than the
            image's short side.

    Raises:
        InputError: window or overlap out of range.
    """
    config = config if window is None else replace(config, window=window)
    preprocessor = Preprocessor(config)
    height, width = rgb.shape[:2]
    side = min(config.window or config.size, height, width)
    if isinstance(overlap, (str, bool)) or not 0 <= overlap <= 0.9:
        raise InputError(f"overlap={overlap!r}: pass a share in [0, 0.9]")
    stride = max(1, round(side * (1 - overlap)))
    corners = [(y, x) for y in _starts(height, side, stride) for x in _starts(width, side, stride)]
    text = torch.from_numpy(weights)
    blend = _taper(side)
    total = torch.zeros(len(labels), height, width)
    weight = torch.zeros(height, width)
    starts = range(0, len(corners), check_count("batch_size", batch_size))
    # disable=None: the bar shows on a terminal only
    for start in tqdm(starts, unit=" batches", disable=None if progress else True, leave=False):
        part = corners[start : start + batch_size]
        pixels = preprocessor.batch([rgb[y : y + side, x : x + side] for y, x in part])
        scores = patch_scores(tokens(pixels), text.to(pixels.device)).cpu()
        scores = F.interpolate(scores, size=(side, side), mode="bilinear", align_corners=False) * blend
        for (y, x), score in zip(part, scores, strict=True):
            total[:, y : y + side, x : x + side] += score
            weight[y : y + side, x : x + side] += blend
    blended = total / weight
    picture = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return Segmentation(labels, blended.argmax(0).numpy().astype(np.int16), blended.numpy(), logit_scale, picture)


def patch_scores(tokens: ImageTokens, weights: Tensor) -> Tensor:
    """(N, K, rows, columns) cosine of every patch with (K, 2 D) unit text embeddings."""
    cls = (CLS_WEIGHT * tokens.cls).unsqueeze(1).expand_as(tokens.patches)
    local = F.normalize(torch.cat([cls, tokens.patches], dim=-1), dim=-1)
    scores = local @ weights.to(local).T
    return scores.transpose(1, 2).reshape(len(scores), len(weights), *tokens.grid)


def _starts(length: int, side: int, stride: int) -> list[int]:
    """Window starts that cover ``length``; the last one ends at its end."""
    starts = list(range(0, length - side + 1, stride))
    if starts[-1] != length - side:
        starts.append(length - side)
    return starts


def _taper(side: int) -> Tensor:
    """(side, side) blending weights, highest in the middle, never zero."""
    ramp = torch.sin(torch.pi * (torch.arange(side) + 0.5) / side).clamp(min=0.05)
    return ramp[:, None] * ramp[None, :]


# -- colours and legend ------------------------------------------------------------------------------------------------

Colour = tuple[int, int, int]

_ROW = 24  # height of a label in the legend, pixels
# Okabe and Ito's palette, which most colour-blind readers can tell apart, then spaced hues.
_BASE: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (240, 228, 66),
    (204, 121, 167),
    (86, 180, 233),
    (90, 90, 90),
)


def label_colours(count: int) -> list[Colour]:
    """``count`` distinct RGB colours, the same ones every time."""
    colours = list(_BASE[:count])
    for extra in range(count - len(colours)):
        hue = (0.11 + extra * 0.618033988749895) % 1
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (extra % 2), 0.9 - 0.3 * ((extra // 2) % 2))
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def draw_legend(picture: Image.Image, legend: Mapping[str, Colour], shares: Mapping[str, float]) -> Image.Image:
    """``picture`` with a swatch, name and share for every label beside it, the largest share first.

    A picture of less than 384 pixels a side is enlarged by a whole factor.
    """
    from PIL import ImageDraw, ImageFont

    factor = max(1, -(-384 // min(picture.size)))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    font = ImageFont.load_default(size=15)
    names = sorted(legend, key=lambda name: -shares[name])
    texts = [f"{name}  {100 * shares[name]:.0f} %" for name in names]
    width = round(max(font.getlength(t) for t in texts)) + 50
    canvas = Image.new("RGB", (picture.width + width, max(picture.height, _ROW * len(names) + 20)), "white")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for i, (name, text) in enumerate(zip(names, texts, strict=True)):
        top, left = 10 + i * _ROW, picture.width + 12
        draw.rectangle((left, top + 2, left + 16, top + 18), fill=legend[name], outline="black")
        draw.text((left + 26, top), text, fill="black", font=font)
    return canvas
