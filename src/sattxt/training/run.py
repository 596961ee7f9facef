"""A whole run by a recipe: data, text bank, model, training with checkpoints, validation, export."""

from __future__ import annotations

import itertools
import json
import logging
import math
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from sattxt.config import ImageConfig, ModelConfig
from sattxt.errors import InputError
from sattxt.io import disk_errors
from sattxt.labels.prompts import BACKGROUNDS
from sattxt.training.loop import Run
from sattxt.training.objectives.align.model import AlignConfig, AlignModel, make_isometric
from sattxt.training.objectives.align.objective import AlignObjective
from sattxt.training.objectives.srd.model import SRDConfig, SRDModel
from sattxt.training.objectives.srd.objective import SRDObjective
from sattxt.training.prompts import PromptBook, PromptConfig
from sattxt.training.recipe import GalileoSource, RandomSource, Recipe, TeacherSource, part_of
from sattxt.training.records import checksum
from sattxt.training.sets import SetEntry, describe
from sattxt.training.start import find_path, fixed_seed, initialise, load_vision
from sattxt.training.teachers.base import CallableTeacher, Teacher
from sattxt.training.teachers.croma import Croma, CromaSource, CromaTeacher
from sattxt.training.teachers.dynamicworld import DynamicWorldSource, DynamicWorldTeacher
from sattxt.training.teachers.galileo import GalileoTeacher
from sattxt.training.teachers.spectralgpt import SpectralGPTTeacher
from sattxt.training.tiles import Tiles
from sattxt.training.validate import (
    caption_recall,
    fit_logit_scale,
    fit_multi_label,
    score_labelled,
)
from sattxt.training.vectors import encode_prompts, open_text_encoder
from sattxt.vision.device import resolve_device
from sattxt.weights.directory import write_model

log = logging.getLogger(__name__)

PLAIN_TEMPLATE = "a satellite image of {}"
_SAMPLE = 50_000  # texts, evenly spaced, whose vectors say where an isometric text head has its origin


