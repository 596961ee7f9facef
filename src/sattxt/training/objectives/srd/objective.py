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
from sattxt.training.augment import radiometry, random_geometry, resample, resize
from sattxt.training.objectives.base import Batch, Objective, StepLosses, generator
from sattxt.training.objectives.srd.model import (
    SRDConfig,
    SRDModel,
    match_maps,
    normalise_tokens,
    patch_regression,
    srd_loss,
    teacher_distribution,
)
from sattxt.training.ranks import autocast
from sattxt.training.teachers.base import Teacher
from sattxt.training.tiles import Tiles

log = logging.getLogger(__name__)

_TEACHER_BATCH = 64  # tiles at a time, before the first step and in validation
_VALIDATION_TILES = 256  # of a set, at most, evenly spaced


@dataclass
class SRDBatch(Batch):
    """A micro-batch of stage 1; N tiles, set after set.

    pixels: for global and then, if there are any, for local views (V N, 3, S, S) pixel values, V views after one
    another. spectral: for each teacher view and data set (n, bands, T, T) reflectance x 10,000, with the geometry of
    the first global views; with ``teacher_cache`` (n, width, rows, cols), the teacher's own maps so moved.
    """

    pixels: list[Tensor]
    spectral: list[list[Tensor]]


class SRDObjective(Objective):
    """Stage 1 on pairs of RGB and multispectral tiles.

    Args:
        model: whose centres start at the teacher's means over the first batch, whole tiles.
        sets, counts, normalise, context: see :class:`~sattxt.training.objectives.base.Objective`.

    Raises:
        InputError: the parts do not fit together; a data set lacks bands that the teacher needs.
    """

    stage = "srd"
    config: SRDConfig

    def __init__(
        self,
        config: SRDConfig,
        model: SRDModel,
        teacher: Teacher,
        sets: Sequence[Tiles],
        counts: Sequence[int],
        normalise: Callable[[Tensor], Tensor],
        context: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(config, sets, counts, normalise, {**(context or {}), "teacher": teacher.name})
        if model.to_teacher.out_features != teacher.width:
            raise InputError(
                f"the model maps onto width {model.to_teacher.out_features}, {teacher.name} has {teacher.width}; "
                "make it with teacher_width=teacher.width"
            )
        for tiles in sets:
            teacher.check(tiles.bands, tiles.name)
        self.teacher = teacher
        self._cached: list[Tensor] | None = None
        first = [s.spectral(index) for s, index in zip(sets, self.sample(0), strict=True)]
        for name, mean in self._means(self._encode(first)).items():
            getattr(model, name).copy_(mean)
        if config.teacher_cache:
            self._cached = [self._encode_once(tiles) for tiles in sets]

    # -- batches ---------------------------------------------------------------------------------------------------

    def draw(self, step: int, micro: int = 0, rank: int = 0, ranks: int = 1) -> SRDBatch:
        """See :class:`SRDBatch`."""
        config, parts = self.config, self.parts(step, micro, rank, ranks)
        random = generator(config.seed, step, micro, rank)
        wide = [self._draw_crops(parts, config.global_area, random) for _ in range(config.global_views)]
        narrow = [self._draw_crops(parts, config.local_area, random) for _ in range(config.local_views)]
        tiles = [s.take(index) for s, index in zip(self.sets, parts, strict=True)]
        if self._cached is None:
            values = [s.spectral(index) for s, index in zip(self.sets, parts, strict=True)]
        else:
            values = [maps[s.actual(i)].float() for maps, s, i in zip(self._cached, self.sets, parts, strict=True)]
        sizes = ((wide, config.global_size), (narrow, config.local_size))
        return SRDBatch(
            step=step,
            parts=parts,
            pixels=[self._cut_student(tiles, views, size, random) for views, size in sizes if views],
            spectral=[
                [resample(v, theta, v.shape[-1]) for v, theta in zip(values, thetas, strict=True)]
                for thetas in wide[: config.ms_views]
            ],
        )

    def _draw_crops(self, parts: list[Tensor], area: tuple[float, float], random: torch.Generator) -> list[Tensor]:
        """For each data set (n, 2, 3) affine maps: a crop anywhere in the tile, turned and flipped.

        Args:
            area: smallest and largest share of the tile.
        """
        low, high = area
        within, inner = math.sqrt(high), self.config.augment.replace(min_area=low / high)
        thetas = []
        for index in parts:
            theta = within * random_geometry(len(index), inner, random)
            theta[:, :, 2] += (1 - within) * (2 * torch.rand(len(index), 2, generator=random) - 1)
            thetas.append(theta)
        return thetas

    def _cut_student(
        self, tiles: list[Tensor], views: list[list[Tensor]], size: int, random: torch.Generator
    ) -> Tensor:
        """(V N, 3, size, size) pixel values: RGB cropped, then as another sensor, season or sky would have it."""
        cut = []
        for thetas in views:
            crops = [resample(t.float() / 255, theta, size) for t, theta in zip(tiles, thetas, strict=True)]
            cut.append(radiometry(torch.cat(crops), self.config.augment, random))
        return self.pixels(torch.cat(cut))

    # -- losses ----------------------------------------------------------------------------------------------------

    def losses(self, model: SRDModel, batch: SRDBatch) -> StepLosses:
        """``srd`` (which cannot fall below ``entropy``, the teacher's own) and ``patch``."""
        config, count = self.config, len(batch)
        maps = [seen for view in batch.spectral for seen in self._encode(view)]
        weights, terms = {"srd": config.srd_weight, "patch": config.patch_weight}, {}
        with autocast(config.precision, batch.pixels[0].device):
            tokens = [model.vision(pixels) for pixels in batch.pixels]
            if config.srd_weight > 0:
                student = torch.cat([model.logits(views) for views in tokens]).view(-1, count, self.teacher.width)
                pooled = torch.cat([seen.mean(dim=(2, 3)) for seen in maps]).view(-1, count, self.teacher.width)
                q = teacher_distribution(pooled, model.centre, config.teacher_temperature)
                terms["srd"] = srd_loss(student, q, config.student_temperature)
                terms["entropy"] = -(q * q.clamp(min=1e-12).log()).sum(dim=-1).mean()
            if config.patch_weight > 0:  # the first views have the teacher's geometry
                shared = model.patches(tokens[0])[: count * len(batch.spectral)]
                pairs = zip(torch.split(shared, [len(seen) for seen in maps]), maps, strict=True)
                terms["patch"] = torch.cat([patch_regression(*pair, model.patch_centre) for pair in pairs]).mean()
        total = torch.stack([weight * terms[name] for name, weight in weights.items() if weight > 0]).sum()
        return StepLosses(total, terms, self._means(maps))

    def after_step(self, model: SRDModel, statistics: dict[str, Tensor]) -> None:
        """Move the centres towards what the teacher said of this step's views: mu <- m mu + (1 - m) mean z."""
        for name, mean in statistics.items():
            getattr(model, name).lerp_(mean, 1 - self.config.centre_momentum)

    @torch.no_grad()
    def _encode(self, views: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's map of each data set's tiles; with ``teacher_cache``, ``views`` are these already."""
        if self._cached is not None:
            return list(views)
        self.teacher.to(views[0].device)
        return [self.teacher.encode(view, tiles.bands) for tiles, view in zip(self.sets, views, strict=True)]

    def _encode_once(self, tiles: Tiles) -> Tensor:
        """(N, width, rows, cols) float16: the teacher's map of every whole tile."""
        log.info("%s: the teacher %s sees %d tiles once", tiles.name, self.teacher.name, len(tiles))
        parts = torch.split(torch.arange(len(tiles)), _TEACHER_BATCH)
        return torch.cat([self.teacher.encode(tiles.spectral(part), tiles.bands).half() for part in parts])

    def _means(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """(width,) each, by the centre that follows it: the mean of the maps over tiles and, with
        ``patch_centred``, over all layer-normalised tokens.
        """
        means = {"centre": torch.cat([seen.mean(dim=(2, 3)) for seen in maps]).mean(dim=0)}
        if self.config.patch_centred:
            tokens = torch.cat([normalise_tokens(seen).movedim(1, -1).flatten(0, 2) for seen in maps])
            means["patch_centre"] = tokens.mean(dim=0)
        return means

    # -- the model -------------------------------------------------------------------------------------------------

    def rates(self, model: SRDModel) -> list[tuple[nn.Module, float | None]]:
        """Backbone, head, and the maps that a loss uses."""
        config = self.config
        return [
            (model.vision.backbone, None if config.freeze_backbone else config.backbone_lr),
            (model.vision.head, config.head_lr),
            (model.to_teacher, config.head_lr if config.srd_weight > 0 else None),
            (model.patch_to_teacher, config.head_lr if config.patch_weight > 0 else None),
        ]

    @torch.no_grad()
    def validate(self, model: SRDModel, tiles: Tiles) -> dict[str, float]:
        """How well a student (the averaged one) predicts the teacher on whole, unaugmented tiles.

        Returns:
            ``kl``: mean KL(q || p) in nats, 0 at best. ``kl_constant``: what the best answer that is the same for
            every tile would get; below it, the student tells tiles apart. With the patch-wise regression also
            ``patch_cosine``, mean cosine similarity to its targets, and ``patch_constant`` likewise.
        """
        config, device, pairs = self.config, model.centre.device, []
        index = torch.arange(0, len(tiles), max(1, math.ceil(len(tiles) / _VALIDATION_TILES)))
        for part in torch.split(index, _TEACHER_BATCH):
            tokens = model.vision(self.pixels(resize(tiles.take(part), config.global_size)).to(device))
            seen = self.teacher.to(device).encode(tiles.spectral(part).to(device), tiles.bands)
            pairs.append((model.logits(tokens), seen.mean(dim=(2, 3)), model.patches(tokens), seen))
        logits, pooled, patches, maps = (torch.cat(each) for each in zip(*pairs, strict=True))
        q = teacher_distribution(pooled, model.centre, config.teacher_temperature)
        constant = q.mean(dim=0).clamp(min=1e-12).log().expand_as(q)
        answers = {"kl": F.log_softmax(logits / config.student_temperature, dim=-1), "kl_constant": constant}
        out = {name: F.kl_div(answer, q, reduction="batchmean") for name, answer in answers.items()}
        if config.patch_weight > 0:
            predicted, target = match_maps(patches, maps, model.patch_centre)
            same = F.normalize(target, dim=1).mean(dim=(0, 2, 3), keepdim=True).expand_as(target)
            out["patch_cosine"] = F.cosine_similarity(predicted, target, dim=1).mean()
            out["patch_constant"] = F.cosine_similarity(same, target, dim=1).mean()
        return {name: float(value) for name, value in out.items()}
