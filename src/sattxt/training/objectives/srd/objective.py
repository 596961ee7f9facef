"""Stage 1, spectral representation distillation (SATtxt, section 3.1): an RGB student learns what a frozen
multispectral teacher sees in bands that the student never gets.

For the teacher, full-resolution views of all bands; for the student, global views of the same ground and local ones
(multi-crop). Geometry is drawn once for both, radiometry changes RGB only. The vision tower that comes out
(``vision`` of the averaged model) starts stage 2; the linear maps onto the teacher's width are left behind.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.errors import InputError
from sattxt.training.augment import resize
from sattxt.training.hardware import autocast
from sattxt.training.objectives.base import Batch, Gather, Objective, StepLosses, alone, generator
from sattxt.training.objectives.srd.config import SRDConfig
from sattxt.training.objectives.srd.losses import (
    match_maps,
    move_centre,
    normalise_tokens,
    patch_regression,
    srd_loss,
    teacher_distribution,
)
from sattxt.training.objectives.srd.model import SRDModel
from sattxt.training.objectives.srd.views import ms_view, rgb_view, view_geometry
from sattxt.training.optim import parameter_groups
from sattxt.training.teachers.base import Teacher
from sattxt.training.tiles import Tiles

log = logging.getLogger(__name__)


@dataclass
class SRDBatch(Batch):
    """A micro-batch of stage 1; N tiles, set after set, V views after one another.

    wide: (V N, 3, S, S) and narrow: (V' N, 3, S', S') pixel values of global and local views. spectral: for each
    teacher view and data set (n, bands, T, T) reflectance x 10,000, with the geometry of the first global views; with
    ``teacher_cache`` (n, width, rows, cols), the teacher's own maps so moved.
    """

    wide: Tensor
    narrow: Tensor
    spectral: list[list[Tensor]]


class SRDObjective(Objective):
    """Stage 1 on pairs of RGB and multispectral tiles.

    Args:
        model: whose centres start at the teacher's means over the first batch, whole tiles.
        normalise: from (N, 3, H, W) floats in [0, 1] to the student's pixel values.
        context: see :class:`~sattxt.training.objectives.base.Objective`.

    Raises:
        InputError: the parts do not fit together; a data set lacks bands that the teacher needs; ``patch_weight`` asks
            for patch tokens that the teacher does not give.
    """

    stage = "srd"
    config: SRDConfig

    def __init__(
        self,
        config: SRDConfig,
        model: SRDModel,
        teacher: Teacher,
        sets: Sequence[Tiles],
        normalise: Callable[[Tensor], Tensor],
        context: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(config, sets, normalise, context)
        if config.patch_weight and model.patch_to_teacher is None:
            raise InputError("patch_weight is above 0, but the model has no patch map; make it with patches=True")
        if model.to_teacher.out_features != teacher.width:
            raise InputError(
                f"the model maps onto width {model.to_teacher.out_features}, {teacher.name} has {teacher.width}; "
                "make it with teacher_width=teacher.width"
            )
        for tiles in sets:
            teacher.check(tiles.bands, tiles.name)
        self.teacher = teacher
        self._whole: list[Tensor] | None = None
        self._look_ahead(model)
        if config.teacher_cache:
            self._whole = [self._whole_maps(tiles) for tiles in sets]

    def draw(self, step: int, micro: int = 0, rank: int = 0, ranks: int = 1) -> SRDBatch:
        """See :class:`SRDBatch`."""
        config, parts = self.config, self.parts(step, micro, rank, ranks)
        random = generator(config.seed, step, micro, rank)
        wide = [view_geometry(parts, config.global_area, config.augment, random) for _ in range(config.global_views)]
        narrow = [view_geometry(parts, config.local_area, config.augment, random) for _ in range(config.local_views)]
        tiles = [s.take(index) for s, index in zip(self.sets, parts, strict=True)]
        if self._whole is None:
            values = [s.spectral(index) for s, index in zip(self.sets, parts, strict=True)]
        else:
            values = [maps[s.actual(i)].float() for maps, s, i in zip(self._whole, self.sets, parts, strict=True)]
        return SRDBatch(
            step=step,
            parts=parts,
            wide=self._student_pixels(tiles, wide, config.global_size, random),
            narrow=self._student_pixels(tiles, narrow, config.local_size, random),
            spectral=[ms_view(values, thetas) for thetas in wide[: config.ms_views]],
        )

    def _student_pixels(
        self, tiles: list[Tensor], views: list[list[Tensor]], size: int, random: torch.Generator
    ) -> Tensor:
        if not views:
            return torch.zeros(0, 3, size, size)
        stack = [rgb_view(tiles, thetas, size, self.config.augment, random) for thetas in views]
        return self.pixels(torch.cat(stack))

    def losses(self, model: SRDModel, batch: SRDBatch, gather: Gather = alone) -> StepLosses:
        """``srd`` (which cannot fall below ``entropy``, the teacher's own) and ``patch``."""
        config = self.config
        with autocast(config.precision, batch.wide.device):
            answers, patches = model(batch.wide)
            if len(batch.narrow):
                answers = torch.cat([answers, model(batch.narrow)[0]])
        logits: Tensor = answers.unflatten(0, (-1, len(batch)))
        seen = [self._see(views) for views in batch.spectral]
        pooled, maps = torch.stack([view for view, _ in seen]), [m for _, view in seen for m in view]
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=batch.wide.device)
        if config.srd_weight > 0:
            tau_s, tau_t = config.student_temperature, config.teacher_temperature
            loss = srd_loss(logits, pooled, model.centre, student_temperature=tau_s, teacher_temperature=tau_t)
            q = teacher_distribution(pooled, model.centre, tau_t)
            terms = {"srd": loss, "entropy": -(q * q.clamp(min=1e-12).log()).sum(dim=-1).mean()}
            total = total + config.srd_weight * loss
        if config.patch_weight > 0 and patches is not None:  # the first views have the teacher's geometry
            counts = [len(target) for target in maps]
            centre = self._patch_centre(model)
            pairs = zip(torch.split(patches[: sum(counts)], counts), maps, strict=True)
            errors = [len(target) * patch_regression(own, target, centre) for own, target in pairs]
            terms["patch"] = torch.stack(errors).sum() / sum(counts)
            total = total + config.patch_weight * terms["patch"]
        statistics = {"centre": pooled.flatten(0, 1).mean(dim=0)}
        if maps:
            statistics["patch_centre"] = _all_tokens(maps).mean(dim=0)
        return StepLosses(total, terms, statistics)

    def after_step(self, model: SRDModel, statistics: dict[str, Tensor]) -> None:
        """Move the centres towards what the teacher said of this step's views."""
        for name, mean in statistics.items():
            move_centre(getattr(model, name), mean, self.config.centre_momentum)

    def frozen(self, model: SRDModel) -> list[nn.Module]:
        """The backbone with ``freeze_backbone``, and a map that no loss uses."""
        config = self.config
        return [
            *([model.vision.backbone] if config.freeze_backbone else []),
            *([model.to_teacher] if config.srd_weight == 0 else []),
            *([model.patch_to_teacher] if config.patch_weight == 0 and model.patch_to_teacher is not None else []),
        ]

    def groups(self, model: SRDModel) -> list[dict[str, Any]]:
        """Backbone; head and maps."""
        config = self.config
        heads = [m for m in (model.vision.head, model.to_teacher, model.patch_to_teacher) if m is not None]
        return [
            *parameter_groups([model.vision.backbone], config.backbone_lr, config.weight_decay),
            *parameter_groups(heads, config.head_lr, config.weight_decay),
        ]

    def identity(self) -> dict[str, Any]:
        """As every objective's, and the teacher."""
        return {**super().identity(), "teacher": self.teacher.name}

    @torch.no_grad()
    def _see(self, views: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(N, width) pooled outputs, and each data set's patch map where there are any, of one multispectral view."""
        if self._whole is not None:
            return torch.cat([view.mean(dim=(2, 3)) for view in views]), list(views)
        self.teacher.to(views[0].device)
        seen = [self.teacher.encode(view, tiles.bands) for tiles, view in zip(self.sets, views, strict=True)]
        return torch.cat([each.pooled for each in seen]), [each.patches for each in seen if each.patches is not None]

    @torch.no_grad()
    def _whole_maps(self, tiles: Tiles, batch: int = 64) -> Tensor:
        """(N, width, rows, cols) float16: the teacher's patch map of every whole tile."""
        log.info("%s: the teacher %s sees %d tiles once", tiles.name, self.teacher.name, len(tiles))
        parts = []
        for index in torch.split(torch.arange(len(tiles)), batch):
            maps = self.teacher.encode(tiles.spectral(index), tiles.bands).patches
            assert maps is not None  # looked at ahead
            parts.append(maps.half())
        return torch.cat(parts)

    def _look_ahead(self, model: SRDModel) -> None:
        """The first batch, whole tiles, through the teacher: where centres start, and what it cannot do, known now."""
        first = zip(self.sets, self.sampler.batch(0), strict=True)
        pooled, maps = self._see([tiles.spectral(index) for tiles, index in first])
        if len(maps) < len(self.sets) and (self.config.patch_weight or self.config.teacher_cache):
            raise InputError(
                f"{self.teacher.name} gives no patch tokens; set patch_weight to 0 and teacher_cache to false, or pass "
                "a teacher that does"
            )
        move_centre(model.centre, pooled, momentum=0)
        if maps:
            move_centre(model.patch_centre, _all_tokens(maps), momentum=0)

    def _patch_centre(self, model: SRDModel) -> Tensor | None:
        return model.patch_centre if self.config.patch_centred else None

    @torch.no_grad()
    def validate(self, model: SRDModel, tiles: Tiles, *, limit: int = 256) -> dict[str, float]:
        """How well a student (the averaged one) predicts the teacher on whole, unaugmented tiles.

        Returns:
            ``kl``: mean KL(q || p) in nats, 0 at best. ``kl_constant``: what the best answer that is the same for
            every tile would get; below it, the student tells tiles apart. With the patch-wise regression also
            ``patch_cosine``, mean cosine similarity to its targets, and ``patch_constant`` likewise.
        """
        config, device = self.config, model.centre.device
        index = torch.arange(0, len(tiles), max(1, math.ceil(len(tiles) / limit)))
        logits, pooled, matched = [], [], []
        for part in torch.split(index, 64):
            pixels = self.normalise(resize(tiles.take(part), config.global_size)).to(device)
            answer, patches = model(pixels)
            seen = self.teacher.to(device).encode(tiles.spectral(part).to(device), tiles.bands)
            logits.append(answer)
            pooled.append(seen.pooled)
            if config.patch_weight > 0 and patches is not None and seen.patches is not None:
                matched.append(match_maps(patches, seen.patches, self._patch_centre(model)))
        q = teacher_distribution(torch.cat(pooled), model.centre, config.teacher_temperature)
        log_p = F.log_softmax(torch.cat(logits) / config.student_temperature, dim=-1)
        constant = q.mean(dim=0).clamp(min=1e-12).log().expand_as(q)
        answers = {"kl": log_p, "kl_constant": constant}
        out = {name: F.kl_div(answer, q, reduction="batchmean") for name, answer in answers.items()}
        if matched:
            predicted, target = (torch.cat(maps) for maps in zip(*matched, strict=True))
            same = F.normalize(target, dim=1).mean(dim=(0, 2, 3), keepdim=True).expand_as(target)
            out["patch_cosine"] = F.cosine_similarity(predicted, target, dim=1).mean()
            out["patch_constant"] = F.cosine_similarity(same, target, dim=1).mean()
        return {name: float(value) for name, value in out.items()}


def _all_tokens(maps: list[Tensor]) -> Tensor:
    """Every layer-normalised token of (N, width, rows, cols) maps: (tokens, width)."""
    return torch.cat([normalise_tokens(m).movedim(1, -1).flatten(0, 2) for m in maps])
