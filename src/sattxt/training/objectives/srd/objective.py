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
from sattxt.training.augment import resized
from sattxt.training.objectives.base import Batch, Gather, Objective, StepLosses, alone, generator
from sattxt.training.objectives.srd.config import SRDConfig
from sattxt.training.objectives.srd.losses import (
    layer_normalised,
    matched_maps,
    patch_regression,
    srd_loss,
    teacher_distribution,
)
from sattxt.training.objectives.srd.model import SRDModel
from sattxt.training.objectives.srd.views import ms_view, rgb_view, view_geometry
from sattxt.training.optim import parameter_groups
from sattxt.training.pairs import LazyPairs, PairSet
from sattxt.training.precision import autocast
from sattxt.training.teachers.base import Teacher

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
        context: see :class:`~sattxt.training.objective.Objective`.

    Raises:
        InputError: the parts do not fit together; a data set lacks bands that the teacher needs; ``patch_weight`` asks
            for patch tokens that the teacher does not give.
    """

    stage = "srd"

    def __init__(
        self,
        config: SRDConfig,
        model: SRDModel,
        teacher: Teacher,
        sets: Sequence[PairSet | LazyPairs],
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
        self.config, self.teacher, self.sets = config, teacher, sets
        self._look_ahead(model)
        self._whole = [self._whole_maps(tiles) for tiles in sets] if config.teacher_cache else None

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
            wide=self._pixels(tiles, wide, config.global_size, random),
            narrow=self._pixels(tiles, narrow, config.local_size, random),
            spectral=[ms_view(values, thetas) for thetas in wide[: config.ms_views]],
        )

    def _pixels(self, tiles: list[Tensor], views: list[list[Tensor]], size: int, random: torch.Generator) -> Tensor:
        if not views:
            return torch.zeros(0, 3, size, size)
        stack = [rgb_view(tiles, thetas, size, self.config.augment, random) for thetas in views]
        return self.normalise(torch.cat(stack)).contiguous(memory_format=torch.channels_last)

    def losses(self, model: SRDModel, batch: SRDBatch, gather: Gather = alone) -> StepLosses:
        """``srd`` (down to ``entropy``, the teacher's own, is all that can be learnt) and ``patch``."""
        config = self.config
        with autocast(config.precision, batch.wide.device):
            logits, patches = self._student(model, batch.wide, config.global_views)
            if len(batch.narrow):
                local, _ = self._student(model, batch.narrow, config.local_views)
                logits = torch.cat([logits, local])
        seen = [self._teach(views) for views in batch.spectral]
        pooled, maps = torch.stack([view for view, _ in seen]), [m for _, view in seen for m in view]
        terms: dict[str, Tensor] = {}
        total: list[Tensor] = []
        if config.srd_weight > 0:
            tau_s, tau_t, centre = config.student_temperature, config.teacher_temperature, model.centre.value
            loss = srd_loss(logits, pooled, centre, student_temperature=tau_s, teacher_temperature=tau_t)
            q = teacher_distribution(pooled, centre, tau_t)
            terms = {"srd": loss, "entropy": -(q * q.clamp(min=1e-12).log()).sum(dim=-1).mean()}
            total.append(config.srd_weight * loss)
        if config.patch_weight > 0 and patches is not None:
            terms["patch"] = self._patch_loss(model, patches, [view for _, view in seen])
            total.append(config.patch_weight * terms["patch"])
        statistics = {"centre": pooled.flatten(0, 1).mean(dim=0)}
        if maps:
            statistics["patch_centre"] = _all_tokens(maps).mean(dim=0)
        return StepLosses(torch.stack(total).sum(), terms, statistics)

    def after_step(self, model: SRDModel, statistics: dict[str, Tensor]) -> None:
        """Move the centres towards what the teacher said of this step's views."""
        for name, centre in (("centre", model.centre), ("patch_centre", model.patch_centre)):
            centre.momentum = self.config.centre_momentum
            if name in statistics:
                centre.update(statistics[name])

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

    def _student(self, model: SRDModel, pixels: Tensor, views: int) -> tuple[Tensor, Tensor | None]:
        """(V, N, width) logits and (V, N, width, rows, cols) patch predictions of RGB views."""
        logits, patches = model(pixels)
        logits = logits.view(views, -1, logits.shape[1])
        return logits, None if patches is None else patches.view(views, -1, *patches.shape[1:])

    @torch.no_grad()
    def _teach(self, views: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(N, width) pooled outputs, and each data set's patch map where there are any, of one multispectral view."""
        if self._whole is not None:
            return torch.cat([view.mean(dim=(2, 3)) for view in views]), views
        device, pooled, maps = views[0].device, [], []
        if isinstance(self.teacher, nn.Module):
            self.teacher.to(device)
        for tiles, view in zip(self.sets, views, strict=True):
            seen = self.teacher.encode(view, tiles.bands)
            pooled.append(seen.pooled.float().to(device))
            if seen.patches is not None:
                maps.append(seen.patches.float().to(device))
        return torch.cat(pooled), maps

    def _patch_loss(self, model: SRDModel, predicted: Tensor, teacher: list[list[Tensor]]) -> Tensor:
        """predicted: (V, N, width, rows, cols). teacher: for each view, the maps of each data set."""
        total, count = predicted.new_zeros(()), 0
        for view, maps in zip(predicted, teacher, strict=False):  # the first views have the teacher's geometry
            start = 0
            for target in maps:
                stop = start + len(target)
                loss = patch_regression(view[start:stop], target, self._patch_centre(model))
                total, count, start = total + loss * len(target), count + len(target), stop
        return total / count

    @torch.no_grad()
    def _whole_maps(self, tiles: PairSet | LazyPairs, batch: int = 64) -> Tensor:
        """(N, width, rows, cols) float16: the teacher's patch map of every whole tile."""
        log.info("%s: the teacher %s sees %d tiles once", tiles.name, self.teacher.name, len(tiles))
        parts = []
        for index in torch.split(torch.arange(len(tiles)), batch):
            patches = self.teacher.encode(tiles.spectral(index), tiles.bands).patches
            if patches is None:
                raise InputError(f"{self.teacher.name} gives no patch tokens to keep; set teacher_cache to false")
            parts.append(patches.half().cpu())
        return torch.cat(parts)

    def _look_ahead(self, model: SRDModel) -> None:
        """The first batch, whole tiles, through the teacher: where centres start, and what it cannot do, known now."""
        teacher, pooled, maps = self.teacher, [], []
        for tiles, index in zip(self.sets, self.sampler.batch(0), strict=True):
            seen = teacher.encode(tiles.spectral(index), tiles.bands)
            due = (len(index), teacher.width)
            if seen.pooled.shape != due:
                raise InputError(f"{teacher.name}: pooled is {tuple(seen.pooled.shape)} on {tiles.name}, {due} is due")
            pooled.append(seen.pooled.float())
            if seen.patches is not None:
                maps.append(seen.patches.float())
            elif self.config.patch_weight:
                raise InputError(
                    f"{teacher.name} gives no patch tokens; set patch_weight to 0, or pass a teacher that does"
                )
        model.centre.start(torch.cat(pooled))
        if maps:
            model.patch_centre.start(_all_tokens(maps))

    def _patch_centre(self, model: SRDModel) -> Tensor | None:
        return model.patch_centre.value if self.config.patch_centred else None

    @torch.no_grad()
    def validate(self, model: SRDModel, tiles: PairSet | LazyPairs, *, limit: int = 256) -> dict[str, float]:
        """How well a student (the averaged one) predicts the teacher on whole, unaugmented tiles.

        Returns:
            ``kl``: mean KL(q || p) in nats, 0 at best. ``kl_constant``: what the best answer that is the same for
            every tile would get; below it, the student tells tiles apart. With the patch-wise regression also
            ``patch_cosine``, mean cosine similarity to its targets, and ``patch_constant`` likewise.
        """
        config, device = self.config, model.centre.value.device
        index = torch.arange(0, len(tiles), max(1, math.ceil(len(tiles) / limit)))
        logits, pooled, predicted, targets = [], [], [], []
        for part in torch.split(index, 64):
            pixels = self.normalise(resized(tiles.take(part), config.global_size)).to(device)
            answer, patches = model(pixels)
            if isinstance(self.teacher, nn.Module):
                self.teacher.to(device)
            seen = self.teacher.encode(tiles.spectral(part).to(device), tiles.bands)
            logits.append(answer)
            pooled.append(seen.pooled.float().to(device))
            if config.patch_weight > 0 and patches is not None and seen.patches is not None:
                maps, target = matched_maps(patches, seen.patches.to(patches), self._patch_centre(model))
                predicted.append(maps)
                targets.append(target)
        q = teacher_distribution(torch.cat(pooled), model.centre.value, config.teacher_temperature)
        log_p = F.log_softmax(torch.cat(logits) / config.student_temperature, dim=-1)
        constant = q.mean(dim=0).clamp(min=1e-12).log().expand_as(q)
        out = {
            name: float(F.kl_div(answer, q, reduction="batchmean"))
            for name, answer in (("kl", log_p), ("kl_constant", constant))
        }
        if targets:
            target = torch.cat(targets)
            same = F.normalize(target, dim=1).mean(dim=(0, 2, 3), keepdim=True).expand_as(target)
            for name, maps in (("patch_cosine", torch.cat(predicted)), ("patch_constant", same)):
                out[name] = float(F.cosine_similarity(maps, target, dim=1).mean())
        return out


def _all_tokens(maps: list[Tensor]) -> Tensor:
    """Every layer-normalised token of (N, width, rows, cols) maps: (tokens, width)."""
    return torch.cat([layer_normalised(m).movedim(1, -1).flatten(0, 2) for m in maps])
