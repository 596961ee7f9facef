"""A run of stage 1 that takes a second: smooth tiles of four bands, a teacher that averages, a small MobileNet."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.config import BackboneConfig, HeadConfig, VisionConfig
from sattxt.training.loop import Run
from sattxt.training.objectives.srd.model import SRDConfig, SRDModel
from sattxt.training.objectives.srd.objective import SRDObjective
from sattxt.training.teachers.base import CallableTeacher
from sattxt.training.tiles import Tiles
from sattxt.vision.tower import VisionTower

VISION = VisionConfig(
    BackboneConfig("mobilenet_v1", {"depth_multiplier": 0.25}, output_stride=16),
    HeadConfig(input_dim=256, dim=32, depth=1, heads=2, ffn_dim=64),
)


def to_pixels(x: Tensor) -> Tensor:
    return 2 * x - 1


def pair_set(count: int = 12, size: int = 32, name: str = "made") -> Tiles:
    """Tiles whose bands are simple functions of smooth RGB, and one (B08) that no single pixel tells."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    rgb = (F.interpolate(coarse, size=size, mode="bilinear", align_corners=False) * 5).round()  # of 51: whole numbers
    values = torch.cat([rgb * 550, rgb.mean(1, keepdim=True) * 1020], dim=1).round().short()
    return Tiles(name, [f"{name}/{i}.tif" for i in range(count)], values, bands=("red", "green", "blue", "nir"))


def teacher(**options) -> CallableTeacher:
    """Sees 2 x 2 places: the means of red and near infrared there, and two mixtures of them."""
    mix = torch.tensor([[1.0, 0, 1, -1], [0, 1, 1, 2]]) / 4

    def look(x: Tensor) -> Tensor:
        return torch.einsum("ncrs,cw->nwrs", F.adaptive_avg_pool2d(x, 2), mix)

    return CallableTeacher(look, ("B04", "B08"), 4, mean=(1275, 2550), std=(700, 1000), **options)


class Distilling(Run[SRDModel]):
    """A small run of stage 1."""

    def __init__(
        self,
        out: Path,
        *,
        seen: object = None,
        sets: list[Tiles] | None = None,
        normalise=to_pixels,
        model: SRDModel | None = None,
        counts: tuple[int, ...] = (4,),
        **options,
    ) -> None:
        small = {"steps": 6, "global_size": 32, "local_size": 16, "local_views": 2, "warmup": 2}
        config = SRDConfig(**{**small, "precision": "float32", **options})
        if model is None:
            torch.manual_seed(0)
            model = SRDModel(VisionTower(VISION), 4)
        self.sets = sets or [pair_set()]
        self.distiller = SRDObjective(config, model, seen or teacher(), self.sets, counts, normalise)  # type: ignore[arg-type]
        out.mkdir(parents=True, exist_ok=True)
        super().__init__(self.distiller, model, out)

    def measure(self, model: SRDModel) -> dict[str, float]:
        return self.distiller.validate(model, self.sets[0])
