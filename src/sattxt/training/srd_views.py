"""Views of stage 1: crops of the same ground for the student (RGB, radiometry changed) and the teacher (all bands).

A *view* has one (n, 2, 3) stack of affine maps for each data set of a batch; ``parts`` holds each set's tile indices.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sattxt.training.augment import AugmentConfig, coarsen, radiometry, random_geometry, resample
from sattxt.training.pairs import PairSet


def view_geometry(
    parts: list[Tensor], area: tuple[float, float], config: AugmentConfig, generator: torch.Generator
) -> list[Tensor]:
    """Random maps: a crop of ``area`` (smallest, largest share of the tile) anywhere in it, turned and flipped."""
    low, high = area
    within, inner = math.sqrt(high), replace(config, min_area=low / high)
    out = []
    for index in parts:
        theta = within * random_geometry(len(index), inner, generator)
        theta[:, :, 2] += (1 - within) * (2 * torch.rand(len(index), 2, generator=generator) - 1)
        out.append(theta)
    return out


def rgb_view(
    sets: list[PairSet],
    parts: list[Tensor],
    thetas: list[Tensor],
    size: int,
    config: AugmentConfig,
    generator: torch.Generator,
) -> Tensor:
    """(N, 3, size, size) float in [0, 1]: cropped, then as another sensor, season or sky would have it."""
    tiles = [
        resample(s.images[index].to(torch.float32).div_(255), theta, size)
        for s, index, theta in zip(sets, parts, thetas, strict=True)
    ]
    return coarsen(radiometry(torch.cat(tiles), config, generator), config, generator)


def ms_view(sets: list[PairSet], parts: list[Tensor], thetas: list[Tensor]) -> list[Tensor]:
    """For each data set (n, bands, T, T) reflectance x 10,000 at its own full resolution, cropped and nothing else."""
    return [resample(s.spectral(index), theta, s.size) for s, index, theta in zip(sets, parts, thetas, strict=True)]
