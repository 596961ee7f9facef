"""From a trained :class:`AlignModel` to a model directory that ``SatTxt.from_pretrained`` opens.

Its temperature and multi-label calibration are fitted on validation splits, never on training tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.config import ImageConfig, ModelConfig
from sattxt.errors import InputError
from sattxt.labels.prompts import BACKGROUNDS
from sattxt.training.objectives.align.model import AlignModel
from sattxt.training.text_start import TextStart
from sattxt.training.tiles import Tiles
from sattxt.training.validate import embed_tiles
from sattxt.weights.directory import write_model


@dataclass(frozen=True)
class Scored:
    """One labelled set's cosine similarities: (N, K) with its labels, (N, B) with the backgrounds, (N,) true labels."""

    labels: Tensor
    backgrounds: Tensor
    truth: Tensor


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


def fit_logit_scale(sets: list[Scored]) -> float:
    """The 1 / temperature in [1, 200] that minimises the mean negative log-likelihood, each set counting the same."""
    if not sets:
        raise InputError("calibration needs at least one labelled set")

    def loss(scale: float) -> float:
        return float(torch.stack([F.cross_entropy(scale * s.labels, s.truth) for s in sets]).mean())

    grid: list[float] = torch.logspace(0, 2.301, 240).tolist()
    best: float = min(grid, key=loss)
    return round(best, 2)


def fit_multi_label(sets: list[Scored], logit_scale: float) -> tuple[float, float]:
    """Platt scaling (Platt 1999) of each label's margin over the backgrounds: (scale, bias).

    Positives and negatives weigh the same, so a probability of 0.5 is where the two are equally likely for a label
    that is as often present as absent.
    """
    margins, truths, weights = [], [], []
    for s in sets:
        level = torch.logsumexp(logit_scale * s.backgrounds, dim=1, keepdim=True) - torch.log(
            torch.tensor(float(s.backgrounds.shape[1]))
        )
        margin = logit_scale * s.labels - level
        truth = F.one_hot(s.truth, margin.shape[1]).float()
        weight = torch.where(truth > 0, 0.5 / truth.sum(), 0.5 / (1 - truth).sum())
        margins.append(margin.flatten())
        truths.append(truth.flatten())
        weights.append(weight.flatten() / len(sets))
    margin, truth, weight = torch.cat(margins), torch.cat(truths), torch.cat(weights)
    parameters = torch.tensor([1.0, 0.0], requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = parameters[0] * margin + parameters[1]
        loss = F.binary_cross_entropy_with_logits(logits, truth, weight=weight, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return round(float(parameters[0].detach()), 4), round(float(parameters[1].detach()), 4)


def half_precision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels as float16, half the bytes; vectors (norms, biases, statistics) as they are."""
    return {k: v.half() if v.is_floating_point() and v.ndim >= 2 else v for k, v in state.items()}


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
