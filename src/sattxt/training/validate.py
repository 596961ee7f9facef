"""A model on validation splits: its figures while it trains, and the calibration of what is exported.

Temperature and multi-label calibration are fitted on validation tiles, never on training tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.evaluation.metrics import percent, recall_at_k
from sattxt.training.augment import resize
from sattxt.training.objectives.align.model import AlignModel
from sattxt.training.tiles import Tiles

Normalise = Callable[[Tensor], Tensor]

_BATCH = 128


#: One labelled set's cosine similarities: (N, K) with its labels, (N, B) with the backgrounds; and (N,) true labels.
Scored: TypeAlias = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def embed_tiles(model: AlignModel, tiles: Tiles, index: Tensor, normalise: Normalise, size: int) -> Tensor:
    """(n, D) float32, L2-normalised, on the model's device: whole tiles at ``size`` pixels."""
    device = model.log_scale.device
    parts = []
    for part in torch.split(index, model.vision.images_per_pass(size, device) or _BATCH):
        pixels = normalise(resize(tiles.take(part), size)).to(device)
        parts.append(model.image(pixels.contiguous(memory_format=torch.channels_last)))
    return torch.cat(parts)


@torch.no_grad()
def score_labelled(
    model: AlignModel, tiles: Tiles, pooled: Tensor, normalise: Normalise, size: int, limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """(N, T) cosine similarities of the labelled tiles, at most ``limit`` of them, with texts; (N,) true classes.

    Args:
        pooled: (T, hidden) frozen vectors of the texts.
    """
    labelled = (tiles.labels >= 0).nonzero()[:, 0]
    index = labelled[_space(len(labelled), limit)]
    image = embed_tiles(model, tiles, index, normalise, size)
    return (image @ model.texts(pooled.to(image)).T).cpu(), tiles.labels[tiles.actual(index)]


@torch.no_grad()
def caption_recall(
    model: AlignModel,
    tiles: Tiles,
    pooled: Callable[[list[str]], Tensor],
    normalise: Normalise,
    size: int,
    limit: int,
) -> dict[str, float]:
    """R@1, R@5 and R@10 in percent among at most ``limit`` evenly spaced tiles with captions, and all their captions.

    Args:
        pooled: (T, hidden) frozen vectors of texts.

    Returns:
        ``i2t_r1`` ... (a tile finds one of its captions), ``t2i_r1`` ... (a caption finds its tile; tiles that share
        the caption count too), and ``recall``, the mean of the six.
    """
    captioned = torch.tensor([i for i, texts in enumerate(tiles.captions) if texts], dtype=torch.int64)
    index = captioned[_space(len(captioned), limit)]
    image = embed_tiles(model, tiles, index, normalise, size)
    own = [set(tiles.captions[i]) for i in tiles.actual(index).tolist()]
    texts = list(dict.fromkeys(text for captions in own for text in sorted(captions)))
    relevant = np.array([[text in captions for text in texts] for captions in own])
    similarity = (image @ model.texts(pooled(texts).to(image)).T).cpu().numpy()
    ways = {"i2t": (similarity, relevant), "t2i": (similarity.T, relevant.T)}
    found = {f"{way}_r{k}": percent(recall_at_k(*pair, k)) for way, pair in ways.items() for k in (1, 5, 10)}
    return {**found, "recall": sum(found.values()) / len(found)}


def fit_logit_scale(sets: list[Scored]) -> float:
    """The 1 / temperature in [1, 200] that minimises the mean negative log-likelihood, each set counting the same."""

    def loss(scale: float) -> float:
        return float(torch.stack([F.cross_entropy(scale * labels, truth) for labels, _, truth in sets]).mean())

    best: float = min(torch.logspace(0, 2.301, 240).tolist(), key=loss)
    return round(best, 2)


def fit_multi_label(sets: list[Scored], logit_scale: float) -> tuple[float, float]:
    """Platt scaling (Platt 1999) of each label's margin over the backgrounds: (scale, bias).

    Positives and negatives weigh the same, so a probability of 0.5 is where the two are equally likely for a label
    that is as often present as absent. Each set counts the same.
    """
    margins = [
        logit_scale * labels - (logit_scale * others).logsumexp(dim=1, keepdim=True) + math.log(others.shape[1])
        for labels, others, _ in sets
    ]
    truths = [F.one_hot(truth, labels.shape[1]).float() for labels, _, truth in sets]
    weights = [torch.where(truth > 0, 0.5 / truth.sum(), 0.5 / (1 - truth).sum()) / len(sets) for truth in truths]
    margin, truth, weight = (torch.cat([part.flatten() for part in parts]) for parts in (margins, truths, weights))
    parameters = torch.tensor([1.0, 0.0], requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = parameters[0] * margin + parameters[1]
        loss = F.binary_cross_entropy_with_logits(logits, truth, weight=weight, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    scale, bias = parameters.tolist()
    return round(scale, 4), round(bias, 4)


def _space(count: int, limit: int | None) -> Tensor:
    """At most ``limit`` of ``count`` indices, evenly spaced."""
    return torch.arange(0, count, max(1, -(-count // (limit or count or 1))))
