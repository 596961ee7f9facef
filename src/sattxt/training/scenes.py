"""Procedural tiles of scenes with a shape of their own: pivot fields, sea ice, islands, clouds, ships, terraces.

A few dozen aerial classes leave out many things that a stranger's tiles will show. What some of these look like from
above can be told in a few lines of geometry. Every tile is drawn from random numbers (no imagery goes into it), at
twice its size and averaged down. Nobody would take them for photographs; they tell the model which words go with
which shapes and colours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.errors import InputError
from sattxt.labels.sets import near
from sattxt.training import drawings
from sattxt.training.brush import Brush
from sattxt.training.data import TileSet

_OVERSAMPLED = 2


@dataclass(frozen=True)
class Scene:
    """How a scene is drawn, and what it may be told by; its class's phrases are in the vocabulary of a recipe."""

    draw: Callable[[Brush], Tensor]
    captions: tuple[str, ...]


SCENES: dict[str, Scene] = {
    "pivot_fields": Scene(
        drawings.pivots,
        (
            "circular fields",
            "circular crop fields",
            "round farmland watered by centre pivots",
            "circles of green crops",
            "centre pivot irrigation in dry land",
            "fields in the shape of a circle",
        ),
    ),
    "clouds": Scene(
        drawings.clouds,
        (
            "clouds",
            "white cloud",
            "clouds over water",
            "the ground hidden by clouds",
            "a layer of cloud seen from above",
            "scattered clouds and their shadows",
        ),
    ),
    "island": Scene(
        drawings.island,
        (
            "an island",
            "island far from the coast",
            "a small island surrounded by water",
            "a green island with a sandy beach",
            "islands in blue water",
            "land with water on all sides",
        ),
    ),
    "lake": Scene(
        drawings.lake,
        (
            "a lake",
            "lake surrounded by land",
            "a lake among trees and meadows",
            "a body of water with land around it",
            "an inland lake with its shore",
        ),
    ),
    "sea_ice": Scene(
        drawings.floes,
        (
            "sea ice",
            "ice floes on dark water",
            "broken ice floating on cold water",
            "pieces of white ice with cracks of water between",
            "drifting pack ice",
        ),
    ),
    "snow_mountains": Scene(
        drawings.peaks,
        (
            "snow-covered mountains",
            "snowy mountain ridges",
            "peaks under snow",
            "a mountain range with snow and shaded slopes",
            "white ridges of snow and rock",
        ),
    ),
    "iceberg": Scene(
        drawings.iceberg,
        ("an iceberg", "a white iceberg in dark water", "a mass of ice floating in cold water", "icebergs"),
    ),
    "ship": Scene(
        drawings.ship,
        (
            "a ship",
            "ship at sea",
            "a ship with a white wake",
            "a cargo ship on the water",
            "ships far from the coast",
            "a vessel under way",
        ),
    ),
    "terraces": Scene(
        drawings.terraces,
        (
            "terraced fields",
            "terraces",
            "terraces that follow the contours of a hillside",
            "rice terraces",
            "steps of farmland on a slope",
        ),
    ),
    "wetland": Scene(
        drawings.wetland,
        (
            "wetland",
            "a marsh with pools of water",
            "a swamp with channels of water",
            "reeds and shallow water",
            "boggy ground with winding channels",
        ),
    ),
    "railway": Scene(
        drawings.railway,
        (
            "railway",
            "railway tracks",
            "a railway line through the land",
            "several parallel railway tracks",
            "train tracks",
        ),
    ),
    "running_track": Scene(
        drawings.running_track,
        (
            "an athletics track",
            "ground with a running track",
            "a running track around a football pitch",
            "a red oval track for athletics",
            "a sports field with a running track",
        ),
    ),
    "basketball_court": Scene(
        drawings.court,
        (
            "a basketball court",
            "basketball courts",
            "a court with painted lines for basketball",
            "outdoor basketball courts beside each other",
        ),
    ),
    "power_station": Scene(
        drawings.power_station,
        (
            "a thermal power plant",
            "a power station with cooling towers",
            "cooling towers with steam",
            "a coal-fired power plant",
            "round cooling towers beside long halls",
        ),
    ),
    "annual_crops": Scene(
        drawings.annual_crops,
        (
            "fields of annual crops",
            "large even crop fields",
            "cropland in parcels of one colour each",
            "farmland with straight field edges",
            "grain fields",
        ),
    ),
    "orchards": Scene(
        drawings.orchards,
        (
            "orchards and plantations",
            "permanent crops",
            "small parcels planted with trees in rows",
            "a plantation of low trees",
            "vines and fruit trees on small fields",
            "speckled plots of fruit trees",
        ),
    ),
}


def draw_scenes(
    count: int, *, seed: int = 0, size: int = 96, name: str = "scenes", scenes: Sequence[str] | None = None
) -> TileSet:
    """``count`` tiles, each scene in turn; the same ones for the same seed.

    Args:
        scenes: which of :data:`SCENES`, and in which order; default: all.

    Returns:
        tiles with their scene as class and its texts as captions.

    Raises:
        InputError: a scene is unknown (with the near match) or there twice, or there is none.
    """
    names = list(SCENES if scenes is None else scenes)
    for scene in names:
        if scene not in SCENES:
            raise InputError(f"scenes: {scene!r} is not drawn{near(scene, list(SCENES))}")
    if not names or len(set(names)) != len(names):
        raise InputError(f"scenes={names}: pass at least one, and each once")
    generator = torch.Generator().manual_seed(seed)
    images, keys = torch.empty((count, 3, size, size), dtype=torch.uint8), []
    for index in range(count):
        scene = names[index % len(names)]
        large = SCENES[scene].draw(Brush(size * _OVERSAMPLED, generator)).clamp(0, 1)
        images[index] = (F.avg_pool2d(large, _OVERSAMPLED) * 255).round().to(torch.uint8)
        keys.append(f"{scene}/{index}")
    labels = torch.arange(count) % len(names)
    captions = [list(SCENES[names[int(label)]].captions) for label in labels]
    return TileSet(name, images, labels, tuple(names), captions, keys)
