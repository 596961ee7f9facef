"""Hyper-parameters of stage 1, checked where they are written down."""

from __future__ import annotations

from dataclasses import dataclass, field

from sattxt.errors import InputError
from sattxt.training.augment import AugmentConfig
from sattxt.training.objectives.srd.losses import check_temperatures
from sattxt.training.precision import Precision, check_precision
from sattxt.training.ranges import DECAY, NOT_NEGATIVE, POSITIVE, SHARE, check_ranges

_RANGES = {
    **dict.fromkeys(("backbone_lr", "head_lr", "weight_decay", "warmup", "steps"), NOT_NEGATIVE),
    **dict.fromkeys(("srd_weight", "patch_weight", "local_views"), NOT_NEGATIVE),
    **dict.fromkeys(("global_size", "local_size", "clip_norm"), POSITIVE),
    "ema": DECAY,
    "centre_momentum": SHARE,
}


@dataclass(frozen=True)
class SRDConfig:
    """Hyper-parameters of a distillation run.

    counts: tiles a step and rank from each data set, in their order. accumulate: micro-batches they are cut into; their
    losses are averaged. global_*, local_*: student views, their number, side in
    pixels and smallest and largest share of the tile. ms_views: teacher views, full resolution, with the geometry of
    the first global ones.
    srd_weight, patch_weight: of the published loss and of the patch-wise regression; 0 leaves one out. patch_centred:
    take the mean token off the regression's targets; without it, most of a high cosine is that mean. teacher_cache: run
    the teacher once over every whole tile and move its patch map by a view's geometry, instead of running it on the
    view: far cheaper with few tiles and many steps, and an approximation. freeze_backbone:
    train only the head and the linear maps, as in the paper.
    """

    steps: int
    counts: tuple[int, ...]
    accumulate: int = 1
    global_views: int = 2
    global_size: int = 96
    global_area: tuple[float, float] = (0.5, 1.0)
    local_views: int = 4
    local_size: int = 48
    local_area: tuple[float, float] = (0.1, 0.4)
    ms_views: int = 2
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    centre_momentum: float = 0.9
    srd_weight: float = 1.0
    patch_weight: float = 0.0
    patch_centred: bool = False
    teacher_cache: bool = False
    freeze_backbone: bool = True
    backbone_lr: float = 3e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 100
    clip_norm: float = 3.0
    ema: float = 0.998
    precision: Precision = "auto"
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_ranges(self, _RANGES)
        check_temperatures(self.student_temperature, self.teacher_temperature)
        if not 1 <= self.ms_views <= self.global_views:
            raise InputError(
                f"ms_views={self.ms_views}: pass 1 to global_views={self.global_views}, whose geometry they share"
            )
        if self.accumulate < 1:
            raise InputError(f"accumulate={self.accumulate}: pass 1 or more")
        for name, (low, high) in (("global_area", self.global_area), ("local_area", self.local_area)):
            if not 0 < low <= high <= 1:
                raise InputError(f"{name}=({low}, {high}): pass (smallest, largest), 0 < smallest <= largest <= 1")
        if not self.srd_weight + self.patch_weight:
            raise InputError("srd_weight and patch_weight: pass at least one above 0")