class AlignRun(Run[AlignModel]):
    """Stage 2 by a recipe.

    ``out`` also gets ``texts.sqlite3`` (the frozen text vectors, computed once) and what the text encoder needs.

    Args:
        data: the folder that the recipe's paths start from.
        init: a model or a run to start from instead of the recipe's weights, see
            :func:`sattxt.training.start.initialise`.

    Raises:
        InputError, WeightsError, MissingExtraError: what the recipe asks for cannot be had; known before the first
            step.
    """

    def __init__(self, recipe: Recipe, data: str | Path, out: str | Path, *, init: str | Path | None = None) -> None:
        data, out, config = Path(data), Path(out), part_of(recipe.align, AlignConfig)
        self.recipe, self.normalise, prompting = recipe, recipe.image.normalise, part_of(recipe.align, PromptConfig)
        tower = load_vision(recipe, data)
        with _lock_folder(out):
            self.sets, validation = _open_splits(recipe.align.sets, data)
            self.validation = [tiles for tiles in validation if tiles.classes or any(tiles.captions)]
            self._plain = {tiles.name: self._plain_texts(tiles) for tiles in self.validation}
            captions = [text for tiles in self.validation for texts in tiles.captions for text in texts]
            book = PromptBook(
                prompting,
                [(recipe.align.phrases(s.name, s.classes), s.captions, s.labels) for s in self.sets],
                extras=[*itertools.chain(*self._plain.values()), *captions, *BACKGROUNDS, *recipe.align.keep_texts],
            )
            encoder, self.text_config, self._text_folder = open_text_encoder(
                recipe.text_encoder, data, out, resolve_device(None)
            )
            pooled = encode_prompts(book.prompts, encoder, out, progress=sys.stderr.isatty())
            del encoder
        with fixed_seed(config.seed):
            model = AlignModel(tower, pooled.shape[1], config.initial_scale)
        has_text_head, started = (False, None) if init is None else initialise(init, model.vision, model.text)
        if config.text_start == "isometric" and not has_text_head:
            with fixed_seed(config.seed):
                make_isometric(model.text, pooled[:: math.ceil(len(pooled) / _SAMPLE)])
        kept = self._hold_texts(book, pooled, model, has_text_head)
        still = kept is not None and config.freeze_backbone and config.freeze_head
        self._start = started if still else None
        texts = {"text_encoder": recipe.text_encoder.model_dump(), "prompts": prompting.model_dump()}
        context, counts = _context(recipe, recipe.align.sets, texts), [entry.count for entry in recipe.align.sets]
        if kept is not None:
            context["kept texts"] = f"checksum {checksum(dict(zip(('vectors', 'at'), kept, strict=True))):08x}"
        self.aligner = AlignObjective(config, self.sets, counts, book, pooled, self.normalise, context, kept)
        super().__init__(self.aligner, model, out)

    def measure(self, model: AlignModel, limit: int = 1000) -> dict[str, float]:
        """On up to ``limit`` tiles a set: zero-shot top-1, one template, under the set's name; and caption recall."""
        size, figures = self.recipe.image.size, {}
        model = self.aligner.calibrate_norms(model, size, batches=20)
        for tiles in self.validation:
            if tiles.classes:
                plain = self._vectors(self._plain[tiles.name])
                scores, truth = score_labelled(model, tiles, plain, self.normalise, size, limit)
                figures[tiles.name] = 100 * float((scores.argmax(dim=1) == truth).float().mean())
            if any(tiles.captions):
                recall = caption_recall(model, tiles, self._vectors, self.normalise, size, limit)
                figures.update({f"{tiles.name}_{key}": value for key, value in recall.items()})
        return {name: round(value, 2) for name, value in figures.items()}

    def export(
        self, out: Path, *, norm_batches: int = 100, licence: str = "Apache-2.0", overwrite: bool = False
    ) -> Path:
        """Write the averaged weights as a model directory: norms re-estimated, calibrated on the validation splits.

        Where the image side is frozen and ``keep_texts`` holds the text head, calibration and what tells whether a
        label fits (``fit.safetensors``) are those of the start: a few tiles of one's own would say less.

        Args:
            norm_batches: batches that BatchNorm statistics are measured over; 0 keeps those of training.

        Raises:
            InputError: something is at ``out`` already.
        """
        size, scored = self.recipe.image.size, list[tuple[Tensor, Tensor, Tensor]]()
        model = self.aligner.calibrate_norms(self.average, size, batches=norm_batches)
        for tiles in self.validation if self._start is None else ():
            if tiles.classes:
                texts = self._vectors([*self._plain[tiles.name], *BACKGROUNDS])
                scores, truth = score_labelled(model, tiles, texts, self.normalise, size)
                scored.append((scores[:, : len(tiles.classes)], scores[:, len(tiles.classes) :], truth))
        vision, logit_scale, scale, bias = model.vision.config, float(model.log_scale.detach().exp()), None, None
        source, fit = "trained", dict[str, Tensor]()
        if self._start is not None:
            start = self._start.config
            logit_scale, source = start.logit_scale, start.logit_scale_source
            scale, bias, fit = start.multi_label_scale, start.multi_label_bias, self._start.fit
        elif scored:
            logit_scale, source = fit_logit_scale(scored), "fitted on the validation splits"
            scale, bias = fit_multi_label(scored, logit_scale)
        else:
            log.warning("no validation split has classes: the temperature is the trained one, not a calibrated one")
        config = ModelConfig(
            name=self.recipe.name,
            embed_dim=2 * vision.head.dim,
            image=ImageConfig(**dict(self.recipe.image)),
            vision=vision,
            text=self.text_config,
            logit_scale=round(logit_scale, 2),
            logit_scale_source=source,
            backgrounds=BACKGROUNDS,
            multi_label_scale=scale,
            multi_label_bias=bias,
            licence=licence,
        )
        # What is stored is what is loaded: weights rounded to float16 once, here.
        tower, head = (half_precision(part.state_dict()) for part in (model.vision, model.text))
        return write_model(out, config, tower, head, self._text_folder, fit=fit, overwrite=overwrite)

    def _hold_texts(
        self, book: PromptBook, pooled: Tensor, model: AlignModel, has_text_head: bool
    ) -> tuple[Tensor, Tensor] | None:
        """The vectors of ``keep_texts`` and the embeddings that ``model`` starts with."""
        texts = self.recipe.align.keep_texts
        if not texts:
            return None
        if not has_text_head:
            raise InputError("align.keep_texts: nothing to keep; pass --init (init=), a model with a text head")
        vectors = pooled[[book.row[text] for text in texts]]
        with torch.no_grad():
            return vectors, model.texts(vectors)

    def _plain_texts(self, tiles: Tiles) -> list[str]:
        """One text a class, of its first phrase."""
        return [PLAIN_TEMPLATE.format(phrases[0]) for phrases in self.recipe.align.phrases(tiles.name, tiles.classes)]

    def _vectors(self, texts: list[str]) -> Tensor:
        return self.aligner.pooled[[self.aligner.book.row[text] for text in texts]]


