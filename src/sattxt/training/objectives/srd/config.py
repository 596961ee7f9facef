"""Settings of stage 1."""

from __future__ import annotations

from pydantic import model_validator

from sattxt.training.objectives.base import StepConfig
from sattxt.training.schema import Count, NotNegative, Share, Whole


class SRDConfig(StepConfig):
    """Settings of a distillation run."""

    global_views: Count = 2  # large views of a tile that the student sees
    global_size: Count = 96  # their side in pixels
    global_area: tuple[float, float] = (0.5, 1.0)  # their smallest and largest share of the tile
    local_views: Whole = 4  # small views
    local_size: Count = 48
    local_area: tuple[float, float] = (0.1, 0.4)
    ms_views: Count = 2  # views that the teacher sees, with the geometry of the first global ones; at most as many
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04  # below the student's
    centre_momentum: Share = 0.9  # of the teacher's running mean
    srd_weight: NotNegative = 1.0  # of the published loss; 0 leaves it out
    patch_weight: NotNegative = 0.0  # of the regression of the teacher's tokens, place by place; 0 leaves it out
    patch_centred: bool = False  # the regression's targets without their mean, which most of a high cosine is
    teacher_cache: bool = False  # the teacher sees each whole tile once; views are cut from its map (an approximation)
    freeze_backbone: bool = True  # only the head and the linear maps are trained, as in the paper
    backbone_lr: NotNegative = 3e-4  # learning rates
    head_lr: NotNegative = 1e-3

    @model_validator(mode="after")
    def _check_together(self) -> SRDConfig:
        if not 0 < self.teacher_temperature < self.student_temperature:  # the teacher is the sharper one
            raise ValueError(
                f"teacher_temperature={self.teacher_temperature}, student_temperature={self.student_temperature}: "
                "pass 0 < teacher_temperature < student_temperature"
            )
        if self.ms_views > self.global_views:
            raise ValueError(
                f"ms_views={self.ms_views}: pass 1 to global_views={self.global_views}, whose geometry they share"
            )
        for name, (low, high) in (("global_area", self.global_area), ("local_area", self.local_area)):
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name}=({low}, {high}): pass (smallest, largest), 0 < smallest <= largest <= 1")
        if not self.srd_weight + self.patch_weight:
            raise ValueError("srd_weight and patch_weight: pass at least one above 0")
        return self
