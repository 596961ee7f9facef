"""Augmentation of whole batches of tiles, on the CPU or wherever the tensors are.

Geometry (crop, zoom, the eight symmetries of the square) is one resampling; it is returned so that another
band stack can be moved the same way. Radiometry changes RGB only: illumination, contrast, haze, saturation, colour
balance, gamma, the atmosphere's own light, and the blur of a coarser sensor, so that 10 m Sentinel-2 and sub-metre
aerial tiles grow alike.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sattxt.training.schema import Config, Share


class AugmentConfig(Config):
    """How far tiles are changed; probabilities are per tile."""

    min_area: Annotated[float, Field(gt=0, le=1)] = 0.45  # smallest crop, as a share of the tile
    aspect: Annotated[float, Field(ge=1)] = 1.25  # largest ratio of a crop's sides
    radiometry_probability: Share = 0.8  # of other light and colours
    grey_probability: Share = 0.05  # of no colour
    coarse_probability: Share = 0.25  # of the blur of a coarser sensor
    atmosphere_probability: Share = 0.0  # of light that the air scatters into the image


def random_geometry(count: int, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """(N, 2, 3) affine maps for :func:`resample`: a random crop, flipped and turned by multiples of 90 degrees."""
    uniform = torch.rand(count, 7, generator=generator)
    area = config.min_area + (1 - config.min_area) * uniform[:, 0]
    ratio = config.aspect ** (2 * uniform[:, 1] - 1)
    sx, sy = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    tx, ty = (2 * uniform[:, 2] - 1) * (1 - sx), (2 * uniform[:, 3] - 1) * (1 - sy)
    flip = torch.where(uniform[:, 4] < 0.5, -1.0, 1.0)
    turn = (uniform[:, 5] * 4).floor() * (torch.pi / 2)
    cos, sin = turn.cos().round(), turn.sin().round()
    return torch.stack([sx * cos * flip, -sx * sin, tx, sy * sin * flip, sy * cos, ty], dim=1).view(count, 2, 3)


def resample(images: Tensor, theta: Tensor, size: int) -> Tensor:
    """(N, C, H, W) float through (N, 2, 3) affine maps to (N, C, size, size), bilinear, edges repeated."""
    grid = F.affine_grid(theta.to(images), [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def radiometry(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """(N, 3, H, W) in [0, 1] to the same, as another season or sky would have it; some as a sensor of two to three
    times the ground sampling distance would.
    """
    size = images.shape[-1]

    def draw(width: int = 1) -> Tensor:
        return torch.rand(len(images), width, 1, 1, generator=generator)

    gain = 1 + 0.25 * (2 * draw() - 1) + 0.12 * (2 * draw(3) - 1)  # of the tile, and of each band beside it
    contrast = 1 + 0.3 * (2 * draw() - 1)
    saturation = 1 + 0.35 * (2 * draw() - 1)
    saturation = torch.where(draw() < config.grey_probability, torch.zeros(()), saturation)
    gamma = torch.exp(0.3 * (2 * draw() - 1))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    out = (images - mean) * contrast + mean
    grey = out.mean(dim=1, keepdim=True)
    out = (grey + (out - grey) * saturation) * gain
    out = out.clamp(1e-4, 1).pow(gamma)
    out = out + 0.015 * draw() * torch.randn(images.shape, generator=generator)  # grain
    out = torch.where(draw() < config.radiometry_probability, out, images).clamp_(0, 1)
    coarse = draw().flatten() < config.coarse_probability
    factor = 2 + int(torch.randint(0, 2, (1,), generator=generator))
    if bool(coarse.any()):
        small = F.interpolate(out[coarse], size=max(8, size // factor), mode="area")
        out[coarse] = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
    return out


def atmosphere(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """(N, 3, H, W) in [0, 1]: some tiles with the light that the air scatters into the sensor's view.

    Turns surface reflectance (Sentinel-2 L2A, aerial orthophotos) into what the top of the atmosphere shows (L1C), or
    more haze than there was.
    """
    if config.atmosphere_probability == 0:
        return images
    draw = torch.rand(3, len(images), 1, 1, 1, generator=generator)
    blueness = 0.6 + 0.4 * draw[0]  # 1 in clear air; haze is less blue
    # Rayleigh scattering goes with wavelength to the power of -4; B04, B03, B02 are centred at 665, 560 and 490 nm.
    clear = torch.tensor([(490 / wavelength) ** 4 for wavelength in (665, 560, 490)]).view(1, 3, 1, 1)
    light = 0.3 * draw[1] * (blueness * clear + (1 - blueness))
    return torch.where(draw[2] < config.atmosphere_probability, images * (1 - 0.5 * light) + light, images).clamp_(0, 1)


def resize(images: Tensor, size: int) -> Tensor:
    """(N, 3, H, W) uint8 to (N, 3, size, size) float in [0, 1], whole and unchanged: what validation looks at."""
    floats = images.to(torch.float32).div_(255)
    if tuple(floats.shape[-2:]) == (size, size):
        return floats
    return F.interpolate(floats, size=(size, size), mode="bicubic", antialias=True).clamp_(0, 1)


def augment(images: Tensor, size: int, config: AugmentConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) uint8 to (N, 3, size, size) float in [0, 1], everything above but :func:`atmosphere` applied; and
    the (N, 2, 3) maps that moved them.
    """
    geometry = random_geometry(len(images), config, generator)
    return radiometry(resample(images.to(torch.float32).div_(255), geometry, size), config, generator), geometry
