"""Views of stage 1: crops of the same ground for the student (RGB, radiometry changed) and the teacher (all bands).

A *view* has one (n, 2, 3) stack of affine maps for each data set of a batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sattxt.training.augment import AugmentConfig, coarsen, radiometry, random_geometry, resample


def view_geometry(
    parts: list[Tensor], area: tuple[float, float], config: AugmentConfig, generator: torch.Generator
) -> list[Tensor]:
    """Random maps: a crop of ``area`` (smallest, largest share of the tile) anywhere in it, turned and flipped.

    parts: each data set's tile indices.
    """
    low, high = area
    within, inner = math.sqrt(high), config.replace(min_area=low / high)
    out = []
    for index in parts:
        theta = within * random_geometry(len(index), inner, generator)
        theta[:, :, 2] += (1 - within) * (2 * torch.rand(len(index), 2, generator=generator) - 1)
        out.append(theta)
    return out


def rgb_view(
    tiles: list[Tensor], thetas: list[Tensor], size: int, config: AugmentConfig, generator: torch.Generator
) -> Tensor:
    """(N, 3, size, size) float in [0, 1]: cropped, then as another sensor, season or sky would have it.

    tiles: each data set's (n, 3, S, S) uint8.
    """
    cropped = [resample(t.to(torch.float32).div_(255), theta, size) for t, theta in zip(tiles, thetas, strict=True)]
    return coarsen(radiometry(torch.cat(cropped), config, generator), config, generator)


def ms_view(values: list[Tensor], thetas: list[Tensor]) -> list[Tensor]:
    """For each data set (n, bands, T, T) reflectance x 10,000 at its own full resolution, cropped and nothing else."""
    return [resample(v, theta, v.shape[-1]) for v, theta in zip(values, thetas, strict=True)]
