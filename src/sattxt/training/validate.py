"""Figures of a model while it trains: zero-shot accuracy, and recall of captions and of images by each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sattxt.evaluation.metrics import percent, recall_at_k
from sattxt.training.augment import resize
from sattxt.training.objectives.align.model import AlignModel
from sattxt.training.tiles import Tiles

Normalise = Callable[[Tensor], Tensor]

_BATCH = 128
_RANKS = (1, 5, 10)


def spaced(count: int, limit: int) -> Tensor:
    """At most ``limit`` of ``count`` indices, evenly spaced."""
    return torch.arange(0, count, max(1, -(-count // limit)))


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
def zero_shot_accuracy(
    model: AlignModel, tiles: Tiles, pooled: Tensor, normalise: Normalise, size: int, limit: int
) -> float:
    """Top-1 accuracy in percent over at most ``limit`` evenly spaced labelled tiles; ``pooled``: one text a class."""
    classes = model.texts(pooled.to(model.log_scale.device))
    labelled = (tiles.labels >= 0).nonzero()[:, 0]
    index = labelled[spaced(len(labelled), limit)]
    image = embed_tiles(model, tiles, index, normalise, size)
    found = (image @ classes.T).argmax(dim=1).cpu()
    return 100 * float((found == tiles.labels[tiles.actual(index)]).float().mean())


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
    index = captioned[spaced(len(captioned), limit)]
    image = embed_tiles(model, tiles, index, normalise, size)
    own = [set(tiles.captions[i]) for i in tiles.actual(index).tolist()]
    texts = list(dict.fromkeys(text for captions in own for text in sorted(captions)))
    relevant = np.array([[text in captions for text in texts] for captions in own])
    similarity = (image @ model.texts(pooled(texts).to(image)).T).cpu().numpy()
    ways = {"i2t": (similarity, relevant), "t2i": (similarity.T, relevant.T)}
    found = {f"{way}_r{k}": percent(recall_at_k(*pair, k)) for way, pair in ways.items() for k in _RANKS}
    return {**found, "recall": sum(found.values()) / len(found)}