class SRDRun(Run[SRDModel]):
    """Stage 1 by a recipe. Its folder is what stage 2 starts from (``AlignRun(..., init=out)``).

    Args:
        data: the folder that the recipe's paths start from.
        init: a model or a run whose vision tower to start from instead of the recipe's backbone and a random head.

    Raises:
        InputError, WeightsError, MissingExtraError: what the recipe asks for cannot be had (a band, a teacher, a file);
            known before the first step.
    """

    def __init__(self, recipe: Recipe, data: str | Path, out: str | Path, *, init: str | Path | None = None) -> None:
        data, out = Path(data), Path(out)
        if recipe.srd is None:
            raise InputError(f"{recipe.name}: the recipe has no stage 1; give it a block srd with teacher and pairs")
        self.recipe, config = recipe, part_of(recipe.srd, SRDConfig)
        with _lock_folder(out):
            teacher = start_teacher(recipe.srd.teacher, data, seed=recipe.align.seed)
            self.sets, self.validation = _open_splits(recipe.srd.pairs, data)
        tower = load_vision(recipe, data, seed=config.seed)
        if init is not None:
            initialise(init, tower)
        with fixed_seed(config.seed):
            model = SRDModel(tower, teacher.width)
        context, counts = _context(recipe, recipe.srd.pairs, {}), [entry.count for entry in recipe.srd.pairs]
        self.distiller = SRDObjective(config, model, teacher, self.sets, counts, recipe.image.normalise, context)
        super().__init__(self.distiller, model, out)

    def measure(self, model: SRDModel) -> dict[str, float]:
        """The distiller's figures on each validation split, under the set's name."""
        figures = {tiles.name: self.distiller.validate(model, tiles) for tiles in self.validation}
        return {f"{name}_{key}": round(value, 4) for name, found in figures.items() for key, value in found.items()}


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
    if isinstance(source, CromaSource):
        return CromaTeacher(Croma.from_checkpoint(path), **options)
    if isinstance(source, DynamicWorldSource):
        return DynamicWorldTeacher.from_folder(path)
    return SpectralGPTTeacher.from_checkpoint(path, **options)


@contextmanager
def _lock_folder(out: Path) -> Iterator[None]:
    """Ranks that start together prepare the folder one after the other; the first one does the work."""
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):
        yield


def half_precision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels as float16, half the bytes; vectors (norms, biases, statistics) as they are."""
    return {k: v.half() if v.is_floating_point() and v.ndim >= 2 else v for k, v in state.items()}


def _open_splits(entries: Sequence[SetEntry], data: Path) -> tuple[list[Tiles], list[Tiles]]:
    """The train splits, and the validation splits there are; the log names a set without one."""
    train, validation = [], []
    for entry in entries:
        train.append(entry.open(data, "train"))
        log.info("train: %s", describe(train[-1]))
        try:
            validation.append(entry.open(data, "val"))
            log.info("val: %s", describe(validation[-1]))
        except InputError as error:
            log.warning("%s has no validation split (%s)", entry.name, error)
    return train, validation


def _context(recipe: Recipe, entries: Sequence[SetEntry], further: Mapping[str, Any]) -> dict[str, str]:
    """What of a recipe decides what a run learns, beside the stage's own settings and the weights it starts from.

    ``count`` is among those settings; ``memory`` changes nothing; ``image.size`` is that of validation and of the
    exported model, ``image.window`` that of its segmentation. Every value is text, which any checkpoint can hold.
    """
    parts = {"image": recipe.image.model_dump(exclude={"size", "window"}), **further}
    found = {key: json.dumps(value, sort_keys=True) for key, value in parts.items()}
    for entry in entries:
        kept = entry.model_dump(exclude_unset=True, exclude_none=True, exclude={"count", "dataset", "memory"})
        phrases = recipe.align.vocabulary.get(kept.get("vocabulary", ""))
        if phrases is not None:
            kept["phrases"] = f"checksum {zlib.crc32(json.dumps(phrases, sort_keys=True).encode()):08x}"
        found[f"set {entry.name}"] = json.dumps(kept, sort_keys=True)
    return found
