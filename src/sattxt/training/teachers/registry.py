"""The frozen multispectral teacher that a recipe's stage 1 names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from sattxt.errors import InputError
from sattxt.images.bands import SENTINEL2_L2A
from sattxt.training.teachers.base import CallableTeacher, Teacher
from sattxt.training.teachers.galileo import GalileoTeacher
from sattxt.training.teachers.spectralgpt import SpectralGPTTeacher

if TYPE_CHECKING:
    from sattxt.training.recipe import Recipe


def start_teacher(recipe: Recipe, data: Path) -> Teacher:
    """The recipe's ``srd.teacher``, its ``path`` under ``data`` or anywhere.

    ``random`` is a strided convolution of random weights, for dry runs.

    Raises:
        InputError: the recipe has no stage 1, or the path does not exist.
        WeightsError: the weights are not those of such a teacher.
    """
    block = {key: value for key, value in recipe.teacher.items() if key not in ("kind", "path")}
    if not recipe.teacher:
        raise InputError(f"{recipe.name}: the recipe has no stage 1; give it a block srd with teacher and pairs")
    if recipe.teacher["kind"] == "random":
        return _random(seed=recipe.align.seed, **block)
    named = str(recipe.teacher["path"])
    path = next((p for p in (data / named, Path(named).expanduser()) if p.exists()), None)
    if path is None:
        raise InputError(f"srd.teacher.path: {data / named}: no such file or folder")
    if recipe.teacher["kind"] == "galileo":
        return GalileoTeacher.from_folder(path, **block)
    return SpectralGPTTeacher.from_checkpoint(path, **block)


def _random(*, seed: int, bands: tuple[str, ...] = SENTINEL2_L2A, width: int = 16, patch: int = 8) -> Teacher:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Conv2d(len(bands), width, patch, patch)
    count = len(bands)
    return CallableTeacher(network, bands, width, name="random", mean=[1500.0] * count, std=[1000.0] * count)
