"""What stage 2 sees of tiles: views as training shows them, or embeddings of views that were computed once."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.training.augment import atmosphere, augment, resized
from sattxt.training.checkpoint import checksum
from sattxt.training.image_bank import ImageBank, build_image_bank
from sattxt.training.objectives.align.config import AlignConfig
from sattxt.training.objectives.align.model import AlignModel
from sattxt.training.objectives.base import Stream, generator
from sattxt.training.tiles import Tiles
from sattxt.vision.device import resolve_dtype
from sattxt.vision.tower import VisionTower


class TileViews:
    """Views of the tiles of ``sets``.

    Args:
        normalise: from (N, 3, H, W) floats in [0, 1] to pixel values.
    """

    def __init__(
        self,
        config: AlignConfig,
        sets: Sequence[Tiles],
        normalise: Callable[[Tensor], Tensor],
    ) -> None:
        self._config, self._sets, self._normalise = config, sets, normalise

    def moved(self, parts: Sequence[Tensor], size: int, random: torch.Generator) -> Tensor:
        """(N, 3, size, size) in [0, 1]: each set's tiles at ``parts``, set after set, augmented."""
        augmentation, chosen = self._config.augment, zip(self._sets, parts, strict=True)
        return torch.cat([augment(s.take(index), size, augmentation, random) for s, index in chosen])

    def aired(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Pixel values of images in [0, 1], some of them behind more air."""
        return self._pixels(atmosphere(images, self._config.augment, random))

    def embedded(self, model: AlignModel, out: Path, device: torch.device, facts: Sequence[str]) -> ImageBank:
        """``image_views`` embeddings of every tile: of the whole tile, then of augmented ones.

        Args:
            model: whose vision side stays what it is. device: which a copy of it computes on.
            out: see :func:`~sattxt.training.image_bank.build_image_bank`. facts: of each set's pixels.
        """
        config, (size,) = self._config, self._config.sizes

        def view(which: int, index: Tensor, number: int) -> Tensor:
            if number == 0:
                return self._pixels(resized(self._sets[which].take(index), size))
            random = generator(config.seed, Stream.VIEWS, which, number, int(index[0]))
            return self.aired(augment(self._sets[which].take(index), size, config.augment, random), random)

        @functools.cache
        def tower() -> VisionTower:  # made where there is something to embed
            return copy.deepcopy(model.vision).for_inference(resolve_dtype(config.precision, device)).to(device)

        @torch.inference_mode()
        def embed(pixels: Tensor) -> Tensor:
            step = tower().images_per_pass(size, device) or len(pixels)
            parts = [tower()(part.to(device)).embedding.float() for part in torch.split(pixels, step)]
            return F.normalize(torch.cat(parts), dim=-1).cpu()

        how = (config.augment, config.seed) if config.image_views > 1 else ()
        shared = f"{checksum(model.vision.state_dict())} {size} {config.precision} {how}"
        known = [f"{shared} {fact}" for fact in facts]
        return build_image_bank(self._sets, view, embed, config.image_views, out, known)

    def _pixels(self, images: Tensor) -> Tensor:
        return self._normalise(images).contiguous(memory_format=torch.channels_last)
