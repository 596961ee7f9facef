"""Open-vocabulary segmentation from patch tokens.

A window's patch token p takes the place of the mean patch token in the image embedding [cls ; mean(patch)]
(SATtxt, section 3): the score of a pixel against a label is the cosine of [c * cls ; p] with the label's text
embedding, that is, of the embedding the image would have if all of it looked like this patch. ``c`` weighs the
window's context against the place itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

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
from sattxt.pictures import Colour, draw_legend, html_picture, label_colours, plot_map
from sattxt.vision.embeddings import FloatArray
from sattxt.vision.tower import ImageTokens

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Weight of the window's class token beside each patch token.
CLS_WEIGHT = 0.5
#: Pixels finer than this, in metres, take half the model's window, and at least the ground it has at half a metre.
_FINE = 1.0


@dataclass(frozen=True, repr=False)
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
    def legend(self) -> dict[str, Colour]:
        """The colour of each label in :meth:`to_image`: by what it means where that is known."""
        return label_colours(self.labels)

    def to_image(
        self, opacity: float = 0.55, legend: bool = True, colours: Mapping[str, Any] | None = None
    ) -> Image.Image:
        """The label map drawn over the image.

        Args:
            opacity: of the map, in [0, 1].
            legend: beside it, which enlarges small images; without one the picture has the image's own size.
            colours: of labels, in the place of those in ``legend``: ``"navy"``, ``"#102030"`` or (16, 32, 48).

        Raises:
            InputError: an argument is none of these.
        """
        if isinstance(opacity, (str, bool)) or not 0 <= opacity <= 1:
            raise InputError(f"opacity={opacity!r}: pass a number in [0, 1]")
        chosen = label_colours(self.labels, colours)
        table = np.asarray(list(chosen.values()), dtype=np.float32)
        blended = (1 - opacity) * self.image + opacity * table[self.label_map]
        picture = Image.fromarray(blended.round().astype(np.uint8))
        return draw_legend(picture, chosen, self.shares) if legend else picture

    def save_png(
        self,
        path: str | os.PathLike[str],
        opacity: float = 0.55,
        legend: bool = True,
        colours: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write :meth:`to_image` as a PNG, whole or not at all; a file that is there is replaced."""
        picture, target = self.to_image(opacity, legend, colours), Path(path)
        with atomic_write(target) as file:
            picture.save(file, format="PNG")
        return target

    def plot(self, axes: Any = None, opacity: float = 0.55, colours: Mapping[str, Any] | None = None) -> Any:
        """Draw it with matplotlib (extra ``demo``), on ``axes`` or new ones; returns these."""
        picture = self.to_image(opacity, legend=False, colours=colours)
        return plot_map(picture, label_colours(self.labels, colours), self.shares, axes)

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        ranked = sorted(self.shares.items(), key=lambda item: -item[1])[:5]
        shown = ", ".join(f"{label} {100 * share:.1f} %" for label, share in ranked)
        more = f", {len(self.labels) - 5} more" if len(self.labels) > 5 else ""
        return f"Segmentation({height} x {width}: {shown}{more})"

    def _repr_html_(self) -> str:
        picture = self.to_image()
        picture.thumbnail((1024, 1024))
        return html_picture(picture)


def segment_image(
    rgb: NDArray[np.uint8] | FloatArray,
    labels: tuple[str, ...],
    weights: FloatArray,
    tokens: Callable[[Tensor], ImageTokens],
    config: ImageConfig,
    *,
    logit_scale: float,
    **how: Unpack[Windows],
) -> Segmentation:
    """Segment an (H, W, 3) image in [0, 255]; see :func:`score_strips`."""
    height, width = rgb.shape[:2]
    scores = torch.empty(len(labels), height, width)
    strips = score_strips(
        lambda y, x, side: rgb[y : y + side, x : x + side], (height, width), weights, tokens, config, **how
    )
    for row, strip in strips:
        scores[:, row : row + strip.shape[1]] = strip
    picture = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return Segmentation(labels, scores.argmax(0).numpy().astype(np.int16), scores.numpy(), logit_scale, picture)


class Windows(TypedDict, total=False):
    """Which windows an image is cut into, and how they are gone through: arguments of :func:`score_strips`."""

    window: int | None
    gsd: float | None
    overlap: float
    batch_size: int
    progress: bool


