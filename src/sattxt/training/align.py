"""Stage 2, spectrally grounded alignment (SATtxt, section 3.2): image embeddings against frozen text embeddings.

The text encoder is run once over every prompt and caption; what is trained is the vision tower (or, with
``freeze_backbone``, its head alone as in the paper), the text head and the temperature. Two terms: real captions,
contrasted across all data sets, and class prompts, contrasted within the data set they name.

A run is a pure function of its config: step ``t`` draws its tiles, prompts and augmentation from a generator seeded
with (seed, t), so a killed run resumes to the same losses.
"""

from __future__ import annotations

import copy
import csv
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.config import VisionConfig
from sattxt.errors import InputError, SatTxtError, WeightsError
from sattxt.text_head import TextHead
from sattxt.training.augment import AugmentConfig, augment
from sattxt.training.data import Sampler, TileSet
from sattxt.training.losses import class_contrast, info_nce
from sattxt.training.optim import parameter_groups, update_average, warmup_cosine
from sattxt.vision import VisionTower


@dataclass(frozen=True)
class AlignConfig:
    """Hyper-parameters of an alignment run.

    counts: tiles a batch from each data set, in their order. sizes and size_weights: a batch's image side is drawn
    from them. caption_weight: of the caption term beside the class term. pool: captions drawn as further negatives.
    same_text: frozen cosine similarity above which two captions count as the same.
    """

    steps: int
    counts: tuple[int, ...]
    sizes: tuple[int, ...] = (64, 96, 128)
    size_weights: tuple[float, ...] = (0.35, 0.4, 0.25)
    backbone_lr: float = 6e-4
    head_lr: float = 1.2e-3
    weight_decay: float = 0.05
    warmup: int = 200
    clip_norm: float = 5.0
    caption_weight: float = 0.6
    smoothing: float = 0.05
    pool: int = 1024
    same_text: float = 0.95
    ema: float = 0.998
    initial_scale: float = 1 / 0.07
    max_scale: float = 100.0
    freeze_backbone: bool = False
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class TextBank:
    """Frozen text embeddings: pooled (T, hidden) float32 and the row of every text."""

    pooled: Tensor
    row: dict[str, int]


class AlignModel(nn.Module):
    """Everything that is trained: vision tower, text head, log temperature."""

    def __init__(self, vision: VisionConfig, text_hidden: int, initial_scale: float) -> None:
        super().__init__()
        self.vision = VisionTower(vision)
        self.text = TextHead(text_hidden, 2 * vision.head.dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial_scale)))

    def image(self, pixel_values: Tensor) -> Tensor:
        """(N, D) float32, L2-normalised."""
        return F.normalize(self.vision(pixel_values).embedding.float(), dim=-1)

    def texts(self, pooled: Tensor) -> Tensor:
        """(M, D) float32, L2-normalised."""
        return F.normalize(self.text(pooled), dim=-1)


