"""From a trained :class:`AlignModel` to a model directory that ``SatTxt.from_pretrained`` opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sattxt.config import ImageConfig, ModelConfig
from sattxt.labels.prompts import BACKGROUNDS
from sattxt.training.calibrate import Scored, fit_logit_scale, fit_multi_label
from sattxt.training.objectives.align.model import AlignModel
from sattxt.training.text_start import TextStart
from sattxt.training.tiles import Tiles
from sattxt.training.validate import embed_tiles
from sattxt.weights.directory import write_model


def half_precision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels as float16, half the bytes; vectors (norms, biases, statistics) as they are."""
    return {k: v.half() if v.is_floating_point() and v.ndim >= 2 else v for k, v in state.items()}


@torch.no_grad()
def score_sets(
    model: AlignModel,
    sets: Sequence[Tiles],
    class_texts: Sequence[Tensor],
    backgrounds: Tensor,
    normalise: Callable[[Tensor], Tensor],
    size: int,
) -> list[Scored]:
    """Cosine similarities of every tile with its set's class texts and with the backgrounds (pooled vectors)."""
    scored = []
    background = model.texts(backgrounds)
    for tiles, pooled in zip(sets, class_texts, strict=True):
        classes = model.texts(pooled)
        labelled = (tiles.labels >= 0).nonzero()[:, 0]
        image = embed_tiles(model, tiles, labelled, normalise, size)
        truth = tiles.labels[tiles.actual(labelled)]
        scored.append(Scored(image @ classes.T, image @ background.T, truth))
    return scored


def export_model(
    model: AlignModel,
    out: Path,
    *,
    name: str,
    image: ImageConfig,
    text: TextStart,
    scored: list[Scored],
    licence: str,
    overwrite: bool = False,
) -> Path:
    """Write the model directory, calibrated on ``scored`` (validation tiles).

    Without any, the trained temperature stands, and multi-label probabilities are not calibrated.
    """
    if scored:
        logit_scale, source = fit_logit_scale(scored), "fitted on the validation splits"
        scale, bias = fit_multi_label(scored, logit_scale)
    else:
        logit_scale, source, scale, bias = round(float(model.log_scale.detach().exp()), 2), "trained", None, None
    vision = model.vision.config
    config = ModelConfig(
        name=name,
        embed_dim=2 * vision.head.dim,
        image=image,
        vision=vision,
        text=text.config,
        logit_scale=logit_scale,
        logit_scale_source=source,
        backgrounds=BACKGROUNDS,
        multi_label_scale=scale,
        multi_label_bias=bias,
        licence=licence,
    )
    # What is stored is what is loaded: weights rounded to float16 once, here.
    tower, head = (half_precision(part.state_dict()) for part in (model.vision, model.text))
    return write_model(out, config, tower, head, text.folder, overwrite=overwrite)
