"""Stage 1, spectral representation distillation (SATtxt, section 3.1): an RGB student learns what a frozen
multispectral teacher sees in bands that the student never gets.

For the teacher, full-resolution views of all bands; for the student, global views of the same ground and local ones
(multi-crop). Geometry is drawn once for both, radiometry changes RGB only. The vision tower that comes out
(``distiller.ema.vision``) starts stage 2; the linear maps onto the teacher's width are left behind.

A run is a pure function of its config: step ``t`` draws its tiles and views from a generator seeded with (seed, t), so
a killed run resumes to the same losses.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.errors import InputError, SatTxtError, WeightsError
from sattxt.training.data import Sampler
from sattxt.training.optim import parameter_groups, update_average, warmup_cosine
from sattxt.training.pairs import PairSet
from sattxt.training.srd_config import SRDConfig
from sattxt.training.srd_loss import (
    layer_normalised,
    matched_maps,
    patch_regression,
    srd_loss,
    teacher_distribution,
)
from sattxt.training.srd_model import SRDModel
from sattxt.training.srd_views import ms_view, rgb_view, view_geometry
from sattxt.training.teachers.base import Teacher
from sattxt.weights.files import disk_errors

__all__ = ["SRDConfig", "SRDModel", "SpectralDistiller"]

_BACKBONE = "vision.backbone."


class SpectralDistiller:
    """Trains an :class:`SRDModel` on in-memory pairs of RGB and multispectral tiles.

    Args:
        normalise: from (N, 3, H, W) floats in [0, 1] to the student's pixel values.

    Raises:
        InputError: the parts do not fit together; a data set lacks bands that the teacher needs; ``patch_weight`` asks
            for patch tokens that the teacher does not give.
    """

    def __init__(
        self,
        config: SRDConfig,
        model: SRDModel,
        teacher: Teacher,
        sets: list[PairSet],
        normalise: Callable[[Tensor], Tensor],
    ) -> None:
        if len(config.counts) != len(sets):
            raise InputError(f"counts has {len(config.counts)} values for {len(sets)} data sets; pass one each")
        if config.patch_weight and model.patch_to_teacher is None:
            raise InputError("patch_weight is above 0, but the model has no patch map; make it with patches=True")
        if model.to_teacher.out_features != teacher.width:
            raise InputError(
                f"the model maps onto width {model.to_teacher.out_features}, {teacher.name} has {teacher.width}; "
                "make it with teacher_width=teacher.width"
            )
        for tiles in sets:
            teacher.check(tiles.bands, tiles.name)
        self.config, self.model, self.teacher, self.sets, self.normalise = config, model, teacher, sets, normalise
        model.centre.momentum = model.patch_centre.momentum = config.centre_momentum
        self.sampler = Sampler([len(s) for s in sets], config.counts, config.seed)
        heads = [m for m in (model.vision.head, model.to_teacher, model.patch_to_teacher) if m is not None]
        groups = parameter_groups(heads, config.head_lr, config.weight_decay)
        shared: dict[int, Any] = {}
        if config.freeze_backbone:
            model.vision.backbone.requires_grad_(False)
            shared[id(model.vision.backbone)] = model.vision.backbone  # one copy in memory: it never changes
        else:
            groups += parameter_groups([model.vision.backbone], config.backbone_lr, config.weight_decay)
        self._look_ahead()
        self.ema = copy.deepcopy(model, shared)
        self.ema.requires_grad_(False).eval()
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        self.base_lrs = [group["lr"] for group in self.optimiser.param_groups]
        self.step = 0

    def train_step(self) -> dict[str, float]:
        """One optimiser step; its losses by name (``srd`` down to ``entropy`` is all that can be learnt, ``patch``).

        Raises:
            SatTxtError: the loss is NaN or infinite; the message names the tiles.
        """
        config, model = self.config, self.model
        model.train()
        if config.freeze_backbone:
            model.vision.backbone.eval()
        scale = warmup_cosine(self.step, config.warmup, config.steps)
        for group, lr in zip(self.optimiser.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * scale
        losses, pooled, maps = self._losses()
        total = self.total(losses)
        if not bool(torch.isfinite(total)):
            raise SatTxtError(
                f"step {self.step}: the loss is {float(total.detach())} on {self._describe_batch()}; look at these "
                "tiles, or lower the learning rate, and resume"
            )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], config.clip_norm)
        self.optimiser.step()
        model.centre.update(pooled)
        if maps:
            model.patch_centre.update(_all_tokens(maps))
        update_average(self.ema, model, config.ema, self.step)
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""
        weights = {"srd": self.config.srd_weight, "patch": self.config.patch_weight}
        return torch.stack([weight * losses[name] for name, weight in weights.items() if weight > 0]).sum()

    def _losses(self) -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
        """The losses of this step's batch, the teacher's pooled outputs (U, N, width) and its patch maps."""
        config, model = self.config, self.model
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        parts = self.sampler.batch(self.step)
        wide = [view_geometry(parts, config.global_area, config.augment, generator) for _ in range(config.global_views)]
        narrow = [view_geometry(parts, config.local_area, config.augment, generator) for _ in range(config.local_views)]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits, patches = self._student(parts, wide, config.global_size, generator)
            if narrow:
                local, _ = self._student(parts, narrow, config.local_size, generator)
                logits = torch.cat([logits, local])
        seen = [self._teacher(parts, thetas) for thetas in wide[: config.ms_views]]
        pooled = torch.stack([view for view, _ in seen])
        losses: dict[str, Tensor] = {}
        if config.srd_weight > 0:
            tau_s, tau_t, centre = config.student_temperature, config.teacher_temperature, model.centre.value
            losses["srd"] = srd_loss(logits, pooled, centre, student_temperature=tau_s, teacher_temperature=tau_t)
            q = teacher_distribution(pooled, centre, tau_t)
            losses["entropy"] = -(q * q.clamp(min=1e-12).log()).sum(dim=-1).mean()
        if config.patch_weight > 0 and patches is not None:
            losses["patch"] = self._patch_loss(patches, [maps for _, maps in seen])
        return losses, pooled, [m for _, maps in seen for m in maps]

    def _patch_loss(self, predicted: Tensor, teacher: list[list[Tensor]]) -> Tensor:
        """predicted: (V, N, width, rows, cols). teacher: for each view, the maps of each data set."""
        kind, centre = self.config.patch_loss, self._patch_centre(self.model)
        total, count = predicted.new_zeros(()), 0
        for view, maps in zip(predicted, teacher, strict=False):  # the first views have the teacher's geometry
            start = 0
            for target in maps:
                stop = start + len(target)
                total = total + patch_regression(view[start:stop], target, kind, centre) * len(target)
                count, start = count + len(target), stop
        return total / count

    def _student(
        self, parts: list[Tensor], views: list[list[Tensor]], size: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """(V, N, width) logits and (V, N, width, rows, cols) patch predictions of RGB views."""
        augment = self.config.augment
        stack = [rgb_view(self.sets, parts, thetas, size, augment, generator) for thetas in views]
        pixels = self.normalise(torch.cat(stack)).to(self._device).contiguous(memory_format=torch.channels_last)
        logits, patches = self.model(pixels)
        logits = logits.view(len(views), -1, logits.shape[1])
        return logits, None if patches is None else patches.view(len(views), -1, *patches.shape[1:])

    def _teacher(self, parts: list[Tensor], thetas: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(N, width) pooled outputs, and each data set's patch map where there are any, of one multispectral view."""
        pooled, maps = [], []
        for tiles, view in zip(self.sets, ms_view(self.sets, parts, thetas), strict=True):
            seen = self.teacher.encode(view, tiles.bands)
            pooled.append(seen.pooled.float().to(self._device))
            if seen.patches is not None:
                maps.append(seen.patches.float().to(self._device))
        return torch.cat(pooled), maps

    def _look_ahead(self) -> None:
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
        if self.config.centre_start == "first_batch":
            self.model.centre.start(torch.cat(pooled))
            if maps:
                self.model.patch_centre.start(_all_tokens(maps))

    def _patch_centre(self, model: SRDModel) -> Tensor | None:
        return model.patch_centre.value if self.config.patch_centred else None

    @property
    def _device(self) -> torch.device:
        return self.model.centre.value.device

    def _describe_batch(self) -> str:
        named = zip(self.sets, self.sampler.batch(self.step), strict=True)
        return ", ".join(f"{s.name} ({', '.join(s.keys[i] for i in index[:3].tolist())}, …)" for s, index in named)

    @torch.no_grad()
    def validate(self, tiles: PairSet, *, limit: int = 256) -> dict[str, float]:
        """How well the averaged student predicts the teacher on whole, unaugmented tiles.

        Returns:
            ``kl``: mean KL(q || p) in nats, 0 at best. ``kl_constant``: what the best answer that is the same for
            every tile would get; below it, the student tells tiles apart. With the patch-wise regression also
            ``patch_cosine``, mean cosine similarity to its targets, and ``patch_constant`` likewise.
        """
        config, model = self.config, self.ema
        index = torch.arange(0, len(tiles), max(1, math.ceil(len(tiles) / limit)))
        size = (config.global_size, config.global_size)
        logits, pooled, predicted, targets = [], [], [], []
        for part in torch.split(index, 64):
            images = tiles.images[part].to(torch.float32).div_(255)
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
            answer, patches = model(self.normalise(images).to(self._device))
            seen = self.teacher.encode(tiles.spectral(part), tiles.bands)
            logits.append(answer)
            pooled.append(seen.pooled.float().to(self._device))
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

    def save(self, path: Path) -> None:
        """Write a checkpoint that :meth:`load` resumes from exactly. Replaces the file in one step.

        A frozen backbone is left out: it is as it came.

        Raises:
            DiskFullError: no space is left; the checkpoint that was there before is kept.
        """
        state = {
            "step": self.step,
            "teacher": self.teacher.name,
            "config": asdict(self.config),
            "model": self._trained(self.model),
            "ema": self._trained(self.ema),
            "optimiser": self.optimiser.state_dict(),
        }
        temporary = path.with_name(path.name + ".tmp")
        try:
            with disk_errors(path):
                torch.save(state, temporary)
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, path: Path) -> None:
        """Resume from what :meth:`save` wrote. Only ``steps`` may differ from the run that wrote it.

        Raises:
            WeightsError: the file is missing, damaged, or of another run.
        """
        try:
            state = torch.load(path, weights_only=True, map_location=self._device)
            written, here = state["config"], asdict(self.config)
            differ = [key for key in here if key != "steps" and written.get(key) != here[key]]
            if differ:
                key = differ[0]
                raise WeightsError(f"{path}: was written with {key}={written.get(key)!r}, this run has {here[key]!r}")
            if state["teacher"] != self.teacher.name:
                raise WeightsError(
                    f"{path}: was written with the teacher {state['teacher']}, this run has {self.teacher.name}"
                )
            for model, name in ((self.model, "model"), (self.ema, "ema")):
                model.load_state_dict({**model.state_dict(), **state[name]})
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]
        except SatTxtError:
            raise
        except Exception as error:  # torch.load raises many kinds for a damaged file
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise WeightsError(f"{path}: not a checkpoint of this run ({line}); start without resuming") from error

    def _trained(self, model: SRDModel) -> dict[str, Tensor]:
        frozen = self.config.freeze_backbone
        return {k: v for k, v in model.state_dict().items() if not (frozen and k.startswith(_BACKBONE))}


def _all_tokens(maps: list[Tensor]) -> Tensor:
    """Every layer-normalised token of (N, width, rows, cols) maps: (tokens, width)."""
    return torch.cat([layer_normalised(m).movedim(1, -1).flatten(0, 2) for m in maps])
