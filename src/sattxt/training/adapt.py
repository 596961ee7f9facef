"""A model's normalisation statistics measured anew over tiles of one's own, no label needed.

Adaptive batch normalisation (Li et al. 2016, arXiv 1603.04779): what a new sensor changes most is the mean and variance
of the activations, so each BatchNorm layer takes those of the new tiles; no weight changes. On tiles like those of
training it can do harm: the weights were fitted to the statistics of all training sets together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sattxt.config import ModelConfig
from sattxt.data.archive import is_image, open_store
from sattxt.data.dataset import Sample, Samples, split_name, split_of
from sattxt.data.registry import open_data
from sattxt.errors import InputError
from sattxt.images.load import Failure, LoadedBatch, stream
from sattxt.images.options import ImageOptions
from sattxt.images.preprocess import Preprocessor, check_shape
from sattxt.training.objectives.base import generator
from sattxt.training.optim import measure_norms
from sattxt.vision.device import resolve_device
from sattxt.vision.tower import VisionTower, load_tower
from sattxt.weights.card import model_card
from sattxt.weights.checksums import read_sums
from sattxt.weights.directory import VISION_FILE, StoredModel, check_target, read_model, write_model
from sattxt.weights.resolver import resolve

log = logging.getLogger(__name__)

#: Fewer tiles say too little of a data set's mean and variance.
FEWEST_TILES = 32
#: Input sides below this leave the last layers nothing but padding to measure.
SMALLEST_SIZE = 32
KINDS = ("images", "s2")
_BATCH = 64


@dataclass(frozen=True)
class Adapted:
    """What :func:`adapt_norms` did. path: the new model directory. tiles: how many were measured.
    skipped: name and reason of each tile that could not be read.
    """

    path: Path
    tiles: int
    skipped: list[tuple[str, str]]


def adapt_norms(
    model: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    limit: int = 2000,
    split: str | None = None,
    kind: str = "images",
    size: int | None = None,
    options: ImageOptions | None = None,
    device: str | torch.device | None = None,
    overwrite: bool = False,
) -> Adapted:
    """Write a copy of a model whose BatchNorm statistics are those of unlabelled tiles.

    The tiles go through the model's own preprocessing, in a fixed random order, so that each batch is a mixture of
    them; a layer's statistics are the means over all batches, each counted by its tiles (within-batch variances, as in
    training). Weights, text side and calibration stay what they are.

    Args:
        model: what ``from_pretrained`` opens: a name, a model directory, a hub id.
        images: a folder, zip or tar of image files, with further folders inside or without.
        out: the model directory to write; the model is called ``{name}-adapted``.
        limit: at most this many tiles, evenly spaced over their sorted names.
        split: only the images below a folder of this name (``train``, ``val``, ...); default: all of them.
        kind: ``images``, or ``s2``: two-page Sentinel-2 TIFFs in a zip, whose split is ``train`` by default.
        size: input side in pixels to measure at, and of the new model; default: the model's own.
        options: how to read image files that are not plain 8-bit RGB.
        device: default: CUDA where there is one.
        overwrite: replace a model directory that lies at ``out``.

    Raises:
        InputError: the model has no BatchNorm; fewer than 32 tiles can be read, or all are of one colour; an argument
            has no meaning; something is at ``out`` already.
        UnknownModelError, WeightsError: the model cannot be had, or is damaged.
        MissingExtraError: a package to read the tiles is not installed.
    """
    if limit < FEWEST_TILES:
        raise InputError(f"limit={limit}: pass {FEWEST_TILES} or more; fewer tiles say too little")
    if size is not None and size < SMALLEST_SIZE:
        raise InputError(f"size={size}: pass {SMALLEST_SIZE} or more")
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}: pass {' or '.join(map(repr, KINDS))}")
    if kind == "s2" and options is not None:
        raise InputError("kind='s2': how its tiles are read is fixed; leave the reading options out")
    check_target(Path(out), overwrite=overwrite)
    stored = read_model(resolve(model))
    config = stored.config
    if size is not None:
        config = replace(config, image=replace(config.image, size=size))
    tower = load_tower(config.vision, stored.vision, stored.path / VISION_FILE)
    if not any(isinstance(module, _BatchNorm) for module in tower.modules()):
        raise InputError(
            f"{config.name}: its {config.vision.backbone.model_type} backbone has no BatchNorm, so there are no "
            "statistics to adapt; only models with a convolutional backbone such as mobilenet_v1 have them"
        )
    source = Path(images)
    samples = open_data(source, "s2").split(split or "train") if kind == "s2" else _read_images(source, split, options)
    count = len(samples)
    chosen = [count * i // limit for i in range(limit)] if count > limit else list(range(count))
    order = [chosen[i] for i in torch.randperm(len(chosen), generator=generator(0)).tolist()]

    def load(index: int, name: str) -> NDArray[Any]:
        image = samples.image(index)
        check_shape(image, name)
        return image

    failures: list[Failure] = []
    loaded = stream(
        order,
        load,
        batch_size=math.ceil(len(order) / math.ceil(len(order) / _BATCH)),
        failures=failures,
        name_of=lambda i, _: samples.samples[i].id,
    )
    with closing(loaded):
        measured = _measure(tower, Preprocessor(config.image), loaded, resolve_device(device), str(source))
    skipped = [(each.source, each.error.removeprefix(f"{each.source}: ")) for each in failures]
    if skipped:
        total = measured + len(skipped)
        log.warning("%s: %d of %d tiles cannot be read, first %s (%s)", source, len(skipped), total, *skipped[0])
    if measured < FEWEST_TILES:
        why = f", first {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise InputError(
            f"{source}: {measured} tiles can be read, {len(skipped)} cannot{why}; pass at least {FEWEST_TILES} tiles"
        )
    config = replace(config, name=f"{config.name}-adapted")
    where = f"`{source.name}`" + (f", {split or 'train'} split" if split or kind == "s2" else "")
    path = write_model(
        out,
        config,
        {key: _shrink(value.cpu()) for key, value in tower.state_dict().items()},
        {key: _shrink(value) for key, value in stored.text_head.items()},
        stored.text_encoder_dir,
        model_card(config) + _note(stored, config, where, measured, len(skipped)),
        overwrite=overwrite,
    )
    return Adapted(path, measured, skipped)


def _read_images(source: Path, split: str | None, options: ImageOptions | None) -> Samples:
    """All image files, whatever folders they lie in."""
    store = open_store(source)
    every = [name for name in store.names() if is_image(name)]
    if not every:
        raise InputError(f"{source}: holds no image")
    names = every if split is None else [name for name in every if split_of(name) == split_name(split)]
    if not names:
        there = sorted({split_of(name) for name in every} - {""})
        raise InputError(f"{source}: no image lies below a folder {split!r}; it has {', '.join(there) or 'no splits'}")
    return Samples(
        source.name, split or "", store, tuple(Sample((name,)) for name in names), options=options or ImageOptions()
    )


def _measure(
    tower: VisionTower, preprocess: Preprocessor, loaded: Iterator[LoadedBatch], device: torch.device, source: str
) -> int:
    """Run the tiles through the tower, whose BatchNorms take their statistics; returns how many there were."""
    tower.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    low, high = float("inf"), -float("inf")

    def batches() -> Iterator[Tensor]:
        nonlocal low, high
        for batch in loaded:
            if len(batch) < 2:  # one tile alone may have no variance
                continue
            pixels = preprocess.batch(batch.images)
            low, high = min(low, float(pixels.amin())), max(high, float(pixels.amax()))
            yield pixels.to(device).contiguous(memory_format=torch.channels_last)

    seen = measure_norms(tower, batches(), tower)
    if seen >= FEWEST_TILES and low == high:
        raise InputError(f"{source}: all {seen} tiles are of one colour; there is no variance to measure")
    return seen


def _shrink(value: Tensor) -> Tensor:
    """As float16 where that changes no value, as it does not for what was stored so."""
    half = value.half()
    return half if value.ndim >= 2 and value.is_floating_point() and torch.equal(half.float(), value) else value


def _note(stored: StoredModel, config: ModelConfig, where: str, tiles: int, skipped: int) -> str:
    base = stored.config.name
    digest = read_sums(stored.path).get(VISION_FILE, "")
    lost = f" ({skipped:,} more could not be read)" if skipped else ""
    known = f", whose {VISION_FILE} has sha256 `{digest}`" if digest else ""
    return (
        f"\n## Adapted statistics\n\n`{base}`{known}, with the BatchNorm statistics measured anew over {tiles:,} "
        f"unlabelled tiles of {where}{lost}, at {config.image.size} px, by `sattxt train adapt` (adaptive batch "
        "normalisation, Li et al. 2016, https://arxiv.org/abs/1603.04779). Weights, text side and calibration are "
        f"those of `{base}`, and so are its licences, training data and limits; the temperature was not fitted again.\n"
    )
