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
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from sattxt.config import ModelConfig
from sattxt.data.archive import open_store
from sattxt.data.dataset import Dataset, Sample, by_split, split_of
from sattxt.data.registry import open_data
from sattxt.errors import InputError
from sattxt.images.load import Failure, is_image, stream
from sattxt.images.options import ImageOptions
from sattxt.images.preprocess import Preprocessor, check_shape
from sattxt.training.objectives.base import generator
from sattxt.vision.device import resolve_device
from sattxt.vision.tower import load_tower
from sattxt.weights.checksums import read_sums
from sattxt.weights.directory import VISION_FILE, StoredModel, check_target, read_model, write_model
from sattxt.weights.manifest import model_card
from sattxt.weights.resolver import resolve

log = logging.getLogger(__name__)

#: Fewer tiles say too little of a data set's mean and variance.
FEWEST_TILES = 32
#: Input sides below this leave the last layers nothing but padding to measure.
SMALLEST_SIZE = 32
_BATCH = 64


class Adapted(NamedTuple):
    """What :func:`adapt_norms` did. path: the new model directory. tiles: how many were measured.
    skipped: the tiles that could not be read.
    """

    path: Path
    tiles: int
    skipped: list[Failure]


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
    them; a layer's statistics are the means over all batches, which are of nearly equal size (within-batch variances,
    as in training). Weights, text side and calibration stay what they are.

    Args:
        model: what ``from_pretrained`` opens: a name, a model directory, a hub id.
        images: a folder, zip or tar of image files, with further folders inside or without.
        out: the model directory to write; the model is called ``{name}-adapted``.
        limit: at most this many tiles, evenly spaced over their sorted names; 32 or more.
        split: only the images below a folder of this name (``train``, ``val``, ...); default: all of them.
        kind: ``images``; or a data set of ``sattxt.data.registry``, whose split is ``train`` by default: ``s2`` for
            two-page Sentinel-2 TIFFs in a zip.
        size: input side in pixels to measure at, and of the new model, 32 or more; default: the model's own.
        options: how to read image files that are not plain 8-bit RGB.
        device: default: CUDA where there is one.
        overwrite: replace a model directory that lies at ``out``.

    Raises:
        InputError: the model has no BatchNorm; fewer than 32 tiles can be read, or all are of one colour; an argument
            has no meaning; something is at ``out`` already.
        UnknownModelError, WeightsError: the model cannot be had, or is damaged.
        MissingExtraError: a package to read the tiles is not installed.
    """
    if size is not None and size < SMALLEST_SIZE:
        raise InputError(f"size={size}: pass {SMALLEST_SIZE} or more")
    check_target(Path(out), overwrite=overwrite)
    stored, source = read_model(resolve(model)), Path(images)
    image = replace(stored.config.image, size=size or stored.config.image.size)
    config = replace(stored.config, name=f"{stored.config.name}-adapted", image=image)
    tower = load_tower(config.vision, stored.vision, stored.path / VISION_FILE)
    if not any(isinstance(module, _BatchNorm) for module in tower.modules()):
        raise InputError(
            f"{stored.config.name}: its {config.vision.backbone.model_type} backbone has no BatchNorm, so there are no "
            "statistics to adapt; only models with a convolutional backbone such as mobilenet_v1 have them"
        )
    found = _find_images(source, options) if kind == "images" else open_data(source, kind, options=options)
    samples = found.split(split or ("all" if kind == "images" else "train"), limit)
    place = resolve_device(device)
    tower.to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    preprocess, failures = Preprocessor(image), list[Failure]()
    extremes: list[float] = []  # of the pixel values

    def load(index: int, name: str) -> NDArray[Any]:
        pixels = samples.image(index)
        check_shape(pixels, name)
        return pixels

    def batches() -> Iterator[Tensor]:
        order = torch.randperm(len(samples), generator=generator(0)).tolist()
        length = math.ceil(len(order) / math.ceil(len(order) / _BATCH))
        with closing(
            stream(order, load, batch_size=length, failures=failures, name_of=lambda i, _: samples.samples[i].id)
        ) as loaded:
            for batch in loaded:
                if len(batch) > 1:  # one tile alone may have no variance
                    pixels = preprocess.batch([image for _, _, image in batch])
                    extremes.extend((float(pixels.amin()), float(pixels.amax())))
                    yield pixels.to(place).contiguous(memory_format=torch.channels_last)

    update_bn(batches(), tower.eval())
    measured = len(samples) - len(failures)
    if failures:
        log.warning("%s: %d of %d tiles cannot be read, first %s", source, len(failures), len(samples), failures[0])
    if measured < FEWEST_TILES:
        why = f", first {failures[0]}" if failures else ""
        raise InputError(
            f"{source}: {measured} tiles can be read, {len(failures)} cannot{why}; pass at least {FEWEST_TILES} tiles"
        )
    if min(extremes) == max(extremes):
        raise InputError(f"{source}: all {measured} tiles are of one colour; there is no variance to measure")
    where = f"`{source.name}`" + (f", {samples.split} split" if split or kind != "images" else "")
    path = write_model(
        out,
        config,
        {key: _shrink(value.cpu()) for key, value in tower.state_dict().items()},
        {key: _shrink(value) for key, value in stored.text_head.items()},
        stored.text_encoder_dir,
        model_card(config) + _note(stored, config, where, measured, len(failures)),
        overwrite=overwrite,
    )
    return Adapted(path, measured, failures)


def _find_images(source: Path, options: ImageOptions | None) -> Dataset:
    """All image files, whatever folders they lie in."""
    store = open_store(source)
    samples = by_split([(split_of(name), Sample((name,))) for name in store.names() if is_image(name)])
    return Dataset(source.name, store, samples, options=options or ImageOptions())


def _shrink(value: Tensor) -> Tensor:
    """As float16 where that changes no value, as it does not for what was stored so."""
    half = value.half()
    return half if value.ndim >= 2 and value.is_floating_point() and torch.equal(half.float(), value) else value


def _note(stored: StoredModel, config: ModelConfig, where: str, tiles: int, skipped: int) -> str:
    """What the card says beside the usual."""
    base, digest = stored.config.name, read_sums(stored.path).get(VISION_FILE, "")
    lost = f" ({skipped:,} more could not be read)" if skipped else ""
    known = f", whose {VISION_FILE} has sha256 `{digest}`" if digest else ""
    return (
        f"\n## Adapted statistics\n\n`{base}`{known}, with the BatchNorm statistics measured anew over {tiles:,} "
        f"unlabelled tiles of {where}{lost}, at {config.image.size} px, by `sattxt train adapt` (adaptive batch "
        "normalisation, Li et al. 2016, https://arxiv.org/abs/1603.04779). Weights, text side and calibration are "
        f"those of `{base}`, and so are its licences, training data and limits; the temperature was not fitted again.\n"
    )
