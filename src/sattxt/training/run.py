"""A whole alignment run by a recipe: data, text bank, training with checkpoints, validation, export."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sattxt.cache import TextCache
from sattxt.config import ImageConfig, TextEncoderConfig
from sattxt.errors import InputError, WeightsError
from sattxt.prompts import BACKGROUNDS
from sattxt.sentence import SentenceEncoder, export_sentence_encoder
from sattxt.training.align import Aligner, AlignModel, CsvLog, TextBank
from sattxt.training.data import TileSet, read_captions, read_zip, unique_texts
from sattxt.training.export import export_model, score_sets
from sattxt.training.fields import draw_fields
from sattxt.training.recipe import Recipe
from sattxt.training.spectral import read_s2_tiles

FloatArray = NDArray[np.float32]

log = logging.getLogger(__name__)

PLAIN_TEMPLATE = "a satellite image of {}"


def load_sets(recipe: Recipe, data: Path, split: str) -> list[TileSet]:
    """The recipe's tile sets of one split, in memory."""
    sets = []
    for entry in recipe.sets:
        if entry["kind"] == "fields":
            if split == "train":
                sets.append(draw_fields(entry["tiles"], name=entry["name"]))
            continue
        if entry["kind"] == "s2":
            sets.append(read_s2_tiles(data / entry["path"], split, name=entry["name"]))
            continue
        captions = read_captions(data / entry["captions"]) if entry.get("captions") else None
        tiles = read_zip(data / entry["path"], split, entry["size"], name=entry["name"], captions=captions)
        missing = sorted(set(tiles.classes) - set(recipe.vocabulary[entry["vocabulary"]]))
        if missing:
            raise InputError(f"vocabulary {entry['vocabulary']!r} has no phrases for class {missing[0]!r}")
        sets.append(tiles)
        log.info("%s %s: %d tiles, %d skipped", entry["name"], split, len(tiles), len(tiles.skipped))
    return sets


def class_prompts(recipe: Recipe, sets: list[TileSet]) -> list[list[list[str]] | None]:
    """For each set and class, every phrase in every template."""
    prompts: list[list[list[str]] | None] = []
    for entry, tiles in zip(recipe.sets, sets, strict=True):
        if not tiles.classes:
            prompts.append(None)
            continue
        vocabulary = recipe.vocabulary[entry["vocabulary"]]
        prompts.append([[t.format(p) for p in vocabulary[c] for t in recipe.templates] for c in tiles.classes])
    return prompts


def text_bank(texts: list[str], encoder: SentenceEncoder, cache: TextCache) -> TextBank:
    """Frozen embeddings of ``texts``, from the cache where they are, computed and cached where not."""
    space = encoder.fingerprint()
    missing = cache.missing(space, texts)
    if missing:
        log.info("encoding %d of %d texts", len(missing), len(texts))
        encoder.encode(missing, on_batch=lambda batch, vectors: _keep(cache, space, batch, vectors))
    found = cache.get_many(space, texts)
    pooled = np.stack([found[t] for t in texts]).astype(np.float32)
    return TextBank(torch.from_numpy(pooled), {t: i for i, t in enumerate(texts)})


def _keep(cache: TextCache, space: str, texts: list[str], vectors: FloatArray) -> None:
    cache.put_many(space, texts, vectors)


def load_backbone(backbone: nn.Module, folder: Path) -> None:
    """Pretrained weights from a transformers ``MobileNetV1Model`` folder. What the folder lacks keeps its random
    start and is logged; a wrong shape or an unknown tensor is an error.
    """
    from safetensors.torch import load_file

    state = {k: v.float() if v.is_floating_point() else v for k, v in load_file(folder / "model.safetensors").items()}
    missing, unexpected = backbone.load_state_dict(state, strict=False)
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    if unexpected or len(missing) > 1:
        raise WeightsError(f"{folder}: not this backbone's weights (missing {missing[:3]}, unknown {unexpected[:3]})")
    if missing:
        log.warning("%s: %s is not in the checkpoint and starts random", folder, missing[0])