class Aligner:
    """Trains an :class:`AlignModel` on in-memory tile sets.

    Args:
        class_prompts: for each data set, for each class, the phrasings of it (already in templates); ``None`` where a
            set has no classes.
        normalise: from (N, 3, H, W) floats in [0, 1] to pixel values.
    """

    def __init__(
        self,
        config: AlignConfig,
        model: AlignModel,
        sets: list[TileSet],
        class_prompts: list[list[list[str]] | None],
        bank: TextBank,
        normalise: Any,
    ) -> None:
        if len(config.counts) != len(sets):
            raise InputError(f"counts has {len(config.counts)} values for {len(sets)} data sets; pass one each")
        self.config, self.model, self.sets, self.bank = config, model, sets, bank
        self.ema = copy.deepcopy(model).requires_grad_(False).eval()
        self.normalise = normalise
        self.sampler = Sampler([len(s) for s in sets], config.counts, config.seed)
        self.prompt_rows = [
            None if prompts is None else [torch.tensor([bank.row[t] for t in texts]) for texts in prompts]
            for prompts in class_prompts
        ]
        self.caption_rows = [[torch.tensor([bank.row[t] for t in c]) for c in s.captions] for s in sets]
        pool = sorted({int(r) for rows in self.caption_rows for c in rows for r in c})
        self.pool_rows = torch.tensor(pool, dtype=torch.int64)
        self.unit_pooled = F.normalize(bank.pooled, dim=-1)
        groups = []
        if config.freeze_backbone:
            model.vision.backbone.requires_grad_(False)
        else:
            groups = parameter_groups([model.vision.backbone], config.backbone_lr, config.weight_decay)
        groups += parameter_groups([model.vision.head, model.text], config.head_lr, config.weight_decay)
        groups.append({"params": [model.log_scale], "lr": config.head_lr, "weight_decay": 0.0})
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        self.base_lrs = [g["lr"] for g in self.optimiser.param_groups]
        self.step = 0

    def train_step(self) -> dict[str, float]:
        """One optimiser step; its losses by name."""
        config, model = self.config, self.model
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        model.train()
        if config.freeze_backbone:
            model.vision.backbone.eval()
        scale = warmup_cosine(self.step, config.warmup, config.steps)
        for group, lr in zip(self.optimiser.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * scale
        which = int(torch.multinomial(torch.tensor(config.size_weights), 1, generator=generator))
        size, parts = config.sizes[which], self.sampler.batch(self.step)
        tiles = [augment(s.images[i], size, config.augment, generator) for s, i in zip(self.sets, parts, strict=True)]
        pixels = self.normalise(torch.cat(tiles)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(pixels.device.type, torch.bfloat16):
            image = model.image(pixels)
        logit_scale = model.log_scale.exp().clamp(max=config.max_scale)
        losses = {"class": self._class_loss(image, parts, logit_scale, generator)}
        if config.caption_weight > 0:
            losses["caption"] = self._caption_loss(image, parts, logit_scale, generator)
        total = losses["class"] + config.caption_weight * losses.get("caption", image.new_zeros(()))
        if not bool(torch.isfinite(total)):
            raise SatTxtError(f"step {self.step}: the loss is {float(total)}; lower the learning rate and resume")
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], config.clip_norm)
        self.optimiser.step()
        update_average(self.ema, model, config.ema, self.step)
        self.step += 1
        return {k: float(v.detach()) for k, v in losses.items()} | {"scale": float(logit_scale.detach())}

    def _class_loss(self, image: Tensor, parts: list[Tensor], scale: Tensor, generator: torch.Generator) -> Tensor:
        total, count, start = image.new_zeros(()), 0, 0
        for tiles, prompts, index in zip(self.sets, self.prompt_rows, parts, strict=True):
            stop = start + len(index)
            if prompts is not None:
                rows = torch.stack([_pick(texts, generator) for texts in prompts])
                classes = self.model.texts(self.bank.pooled[rows])
                loss = class_contrast(
                    image[start:stop], classes, tiles.labels[index], scale, smoothing=self.config.smoothing
                )
                total, count = total + loss * len(index), count + len(index)
            start = stop
        return total / max(count, 1)

    def _caption_loss(self, image: Tensor, parts: list[Tensor], scale: Tensor, generator: torch.Generator) -> Tensor:
        positions, rows, start = [], [], 0
        for captions, index in zip(self.caption_rows, parts, strict=True):
            for offset, tile in enumerate(index.tolist()):
                if len(captions[tile]):
                    positions.append(start + offset)
                    rows.append(_pick(captions[tile], generator))
            start += len(index)
        if len(rows) < 2:
            return image.new_zeros(())
        texts = torch.stack(rows)
        unit = self.unit_pooled[texts]
        positives = (unit @ unit.T) > self.config.same_text
        positives |= torch.eye(len(texts), dtype=torch.bool)
        extra = self.pool_rows[torch.randint(len(self.pool_rows), (self.config.pool,), generator=generator)]
        near = (self.unit_pooled[extra] @ unit.T).amax(dim=1) > self.config.same_text
        extra = extra[~near]
        embedded = self.model.texts(self.bank.pooled[torch.cat([texts, extra])])
        return info_nce(image[positions], embedded[: len(texts)], scale, positives, embedded[len(texts) :])

    @torch.no_grad()
    def calibrate_norms(self, size_cycle: tuple[int, ...], batches: int = 60) -> AlignModel:
        """A copy of the averaged weights whose BatchNorm statistics are measured over plain training batches."""
        model = copy.deepcopy(self.ema)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        if not norms:
            return model
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
            norm.train()
        generator = torch.Generator().manual_seed(1)
        for batch in range(batches):
            size = size_cycle[batch % len(size_cycle)]
            tiles = []
            for tile_set, count in zip(self.sets, self.config.counts, strict=True):
                index = torch.randint(len(tile_set), (count,), generator=generator)
                floats = tile_set.images[index].float().div_(255)
                tiles.append(F.interpolate(floats, size=size, mode="bicubic", antialias=True).clamp_(0, 1))
            pixels = self.normalise(torch.cat(tiles)).contiguous(memory_format=torch.channels_last)
            with torch.autocast(pixels.device.type, torch.bfloat16):
                model.image(pixels)
        return model.eval()

    def save(self, path: Path) -> None:
        """Write a checkpoint that :meth:`load` resumes from exactly. Replaces the file in one step."""
        state = {
            "step": self.step,
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Resume from what :meth:`save` wrote."""
        try:
            state = torch.load(path, weights_only=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise WeightsError(f"{path}: not a checkpoint of this run ({error}); start without --resume") from error
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]


class CsvLog:
    """Losses and validation figures, one row a line, appended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = time.monotonic()

    def write(self, **values: Any) -> None:
        """Append one row; the file's header is that of its first row."""
        row = {"seconds": round(time.monotonic() - self._start, 1), **values}
        new = not self._path.exists()
        with self._path.open("a", newline="") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


def _pick(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[int(torch.randint(len(rows), (1,), generator=generator))]
