"""Many unlabelled tiles classified together, each by its text scores and by similar tiles.

TransCLIP without labels (Zanella, Gérin and Ben Ayed 2024, arXiv 2406.01837, section 3): every class is a Gaussian
around its tiles, with one diagonal covariance for all classes (the likelihood term), a tile agrees with its nearest
neighbours (the Laplacian term), and its class probabilities stay near those that the texts give it (the
Kullback-Leibler term). Assignments and Gaussians are updated in turn, each in closed form; nothing is trained.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.errors import InputError
from sattxt.vision.embeddings import FloatArray

_NEIGHBOURS = 3
_CONFIDENT = 8  # tiles that a class's mean starts from
_ROUNDS = 10
_ASSIGNMENTS = 5  # a round
_LEAST = 1e-6  # tiles that a class must have for its mean to move; variances likewise


@torch.inference_mode()
def transduce(
    images: FloatArray, labels: FloatArray, logit_scale: float, *, cosines_at_once: int = 2**25
) -> FloatArray:
    """Class probabilities of tiles that are classified together.

    Assumes that every label is right for at least a few of the tiles, and nothing about how frequent each is. Time
    grows with the square of the number of tiles (the search for neighbours), memory linearly.

    Args:
        images: (N, D) unit vectors, N at least K. labels: (K, D) unit vectors.
        logit_scale: 1 / temperature of the text scores.
        cosines_at_once: cosines between tiles to hold in memory; four bytes each.

    Returns:
        (N, K) float32; rows sum to 1.

    Raises:
        InputError: fewer tiles than labels.
    """
    if len(images) < len(labels):
        raise InputError(
            f"{len(images)} tiles for {len(labels)} labels: classifying together needs at least as many tiles as "
            "labels; pass more tiles, or classify each by itself"
        )
    tiles, texts = (torch.from_numpy(np.array(x, dtype=np.float32)) for x in (images, labels))
    by_text = F.log_softmax(logit_scale * tiles @ texts.T, dim=1)
    places, weights = _neighbours(tiles, min(_NEIGHBOURS, len(tiles) - 1), cosines_at_once)
    assigned = by_text.exp()
    confident = assigned.topk(min(_CONFIDENT, len(tiles) // len(texts)), dim=0).indices
    means = F.normalize(tiles[confident].mean(dim=0), dim=-1)
    variance = torch.full((tiles.shape[1],), 1 / tiles.shape[1])
    for _ in range(_ROUNDS):
        # up to what is the same for all classes
        likely = (tiles / variance) @ means.T - 0.5 * (means.square() / variance).sum(dim=1)
        for _ in range(_ASSIGNMENTS):
            near = (weights[..., None] * assigned[places]).sum(dim=1)
            assigned = (by_text + likely + near).softmax(dim=1)
        means, variance = _gaussians(tiles, assigned, means)
    return assigned.numpy()


def _neighbours(tiles: Tensor, count: int, cosines_at_once: int) -> tuple[Tensor, Tensor]:
    """(N, count) places of each tile's nearest others, and their cosine similarities, none below 0."""
    places, weights = [], []
    rows = max(1, cosines_at_once // len(tiles))
    for start in range(0, len(tiles), rows):
        cosines = tiles[start : start + rows] @ tiles.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -2  # not itself
        found = cosines.topk(count, dim=1)
        places.append(found.indices)
        weights.append(found.values.clamp(min=0))
    return torch.cat(places), torch.cat(weights)


def _gaussians(tiles: Tensor, assigned: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Unit means (K, D), those of ``before`` for classes that no tile is in, and the common variance (D,)."""
    mass = assigned.sum(dim=0)[:, None]
    means = torch.where(mass > _LEAST, F.normalize(assigned.T @ tiles, dim=-1), before)
    spread = (
        tiles.square().sum(dim=0) - 2 * ((assigned @ means) * tiles).sum(dim=0) + (mass * means.square()).sum(dim=0)
    )
    return means, (spread / len(tiles)).clamp(min=_LEAST)
