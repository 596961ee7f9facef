"""From RGB images in 0..255 to the ``pixel_values`` a vision backbone takes, exactly as the published model's code.

Order of work: float32 (never rounded) -> short side resized to ``size`` (antialiased, long side truncated to an
integer) -> centre crop -> ``x * rescale`` -> ``(x - mean) / std``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sattxt.config import SMALLEST_WINDOW, ImageConfig
from sattxt.errors import ImageError, InputError
from sattxt.images.options import check_count

# Images of one size are resized together, this many float values (16 MiB) at a time.
_CHUNK = 2**22
# A 1 x 50,000 strip would be resized to billions of pixels before its centre is cut out.
_MAX_ASPECT = 50


class PixelValues(torch.Tensor):
    """A tensor (N, 3, S, S) or (3, S, S) of what a backbone takes: read, resized and normalised already."""


def as_pixel_values(images: Any, size: int) -> torch.Tensor | None:
    """(N, 3, size, size) where ``images`` are pixel values, in one tensor or a list of them; else ``None``.

    Raises:
        InputError: they are of another size, or without values (meta tensors).
    """
    listed = list(images) if isinstance(images, (list, tuple)) else [images]
    if not listed or not all(isinstance(each, PixelValues) for each in listed):
        return None
    for each in listed:
        if each.shape[-3:] != (3, size, size) or each.ndim not in (3, 4) or each.is_meta:
            raise InputError(
                f"pixel values of shape {tuple(each.shape)}{' without values (meta)' * each.is_meta}; this model's are "
                f"(N, 3, {size}, {size}), as its own vision.preprocess makes them"
            )
    return torch.cat([each.reshape(-1, 3, size, size) for each in listed]).as_subclass(torch.Tensor)


class Preprocessor:
    """Resize, crop and normalise by one :class:`~sattxt.config.ImageConfig`; holds no other state."""

    def __init__(self, config: ImageConfig) -> None:
        if config.size < 1:
            raise InputError(f"ImageConfig.size is {config.size}; it must be positive")
        if config.window is not None:
            check_count("window", config.window, SMALLEST_WINDOW)
        if any(value <= 0 for value in config.std):
            raise InputError(f"ImageConfig.std is {config.std}; its values must be positive")
        self.config = config
        self._mean = torch.tensor(config.mean, dtype=torch.float32).view(1, 3, 1, 1)
        self._std = torch.tensor(config.std, dtype=torch.float32).view(1, 3, 1, 1)

    def batch(self, images: Sequence[NDArray[Any]]) -> torch.Tensor:
        """Images of any sizes -> (N, 3, size, size) float32, on the CPU.

        An image's values do not depend on which others are in the batch.

        Raises:
            ImageError: an image is not (H, W, 3), or more than 50 times as long as it is wide.
        """
        size = self.config.size
        out = torch.empty((len(images), 3, size, size), dtype=torch.float32)
        groups: dict[tuple[int, int, str], list[int]] = {}
        for index, image in enumerate(images):
            height, width = check_shape(image, f"image {index}")
            groups.setdefault((height, width, image.dtype.str), []).append(index)
        for (height, width, _), indices in groups.items():
            step = max(1, _CHUNK // (3 * max(height * width, size * size)))
            for start in range(0, len(indices), step):
                chosen = indices[start : start + step]
                stacked = torch.from_numpy(np.stack([images[i] for i in chosen])).permute(0, 3, 1, 2)
                pixels = stacked.to(torch.float32, memory_format=torch.contiguous_format)
                cropped = _resize_and_crop(pixels, self.config)
                if len(chosen) == len(images):
                    out.copy_(cropped)
                else:
                    out[chosen] = cropped
        # In the original's order of operations: a fused form would differ beyond 1e-5 at 0..255.
        if self.config.rescale != 1.0:
            out.mul_(self.config.rescale)
        return out.sub_(self._mean).div_(self._std)


def _resize_and_crop(pixels: torch.Tensor, config: ImageConfig) -> torch.Tensor:
    """(N, 3, H, W) to (N, 3, size, size)."""
    size, (height, width) = config.size, pixels.shape[-2:]
    new = (size, size * width // height) if height <= width else (size * height // width, size)
    if new != (height, width):
        pixels = torch.nn.functional.interpolate(
            pixels, size=new, mode=config.resample, antialias=True, align_corners=False
        )
    top, left = (round((side - size) / 2.0) for side in new)  # halves to even, as the original does
    return pixels[..., top : top + size, left : left + size]


def check_shape(image: NDArray[Any], name: str) -> tuple[int, int]:
    """Height and width of an image that can be preprocessed.

    Raises:
        ImageError: it is not (H, W, 3), or more than 50 times as long as it is wide; begins with ``name``.
    """
    shape = tuple(getattr(image, "shape", ()))
    if not isinstance(image, np.ndarray) or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ImageError(f"{name}: has shape {shape}, expected a numpy array (H, W, 3); see sattxt.images.read.to_rgb")
    height, width = shape[:2]
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise ImageError(
            f"{name}: is {width} x {height} pixels, over {_MAX_ASPECT} times longer than wide; cut it into tiles"
        )
    return height, width