@torch.inference_mode()
def score_strips(
    crop: Callable[[int, int, int], NDArray[Any] | None],
    size: tuple[int, int],
    weights: FloatArray,
    tokens: Callable[[Tensor], ImageTokens],
    config: ImageConfig,
    *,
    window: int | None = None,
    gsd: float | None = None,
    overlap: float = 0.5,
    batch_size: int = 64,
    progress: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Score every pixel by overlapping windows whose scores are blended. Rows of windows are held, never all of it.

    Args:
        crop: first row, first column and side of a window to its (side, side, 3) pixels in [0, 255]; ``None``: nothing
            is there. Asked from the top down, each row of windows from the left.
        size: rows and columns of the image. weights: (K, 2 D) unit text embeddings.
        tokens: pixel values (N, 3, S, S) to :class:`ImageTokens`.
        window: side of a window in image pixels; it is resized to ``config.size``. Smaller windows give finer maps
            that see less around them. Default: :func:`choose_window`. Never more than the image's short side.
        gsd: ground side of a pixel in metres, where it is known.

    Yields:
        A strip's first row and (K, rows, W) scores, from the top down to the last row; NaN where nothing is.

    Raises:
        InputError: window, gsd or overlap out of range.
    """
    config = replace(config, window=choose_window(config, gsd) if window is None else window)
    preprocessor = Preprocessor(config)
    height, width = size
    side = min(config.window or config.size, height, width)
    if isinstance(overlap, (str, bool)) or not 0 <= overlap <= 0.9:
        raise InputError(f"overlap={overlap!r}: pass a share in [0, 0.9]")
    check_count("batch_size", batch_size)
    stride = max(1, round(side * (1 - overlap)))
    corners = [(y, x) for y in _starts(height, side, stride) for x in _starts(width, side, stride)]
    # disable=None: the bar shows on a terminal only
    bar = tqdm(corners, unit=" windows", disable=None if progress else True, leave=False)
    windows = ((y, x, seen) for y, x in bar if (seen := crop(y, x, side)) is not None)
    text = torch.from_numpy(weights)
    ramp = torch.sin(torch.pi * (torch.arange(side) + 0.5) / side).clamp(min=0.05)
    blend = ramp[:, None] * ramp  # highest in the middle, never zero
    top, total, weight = 0, torch.zeros(len(weights), side, width), torch.zeros(side, width)
    while part := list(islice(windows, batch_size)):
        pixels = preprocessor.batch([seen for _, _, seen in part])
        scores = patch_scores(tokens(pixels), text.to(pixels.device)).cpu()
        scores = F.interpolate(scores, size=(side, side), mode="bilinear", align_corners=False) * blend
        for (y, x, _), score in zip(part, scores, strict=True):
            while top < y:  # no window to come reaches these rows
                done = min(y - top, side)
                yield top, total[:, :done] / weight[:done]
                top, total, weight = top + done, _roll(total, done), _roll(weight, done)
            total[:, :, x : x + side] += score
            weight[:, x : x + side] += blend
    while top < height:
        done = min(height - top, side)
        yield top, total[:, :done] / weight[:done]
        top, total, weight = top + done, _roll(total, done), _roll(weight, done)


def _roll(rows: Tensor, done: int) -> Tensor:
    """Rows (..., side, W) without the first ones, and zeros below."""
    return F.pad(rows[..., done:, :], (0, 0, 0, done))


def choose_window(config: ImageConfig, gsd: float | None) -> int | None:
    """Side of a window in pixels: the config's, or less where pixels are finer than a metre (measured: docs/cli.md).

    Args:
        gsd: ground side of a pixel in metres; ``None``: not known.

    Raises:
        InputError: gsd is no number above 0.
    """
    if gsd is None:
        return config.window
    if isinstance(gsd, (str, bool)) or not 0 < gsd < float("inf"):
        raise InputError(f"gsd={gsd!r}: pass the ground side of a pixel in metres, such as 10")
    if config.window is None or gsd >= _FINE:
        return config.window
    return round(config.window * max(0.5, 0.25 / gsd))


def patch_scores(tokens: ImageTokens, weights: Tensor) -> Tensor:
    """(N, K, rows, columns) cosine of every patch with (K, 2 D) unit text embeddings."""
    local = patch_embeddings(tokens)
    scores = local @ weights.to(local).T
    return scores.transpose(1, 2).reshape(len(scores), len(weights), *tokens.grid)


def patch_embeddings(tokens: ImageTokens) -> Tensor:
    """(N, P, 2 D) of length 1: the embedding that each image would have if all of it looked like one patch."""
    cls = (CLS_WEIGHT * tokens.cls).unsqueeze(1).expand_as(tokens.patches)
    return F.normalize(torch.cat([cls, tokens.patches], dim=-1), dim=-1)


def _starts(length: int, side: int, stride: int) -> list[int]:
    """Window starts that cover ``length``; the last one ends at its end."""
    starts = list(range(0, length - side + 1, stride))
    if starts[-1] != length - side:
        starts.append(length - side)
    return starts
