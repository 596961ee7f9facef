"""How scenes are drawn: each function takes a :class:`~sattxt.training.brush.Brush` and returns (3, size, size) floats.

Values are about 0 to 1 and may lie beyond. What the scenes are called is said in ``scenes``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sattxt.training.brush import Brush
from sattxt.training.fields import RGBRange

_PLOTS = 59  # colours a patchwork of fields is made of

#: Crops and soils between emergence and harvest.
_CROPS: tuple[RGBRange, ...] = (
    ((50, 110), (95, 150), (40, 80)),
    ((25, 60), (60, 95), (30, 60)),
    ((150, 200), (135, 175), (95, 130)),
    ((110, 150), (90, 120), (65, 95)),
    ((180, 215), (175, 200), (120, 150)),
)
#: Trees, vines and the soil between them, mixed within a pixel.
_GROVES: tuple[RGBRange, ...] = (
    ((85, 130), (90, 125), (60, 90)),
    ((60, 95), (75, 105), (45, 70)),
    ((120, 165), (110, 145), (80, 115)),
    ((95, 135), (80, 110), (60, 85)),
)
_SAND: RGBRange = ((190, 235), (175, 215), (130, 180))
_SHALLOW: RGBRange = ((50, 120), (130, 190), (140, 195))
_SNOW: RGBRange = ((225, 250), (230, 252), (235, 255))
_MURK: tuple[RGBRange, ...] = (((20, 60), (35, 70), (35, 65)), ((50, 85), (60, 85), (45, 65)))
_REED: tuple[RGBRange, ...] = (((75, 125), (85, 125), (45, 80)), ((110, 150), (100, 130), (70, 95)))
_SURFACED: tuple[RGBRange, ...] = (
    ((150, 195), (75, 110), (65, 95)),
    ((40, 90), (100, 150), (80, 120)),
    ((60, 100), (95, 135), (150, 190)),
)
_TARTAN: RGBRange = ((150, 205), (75, 115), (60, 95))
_PITCH: RGBRange = ((55, 110), (105, 155), (50, 85))


def _length(x: Tensor, y: Tensor) -> Tensor:
    return (x.square() + y.square()).sqrt()


def pivots(b: Brush) -> Tensor:
    """Round fields around centre pivots, in a grid."""
    tile, side = b.cover("grass", "desert", "desert"), b.count(1, 5)
    cell, shift_x, shift_y = 2 / side, b.between(-0.5, 0.5), b.between(-0.5, 0.5)
    for row in range(-1, side + 1):
        for column in range(-1, side + 1):
            if b.chance(0.15):
                continue
            x, y = (column + 0.5 + shift_x) * cell - 1, (row + 0.5 + shift_y) * cell - 1
            along, across = b.turned(x, y, b.between(0, 2 * math.pi))
            radius = _length(along, across)
            crop = b.colour(*_CROPS).expand(3, b.size, b.size)
            if b.chance(0.35):
                crop = torch.where(torch.atan2(across, along) < b.between(-1.5, 2), crop, b.colour(*_CROPS))
            rings = 1 + b.between(0, 0.06) * torch.sin(radius / cell * b.between(20, 60))
            tile = torch.where(radius < cell * b.between(0.42, 0.5), crop * rings, tile)
    return tile * b.grain()


def _parcels(
    b: Brush, across_tile: tuple[int, int], colours: tuple[RGBRange, ...], edge: float
) -> tuple[Tensor, Tensor]:
    """A patchwork of fields, ``across_tile`` of them from side to side: the tile, and (size, size) which field."""
    along, across = b.somewhere(0.2)
    bend = b.between(0, 0.05)
    along, across = along + bend * b.noise(3), across + bend * b.noise(3)
    rows, columns = b.count(*across_tile) / 2, b.count(*across_tile) / 2
    row = across * rows
    shifts = b.shares(64)
    column = along * columns * (0.7 + 0.6 * shifts[row.floor().long() % 64]) + 7 * shifts[row.floor().long() % 64]
    field = (row.floor() * 17 + column.floor() * 5).long() % _PLOTS
    palette = torch.stack([b.colour(*colours)[:, 0, 0] for _ in range(_PLOTS)])
    tile = palette[field].permute(2, 0, 1)
    border = torch.minimum(row.remainder(1) / rows, column.remainder(1) / columns) < edge
    return torch.where(border, tile * b.between(0.6, 1.25), tile), field


def annual_crops(b: Brush) -> Tensor:
    """Parcels of even colour."""
    tile, _ = _parcels(b, (2, 7), _CROPS, b.between(0, 0.03))
    return tile * b.grain(b.between(0.02, 0.06))


def orchards(b: Brush) -> Tensor:
    """Parcels of trees and vines in rows, with a farmhouse here and there."""
    kinds = tuple(_GROVES[b.count(0, len(_GROVES) - 1)] for _ in range(2))
    tile, field = _parcels(b, (2, 8), kinds, b.between(0, 0.03))
    direction = math.pi * b.shares(_PLOTS)[field]
    phase = (b.x * direction.cos() + b.y * direction.sin()) * b.between(70, 130)
    planted = b.shares(_PLOTS)[field] < b.between(0.3, 1)
    strength = torch.where(planted, b.between(0.05, 0.2), 0.0)
    tile = tile * (1 + strength * torch.sin(phase)) * (1 + b.between(0.05, 0.12) * b.noise(7))
    for _ in range(b.count(0, 5) if b.chance(0.4) else 0):  # farmhouses
        along, across = b.somewhere(1)
        tile = torch.where((along.abs() < 0.035) & (across.abs() < 0.025), b.roof(), tile)
    return tile


def clouds(b: Brush) -> Tensor:
    """White cloud with its shadow over land or water."""
    tile = b.cover("water", "water", "lake", "grass", "forest", "desert")
    density = b.noise(b.count(4, 7)) + b.between(-0.6, 0.8)
    soft = b.between(1.5, 6)
    shifts = (b.count(-b.size // 10, b.size // 10), b.count(-b.size // 10, b.size // 10))
    shadow = torch.sigmoid(soft * density.roll(shifts, (0, 1)))
    white = b.between(0.82, 1) * (1 + 0.06 * b.noise(6))
    cover = torch.sigmoid(soft * density)
    return torch.lerp(tile * (1 - b.between(0, 0.5) * shadow), white.expand_as(tile), cover)


def _coast(b: Brush, height: Tensor, inland: Tensor) -> Tensor:
    """Land where ``height`` is above 0, with a beach, in shallow and then deep water."""
    water = torch.where((height > -b.between(0.02, 0.2)), b.colour(_SHALLOW), b.cover("water", "lake"))
    if b.chance(0.3):
        water = b.cover("water")
    surf = (height > -0.03) & (b.noise(6) > 0.6)
    water = torch.where(surf, torch.full_like(water, 0.9), water)
    beach = torch.where(height < b.between(0, 0.12), b.colour(_SAND), inland)
    return torch.where(height > 0, beach, water)


def _blob(b: Brush, reach: float, low: float, high: float) -> Tensor:
    """(size, size): above 0 inside of an irregular shape."""
    along, across = b.somewhere(reach)
    distance = _length(along, across * b.between(1, 2))
    return b.between(low, high) - distance + b.between(0.05, 0.16) * b.noise(6)


def island(b: Brush) -> Tensor:
    """One island or several in water."""
    height = _blob(b, 0.25, 0.45, 0.8)
    for _ in range(b.count(0, 3) if b.chance(0.4) else 0):
        height = torch.maximum(height, _blob(b, 0.9, 0.1, 0.3))
    patches = b.noise(5) > b.between(-0.5, 1.5)
    inland = torch.where(patches, b.cover("grass", "rock"), b.cover("forest", "forest", "grass"))
    return _coast(b, height, inland * b.grain())


def lake(b: Brush) -> Tensor:
    """A body of water in land."""
    patches = b.noise(5) > b.between(-1, 1)
    land = torch.where(patches, b.cover("grass", "forest", "rock"), b.cover("forest", "grass", "desert")) * b.grain()
    depth = _blob(b, 0.25, 0.4, 0.8)
    water = b.cover("lake", "lake", "water")
    shore = torch.where(depth > -b.between(0, 0.06), b.colour(_SAND, *_REED), land)
    return torch.where(depth > 0, water, shore)


def floes(b: Brush) -> Tensor:
    """Ice floes: the Voronoi cells of random points, with gaps between."""
    points = b.points(b.count(10, 120)) * 1.1
    warp = b.between(0.01, 0.06)
    x, y = b.x + warp * b.noise(6), b.y + warp * b.noise(6)
    apart = _length(x[..., None] - points[:, 0], y[..., None] - points[:, 1])
    nearest = apart.topk(2, dim=-1, largest=False)
    gap = nearest.values[..., 1] - nearest.values[..., 0]
    kind = b.shares(len(points))[nearest.indices[..., 0]]
    ice = b.colour(_SNOW) * (1 - 0.25 * kind) * b.grain(0.04)
    frozen = (gap > b.between(0.005, 0.1)) & (kind < b.between(0.6, 1.1))
    sea = b.cover("water") * b.between(0.4, 1)
    return torch.where(frozen, ice, sea)


def _lit(b: Brush, height: Tensor) -> Tensor:
    """(size, size) shade, about 0 to 1, of a surface in slanting light."""
    dy, dx = torch.gradient(height)
    angle = b.between(0, 2 * math.pi)
    slope = (dx * math.cos(angle) + dy * math.sin(angle)) * b.size
    return torch.sigmoid(slope / slope.std().clamp(min=1e-6) * 1.5)


def _ridges(b: Brush) -> Tensor:
    return 1 - b.noise(b.count(4, 6)).abs() + 0.3 * b.noise(6)


def peaks(b: Brush) -> Tensor:
    """Snow and rock in slanting light."""
    height = _ridges(b)
    shade = _lit(b, height)
    shadow = torch.tensor([0.35, 0.45, 0.6])[:, None, None] * b.between(0.6, 1.3)
    snow = torch.lerp(shadow.expand(3, b.size, b.size), b.colour(_SNOW).expand(3, b.size, b.size), shade)
    bare = b.cover("rock") * (0.4 + 0.8 * shade)
    line = torch.quantile(height, max(0.0, b.between(-0.3, 0.45)))
    return torch.where(height > line, snow, bare)


def iceberg(b: Brush) -> Tensor:
    """A lump of ice in water, perhaps with smaller ones."""
    height = _blob(b, 0.3, 0.35, 0.7)
    for _ in range(b.count(0, 4)):
        height = torch.maximum(height, _blob(b, 0.9, 0.05, 0.15))
    shade = 0.65 + 0.35 * _lit(b, _ridges(b))
    under = torch.where(height > -b.between(0, 0.08), b.colour(_SHALLOW), b.cover("water"))
    return torch.where(height > 0, b.colour(_SNOW) * shade, under)


def ship(b: Brush) -> Tensor:
    """One ship or several, perhaps with a wake."""
    tile = b.cover("water", "lake") * b.grain(b.between(0.02, 0.12))
    length = b.between(0.12, 0.95)
    for _ in range(1 if length > 0.4 else b.count(1, 3)):
        along, across = b.somewhere(0.9 - 0.8 * length)
        width = length * b.between(0.13, 0.2)
        behind = -length - along
        if b.chance(0.6):
            spread = width * (0.7 + 0.5 * behind.clamp(min=0))
            foam = (across.abs() < spread) & (behind > 0) & (b.noise(6) > behind * b.between(0.8, 3) - 1)
            tile = torch.where(foam, torch.lerp(tile, torch.full_like(tile, 0.95), 0.7), tile)
        narrowing = ((length - along) / (0.45 * length)).clamp(0, 1).sqrt()
        hull = (across.abs() < width * narrowing) & (behind < 0)
        tile = torch.where(hull, b.roof() * b.between(0.5, 1), tile)
        deck = (across.abs() < 0.75 * width * narrowing) & (along > -0.9 * length) & (along < 0.85 * length)
        for block in range(b.count(2, 7)):
            start = -0.9 + 1.6 * block / 7
            part = deck & (along > start * length) & (along < (start + 0.2) * length)
            tile = torch.where(part, b.roof(), tile)
    return tile


def terraces(b: Brush) -> Tensor:
    """Steps along the contours of a hillside."""
    height = b.noise(b.count(2, 4)) * b.between(3, 10) + 0.3 * b.noise(5)
    step, within = height.floor(), height - height.floor()
    colours = torch.stack([b.colour(*_CROPS, *_REED, *_MURK) for _ in range(7)])
    tile = colours[step.long() % 7, :, 0, 0].permute(2, 0, 1)
    edge = within < b.between(0.08, 0.25)
    return torch.where(edge, tile * b.between(0.4, 0.7), tile) * b.grain()


def wetland(b: Brush) -> Tensor:
    """Reeds, pools and channels."""
    reed = torch.where(b.noise(6) > 0, b.colour(*_REED), b.colour(*_REED, *_MURK)) * b.grain(0.15)
    pools = b.noise(b.count(4, 6)) > b.between(0.1, 1.2)
    channels = b.noise(4).abs() < b.between(0.03, 0.15)
    return torch.where(pools | channels, b.colour(*_MURK) * b.grain(0.03), reed)


def railway(b: Brush) -> Tensor:
    """Parallel tracks on ballast."""
    tile = b.cover("grass", "forest", "desert") * b.grain(0.15)
    along, across = b.somewhere(0.4)
    across = across + b.between(-0.3, 0.3) * along.square()
    tracks, apart = b.count(1, 8), b.between(0.07, 0.14)
    half = tracks * apart / 2
    bed = across.abs() < half + 0.04
    tile = torch.where(bed, b.grey(75, 140) * b.grain(0.1), tile)
    within = ((across + half) / apart).remainder(1)
    rails = ((within - 0.35).abs() < 0.05) | ((within - 0.65).abs() < 0.05)
    return torch.where(bed & (across.abs() < half) & rails, b.grey(60, 220), tile)


def running_track(b: Brush) -> Tensor:
    """An oval of lanes around a pitch."""
    tile = torch.where(b.noise(5) > 0.3, b.cover("grass"), b.grey(110, 190)) * b.grain()
    along, across = b.turned(b.between(-0.15, 0.15), b.between(-0.15, 0.15), b.between(0, math.pi))
    bend, straight = b.between(0.28, 0.42), b.between(0.25, 0.4)
    distance = _length((along.abs() - straight).clamp(min=0), across)
    lanes = b.between(0.1, 0.16)
    ring = (distance > bend - lanes) & (distance < bend)
    tile = torch.where(distance < bend - lanes, b.colour(_PITCH) * b.grain(0.05), tile)
    pitch = torch.maximum(along.abs() / straight, across.abs() / (0.75 * (bend - lanes)))
    tile = torch.where((pitch - 1).abs() < 0.03, torch.full_like(tile, 0.85), tile)
    tile = torch.where(ring, b.grey(110, 190) if b.chance(0.3) else b.colour(_TARTAN), tile)
    marks = ring & (((distance - bend) / lanes * 6).remainder(1) < 0.15)
    return torch.where(marks, torch.lerp(tile, torch.full_like(tile, 0.95), 0.5), tile)


def _line(distance: Tensor) -> Tensor:
    return distance.abs() < 0.018


def court(b: Brush) -> Tensor:
    """Basketball courts beside each other."""
    tile = torch.where(b.noise(4) > 0.2, b.cover("grass", "forest"), b.grey(110, 190)) * b.grain()
    angle, side = b.between(0, math.pi), b.count(1, 3)
    floor, keys, border = (
        b.colour(*_SURFACED),
        b.colour(*_SURFACED),
        b.grey(110, 190) if b.chance(0.4) else b.colour(*_SURFACED),
    )
    length = b.between(0.5, 0.75) if side == 1 else b.between(0.35, 0.5)
    width = 0.54 * length
    for number in range(side):
        along, across = b.turned(0, 0, angle)
        across = across - (number - (side - 1) / 2) * 2.5 * width
        apron = (along.abs() < 1.12 * length) & (across.abs() < 1.2 * width)
        inside = (along.abs() < length) & (across.abs() < width)
        key = (across.abs() < 0.3 * width) & (along.abs() > 0.6 * length) & inside
        ends = _line(along.abs() - length) & (across.abs() < width)
        sides = _line(across.abs() - width) & (along.abs() < length)
        circle = _line(_length(along, across) - 0.2 * width)
        arc = _line(_length(along.abs() - 0.9 * length, across) - 0.8 * width)
        marks = ends | sides | (inside & (_line(along) | circle | arc))
        tile = torch.where(apron, border, tile)
        tile = torch.where(inside, floor, tile)
        tile = torch.where(key, keys, tile)
        tile = torch.where(marks, torch.full_like(tile, 0.92), tile)
    return tile


def power_station(b: Brush) -> Tensor:
    """Cooling towers with steam, halls, perhaps coal."""
    tile = torch.where(b.noise(4) > b.between(-0.5, 0.5), b.cover("grass", "desert"), b.grey(110, 190)) * b.grain(0.12)
    angle, sun = b.between(0, math.pi), b.between(0, 2 * math.pi)
    for _ in range(b.count(5, 14)):  # halls, stores and yards, all one way
        along, across = b.turned(b.between(-1, 1), b.between(-1, 1), angle)
        hall = (along.abs() < b.between(0.08, 0.35)) & (across.abs() < b.between(0.05, 0.15))
        tile = torch.where(hall, b.roof(), tile)
    if b.chance(0.5):
        tile = torch.where(_blob(b, 0.8, 0.15, 0.35) > 0, 0.15 * b.grain(0.2), tile)  # coal
    row_x, row_y, radius = b.between(-0.6, 0.3), b.between(-0.5, 0.5), b.between(0.12, 0.28)
    for number in range(b.count(1, 4)):
        x, y = row_x + 2.3 * radius * number * math.cos(angle), row_y + 2.3 * radius * number * math.sin(angle)
        along, across = b.turned(x, y, sun)
        distance = _length(along, across)
        shadow = (across.abs() < radius) & (along > 0) & (along < 3 * radius)
        tile = torch.where(shadow, tile * 0.45, tile)
        tile = torch.where(distance < radius, b.grey(120, 230), tile)
        tile = torch.where(distance < 0.68 * radius, torch.full_like(tile, b.between(0.2, 0.5)), tile)
        if b.chance(0.6):
            drift = (-along - 0.5 * radius) / b.between(1, 4)
            plume = radius * 0.7 + 0.3 * drift - (across + 0.1 * b.noise(4)).abs()
            steam = torch.sigmoid(12 * plume) * (drift > -0.3 * radius) * torch.sigmoid(2 * b.noise(5) + 1)
            tile = torch.lerp(tile, torch.full_like(tile, 0.97), steam)
    return tile