def normaliser(image: ImageConfig) -> Callable[[Tensor], Tensor]:
    """From (N, 3, H, W) in [0, 1] to pixel values."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (image.mean, image.std))
    factor = 255 * image.rescale
    return lambda x: (x * factor - mean) / std


@torch.no_grad()
def zero_shot_accuracy(
    model: AlignModel, tiles: TileSet, pooled: Tensor, normalise: Callable[[Tensor], Tensor], size: int, limit: int
) -> float:
    """Top-1 accuracy in percent over at most ``limit`` evenly spaced tiles; ``pooled``: one text a class."""
    classes = model.texts(pooled)
    index = torch.arange(0, len(tiles), max(1, len(tiles) // limit))
    correct = 0
    for part in torch.split(index, 128):
        x = tiles.images[part].float() / 255
        if x.shape[-1] != size:
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True).clamp_(0, 1)
        x = normalise(x).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16):
            image = model.image(x)
        correct += int(((image @ classes.T).argmax(1) == tiles.labels[part]).sum())
    return 100 * correct / len(index)


class AlignRun:
    """Stage 2 by a recipe. Everything it writes goes to ``out``: the packed text encoder, ``texts.sqlite3`` (the frozen
    embeddings), ``last.pt`` (to resume from), ``losses.csv`` and ``validation.csv``.
    """

    def __init__(self, recipe: Recipe, data: Path, out: Path) -> None:
        self.recipe, self.data, self.out = recipe, data, out
        out.mkdir(parents=True, exist_ok=True)
        self.text_dir = out / "text_encoder"
        digest = export_sentence_encoder(recipe.text_encoder_source(), self.text_dir)
        self.text_config = TextEncoderConfig(
            kind="sentence",
            hidden_size=384,
            weights_sha256=digest,
            max_length=recipe.text_encoder.get("max_length", 128),
        )
        self.sets = load_sets(recipe, data, "train")
        self.validation = [s for s in load_sets(recipe, data, "val") if s.classes]
        prompts = class_prompts(recipe, self.sets)
        vocabulary = {e["name"]: recipe.vocabulary[e["vocabulary"]] for e in recipe.sets if "vocabulary" in e}
        plain = {s.name: [PLAIN_TEMPLATE.format(vocabulary[s.name][c][0]) for c in s.classes] for s in self.validation}
        texts = unique_texts(
            [
                *(t for p in prompts if p for t in p),
                *(c for s in self.sets for c in s.captions),
                *plain.values(),
                BACKGROUNDS,
            ]
        )
        encoder = SentenceEncoder(self.text_config, self.text_dir)
        self.bank = text_bank(texts, encoder, TextCache(out / "texts.sqlite3"))
        self.plain = [self._pooled(plain[s.name]) for s in self.validation]
        torch.manual_seed(recipe.align.seed)
        model = AlignModel(recipe.vision, self.bank.pooled.shape[1], recipe.align.initial_scale)
        model.vision.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        load_backbone(model.vision.backbone, data / recipe.backbone["path"])
        self.normalise = normaliser(recipe.image)
        self.aligner = Aligner(recipe.align, model, self.sets, prompts, self.bank, self.normalise)

    @property
    def checkpoint(self) -> Path:
        """What :meth:`train` resumes from."""
        return self.out / "last.pt"

    def resume(self) -> int:
        """Go on from the checkpoint; returns its step.

        Raises:
            InputError: there is none. WeightsError: it is another run's.
        """
        if not self.checkpoint.is_file():
            raise InputError(f"{self.checkpoint}: no checkpoint to resume from; start without --resume")
        self.aligner.load(self.checkpoint)
        return self.aligner.step

    def train(
        self,
        *,
        checkpoint_every: int = 200,
        validate_every: int = 500,
        progress: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        """Train to the recipe's last step."""
        losses_log, validation_log = CsvLog(self.out / "losses.csv"), CsvLog(self.out / "validation.csv")
        last, every = self.recipe.align.steps, 20
        sums: dict[str, float] = {}
        while self.aligner.step < last:
            for key, value in self.aligner.train_step().items():
                sums[key] = sums.get(key, 0.0) + value
            step = self.aligner.step
            if step % every == 0:
                means = {k: round(v / every, 4) for k, v in sums.items()}
                losses_log.write(step=step, **means)
                sums = {}
                if progress:
                    progress(step, means)
            if step % checkpoint_every == 0 or step == last:
                self.aligner.save(self.checkpoint)
            if step % validate_every == 0 or step == last:
                figures = self.validate()
                validation_log.write(step=step, **figures)
                log.info("step %d: %s", step, figures)

    def validate(self, limit: int = 1000) -> dict[str, float]:
        """Zero-shot top-1 in percent on up to ``limit`` validation tiles a set, own names, one template."""
        size = self.recipe.image.size
        averaged = self.aligner.calibrate_norms((size,), batches=20)
        return {
            tiles.name: round(zero_shot_accuracy(averaged, tiles, pooled, self.normalise, size, limit), 2)
            for tiles, pooled in zip(self.validation, self.plain, strict=True)
        }

    def export(self, out: Path, *, licence: str = "Apache-2.0", overwrite: bool = False) -> Path:
        """Write the averaged weights as a model directory: norms re-estimated, calibrated on the validation splits."""
        image = self.recipe.image
        model = self.aligner.calibrate_norms((image.size,), batches=100)
        scored = score_sets(
            model, self.validation, self.plain, self._pooled(list(BACKGROUNDS)), self.normalise, image.size
        )
        return export_model(
            model,
            out,
            name=self.recipe.name,
            vision=self.recipe.vision,
            image=image,
            text=self.text_config,
            text_encoder_dir=self.text_dir,
            scored=scored,
            licence=licence,
            overwrite=overwrite,
        )

    def _pooled(self, texts: list[str]) -> Tensor:
        return self.bank.pooled[[self.bank.row[t] for t in texts]]
