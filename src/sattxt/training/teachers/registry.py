"""The frozen multispectral teacher that a recipe's stage 1 names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field
from torch import nn

from sattxt.images.bands import SENTINEL2_L2A
from sattxt.training.schema import Config, Count, Positive
from sattxt.training.start import find_path, fixed_seed
from sattxt.training.teachers.base import CallableTeacher, Teacher
from sattxt.training.teachers.galileo import GalileoTeacher
from sattxt.training.teachers.spectralgpt import SpectralGPTTeacher


class GalileoSource(Config):
    """A Galileo encoder."""

    kind: Literal["galileo"]
    path: str  # the published folder, under the data folder or anywhere
    patch_size: Count = 8  # pixels a patch, at most the stored kernels' side
    month: Annotated[int, Field(ge=0, le=11)] = 5  # of the tiles' acquisition, 0 is January
    metres: Positive = 10.0  # ground size of a pixel


class SpectralGPTSource(Config):
    """A SpectralGPT encoder."""

    kind: Literal["spectralgpt"]
    path: str  # the authors' checkpoint file
    heads: Count | None = None  # attention heads; None: width / 64


class RandomSource(Config):
    """A strided convolution of random weights, for dry runs."""

    kind: Literal["random"]
    bands: tuple[str, ...] = SENTINEL2_L2A
    width: Count = 16  # of its tokens
    patch: Count = 8  # pixels a token, each way


TeacherSource: TypeAlias = Annotated[GalileoSource | SpectralGPTSource | RandomSource, Field(discriminator="kind")]


def start_teacher(source: TeacherSource, data: Path, *, seed: int = 0) -> Teacher:
    """The teacher of a recipe's ``srd.teacher``.

    Args:
        data: the folder that ``path`` starts from.
        seed: of a random teacher.

    Raises:
        InputError: the path does not exist.
        WeightsError: the weights are not those of such a teacher.
    """
    if isinstance(source, RandomSource):
        with fixed_seed(seed):
            network = nn.Conv2d(len(source.bands), source.width, source.patch, source.patch)
        return CallableTeacher(network, source.bands, source.width, name="random", mean=(1500.0,), std=(1000.0,))
    path = find_path(source.path, data, "srd.teacher.path")
    options = source.model_dump(exclude={"kind", "path"})
    if isinstance(source, GalileoSource):
        return GalileoTeacher.from_folder(path, **options)
    return SpectralGPTTeacher.from_checkpoint(path, **options)
