"""Procedural tiles of coarse satellite imagery: colour fields with captions.

At kilometres a pixel a tile is little more than a colour with some texture: white ice, deep blue water, ochre desert,
dark green forest. No photograph of the training sets looks like that. These tiles are drawn from random numbers (no
imagery goes into them) and tell the model what such fields mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.training.tiles import Tiles

RGBRange = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Field:
    """A cover: RGB ranges in 0-255, how strong its texture is, and what it may be called."""

    colours: tuple[RGBRange, ...]
    texture: float
    captions: tuple[str, ...]


FIELDS: dict[str, Field] = {
    "ice": Field(
        (((222, 255), (226, 255), (230, 255)),),
        0.03,
        (
            "snow and ice",
            "an ice sheet seen from space",
            "white snow cover",
            "a polar ice cap",
            "glacier ice without any vegetation",
            "a completely white surface of snow",
            "land buried under ice and snow",
        ),
    ),
    "water": Field(
        (((1, 22), (8, 50), (28, 105)), ((5, 30), (45, 85), (95, 150))),
        0.05,
        (
            "deep blue water",
            "deep sea water far from land",
            "a wide expanse of blue sea water",
            "dark blue marine water seen from space",
            "nothing but water",
        ),
    ),
    "lake": Field(
        (
            ((15, 60), (40, 85), (55, 100)),
            ((60, 125), (95, 145), (85, 145)),
            ((55, 110), (80, 115), (60, 95)),
        ),
        0.04,
        (
            "lake water",
            "smooth water of a lake or the sea",
            "green shallow water",
            "turbid water with sediment",
            "still water without any land in sight",
            "nothing but water",
        ),
    ),
    "desert": Field(
        (((190, 240), (150, 198), (100, 155)), ((165, 205), (105, 140), (65, 100))),
        0.10,
        (
            "sand desert",
            "an arid desert without plants",
            "dry sand and dunes seen from space",
            "a barren sandy plain",
            "hot dry land without vegetation",
        ),
    ),
    "forest": Field(
        (((8, 45), (28, 65), (6, 35)),),
        0.10,
        (
            "dense forest",
            "rainforest seen from space",
            "dark green tree cover",
            "an unbroken forest canopy",
            "vast forest from high above",
        ),
    ),
    "grass": Field(
        (((85, 140), (100, 140), (55, 95)),),
        0.12,
        (
            "grassland and fields seen from space",
            "green and brown plains",
            "farmland from high above",
            "a plain with low vegetation",
        ),
    ),
    "rock": Field(
        (((90, 150), (75, 125), (55, 100)),),
        0.45,
        (
            "barren brown mountains",
            "bare rock and rugged mountain ridges",
            "a dry rocky mountain range seen from space",
            "mountains without vegetation",
        ),
    ),
}

#: Two covers with an irregular boundary between them.
MIXTURES: dict[tuple[str, str], tuple[str, ...]] = {
    ("water", "grass"): ("a coastline between land and sea", "coast seen from space", "the shore of green land"),
    ("water", "desert"): ("a desert coast", "sandy coastline beside blue water", "coast of a dry land"),
    ("water", "forest"): ("a forested coast", "green coastline beside blue water", "islands and forest in blue water"),
    ("water", "ice"): (
        "sea ice",
        "white sea ice beside dark water",
        "broken ice floating on a polar sea",
        "the edge of an ice shelf",
        "ice floes and open leads",
    ),
    ("rock", "ice"): (
        "snow-covered mountains",
        "mountain ridges with snow and glaciers",
        "snowy peaks seen from space",
    ),
    ("forest", "grass"): ("a mix of forest and farmland", "forest patches between fields"),
    ("desert", "rock"): ("desert mountains", "rocky desert with bare ridges"),
}


def draw_fields(count: int, *, seed: int = 0, size: int = 64, name: str = "fields") -> Tiles:
    """``count`` tiles, half of one cover and half of two; the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    single = [((cover,), field.captions) for cover, field in FIELDS.items()]
    images, captions, keys = [], [], []
    for index in range(count):
        kinds = (single, list(MIXTURES.items()))[index % 2]
        covers, texts = kinds[index // 2 % len(kinds)]
        tile, *other = (_draw_field(FIELDS[cover], size, generator) for cover in covers)
        if other:
            shape = _smooth_noise(1, size, generator, finest=4)
            share = 0.3 + 0.4 * float(torch.rand((), generator=generator))
            tile = torch.where(shape < torch.quantile(shape, share), tile, other[0])
        images.append((tile.clamp(0, 1) * 255).round().to(torch.uint8))
        captions.append(list(texts))
        keys.append(f"{'+'.join(covers)}/{index}")
    return Tiles(name, keys, torch.stack(images), captions=captions)


def _draw_field(field: Field, size: int, generator: torch.Generator) -> Tensor:
    """(3, size, size) float in about [0, 1]."""
    which = int(torch.randint(len(field.colours), (1,), generator=generator))
    low, high = torch.tensor(field.colours[which], dtype=torch.float32).T / 255
    colour = low + (high - low) * torch.rand(3, generator=generator)
    strength = field.texture * (0.3 + 0.7 * float(torch.rand((), generator=generator)))
    shade = 1 + strength * _smooth_noise(1, size, generator, finest=5)
    tint = 0.15 * strength * _smooth_noise(3, size, generator, finest=3)
    return colour[:, None, None] * (shade + tint)


def _smooth_noise(channels: int, size: int, generator: torch.Generator, finest: int) -> Tensor:
    """(channels, size, size) smooth noise of zero mean and unit spread: octaves of upsampled random grids."""
    total = torch.zeros(1, channels, size, size)
    for octave in range(1, finest + 1):
        grid = torch.randn(1, channels, 2**octave + 1, 2**octave + 1, generator=generator)
        total += F.interpolate(grid, size=size, mode="bicubic", align_corners=True) * 0.65**octave
    total = total - total.mean()
    return (total / total.std().clamp(min=1e-6))[0]
