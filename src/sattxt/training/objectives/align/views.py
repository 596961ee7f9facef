"""What stage 2 sees: embeddings of views that are computed once, and texts with noise on them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.training.augment import atmosphere, augment, resize
from sattxt.training.checkpoint import checksum
from sattxt.training.image_bank import ImageBank, build_image_bank
from sattxt.training.objectives.align.config import AlignConfig
from sattxt.training.objectives.base import Stream, generator
from sattxt.training.tiles import Tiles
from sattxt.vision.device import resolve_dtype
from sattxt.vision.tower import VisionTower


def embed_views(
    config: AlignConfig,
    sets: Sequence[Tiles],
    pixels: Callable[[Tensor], Tensor],
    vision: VisionTower,
    out: Path,
    device: torch.device,
    facts: Sequence[str],
) -> ImageBank:
    """``config.image_views`` embeddings of every tile: of the whole tile, then of augmented ones.

    Args:
        pixels: from (N, 3, H, W) floats in [0, 1] to pixel values.
        vision: stays what it is; a copy of it computes on ``device``.
        out: see :func:`~sattxt.training.image_bank.build_image_bank`.
        facts: for each set, all that its pixels depend on.
    """
    (size,) = config.sizes

    def view(which: int, index: Tensor, number: int) -> Tensor:
        tiles = sets[which].take(index)
        if number == 0:
            return pixels(resize(tiles, size))
        random = generator(config.seed, Stream.VIEWS, which, number, int(index[0]))
        return pixels(atmosphere(augment(tiles, size, config.augment, random), config.augment, random))

    @functools.cache
    def tower() -> VisionTower:  # made where there is something to embed
        return copy.deepcopy(vision).for_inference(resolve_dtype(config.precision, device)).to(device)

    @torch.inference_mode()
    def embed(values: Tensor) -> Tensor:
        parts = [part.embedding.float() for part in tower().in_passes(values)]
        return F.normalize(torch.cat(parts), dim=-1).cpu()

    drawn = (config.augment, config.seed) if config.image_views > 1 else ()
    shared = f"{checksum(vision.state_dict())} {size} {config.precision} {drawn}"
    return build_image_bank(sets, view, embed, config.image_views, out, [f"{shared} {fact}" for fact in facts])


def add_noise(texts: Tensor, share: float, random: torch.Generator) -> Tensor:
    """(N, hidden) texts with Gaussian noise of ``share`` times each one's root mean square; 0 leaves them alone."""
    if share == 0:
        return texts
    size = share * texts.square().mean(dim=-1, keepdim=True).sqrt()
    return texts + size * torch.randn(texts.shape, generator=random).to(texts)


def mix_some(texts: Tensor, others: Tensor, probability: float, random: torch.Generator) -> Tensor:
    """(N, hidden) texts; with ``probability``, one is a random point between it and that of ``others``."""
    if probability == 0:
        return texts
    chosen = torch.rand(len(texts), 1, generator=random) < probability
    return torch.lerp(texts, others, torch.rand(len(texts), 1, generator=random) * chosen)
