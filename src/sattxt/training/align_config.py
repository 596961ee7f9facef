"""Hyper-parameters of stage 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from sattxt.errors import InputError
from sattxt.training.augment import AugmentConfig
from sattxt.training.precision import Precision, check_precision
from sattxt.training.ranges import DECAY, NOT_NEGATIVE, POSITIVE, SHARE, check_ranges

_RANGES = {
    **dict.fromkeys(("backbone_lr", "head_lr", "text_lr", "weight_decay", "warmup"), NOT_NEGATIVE),
    **dict.fromkeys(("class_weight", "caption_weight", "size_weights"), NOT_NEGATIVE),
    **dict.fromkeys(("pool", "steps", "image_views", "text_noise", "frozen_layers"), NOT_NEGATIVE),
    **dict.fromkeys(("sizes", "clip_norm", "initial_scale", "max_scale"), POSITIVE),
    **dict.fromkeys(("caption_prior", "class_prior", "restyle", "same_text", "text_mix", "tile_mix"), SHARE),
    **dict.fromkeys(("ema", "smoothing"), DECAY),
}


@dataclass(frozen=True)
class AlignConfig:
    """Hyper-parameters of an alignment run.

    counts: tiles a step and rank from each data set, in their order. accumulate: micro-batches they are cut into; their
    losses are averaged, and captions are contrasted within one. sizes and size_weights: a step's image side is drawn
    from them. loss: of captions; ``sigmoid`` has a learned bias and ignores ``pool`` and ``caption_prior``.
    class_weight, caption_weight: of the two terms; 0 leaves one out. smoothing: of class labels. class_average: whether
    in the class term all tiles weigh alike, so that a data set weighs as its count, or all data sets. class_prior: how
    far the loss makes up for classes of unlike frequency in a data set (0: not, 1: as if all were alike; exponent tau
    of Menon et al. 2021), where a class below a hundredth counts as one. pool: captions drawn as further negatives.
    captions: of a tile's captions, how many a step uses at most. caption_prior: as ``class_prior``, for captions that
    are written of many tiles, in the image-to-text direction. contrast: of captions, between the tiles and captions of
    all data sets (``all``) or within each (``set``), where telling the data sets apart earns nothing. same_text: frozen
    cosine similarity above which two captions count as the same.
    text_lr: learning rate of the text head, ``head_lr`` if ``None``. text_noise: standard deviation of Gaussian noise
    on the frozen text vectors, as a share of each vector's root mean square. text_mix: probability that a class is
    named by a random convex combination of two of its phrases' vectors. text_start: of a text head that nothing else
    initialises; ``isometric`` keeps the frozen encoder's own geometry, centred, which unseen words need. restyle:
    probability that a tile of another set takes on the colours of a random tile of the set ``restyle_from`` (see
    ``augment.restyle``). tile_mix: probability that a labelled tile holds another of its data set too, in a rectangle
    or shining through (see ``augment.mixed``); it belongs to both classes by their shares, and no caption tells of it.
    tile_mix_in: the data sets whose tiles are; of all by default.
    frozen_layers: the backbone's first layers that stay as they are, norms included. freeze_norms: BatchNorm's means
    and variances stay as they are, in training too, while its gains and biases are trained; what is trained is then
    what inference computes, whatever data sets share a batch. freeze_backbone, freeze_head, freeze_text_head: the
    backbone, the vision head, the text head stay as they are; with the first two, so do image embeddings. image_views:
    above 0, these are computed once, before the first step, of that many views of each tile (the whole tile, then
    augmented ones), and a step takes a random one; 0: a step embeds views of its own.
    initial_scale, max_scale: 1 / temperature.
    """

    steps: int
    counts: tuple[int, ...]
    sizes: tuple[int, ...] = (64, 96, 128)
    size_weights: tuple[float, ...] = (0.35, 0.4, 0.25)
    accumulate: int = 1
    backbone_lr: float = 6e-4
    head_lr: float = 1.2e-3
    text_lr: float | None = None
    weight_decay: float = 0.05
    warmup: int = 200
    clip_norm: float = 5.0
    loss: Literal["info_nce", "sigmoid"] = "info_nce"
    class_weight: float = 1.0
    caption_weight: float = 0.6
    smoothing: float = 0.05
    class_average: Literal["tiles", "sets"] = "tiles"
    class_prior: float = 0.0
    pool: int = 1024
    captions: int = 1
    caption_prior: float = 0.0
    contrast: Literal["all", "set"] = "all"
    same_text: float = 0.95
    text_noise: float = 0.0
    text_mix: float = 0.0
    text_start: Literal["random", "isometric"] = "random"
    restyle: float = 0.0
    restyle_from: str | None = None
    tile_mix: float = 0.0
    tile_mix_in: tuple[str, ...] = ()
    ema: float = 0.998
    initial_scale: float = 1 / 0.07
    max_scale: float = 100.0
    freeze_backbone: bool = False
    freeze_head: bool = False
    image_views: int = 0
    frozen_layers: int = 0
    freeze_norms: bool = False
    freeze_text_head: bool = False
    precision: Precision = "auto"
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_ranges(self, _RANGES)
        if self.loss not in ("info_nce", "sigmoid"):
            raise InputError(f"loss={self.loss!r}: pass 'info_nce' or 'sigmoid'")
        if not self.class_weight + self.caption_weight:
            raise InputError("class_weight and caption_weight: pass at least one above 0")
        if self.freeze_backbone and self.freeze_head and self.freeze_text_head:
            raise InputError("freeze_backbone, freeze_head, freeze_text_head: pass at most two, or nothing is trained")
        if len(self.sizes) != len(self.size_weights) or not self.sizes:
            raise InputError(f"{len(self.sizes)} sizes, {len(self.size_weights)} size_weights; pass one weight a size")
        if not sum(self.size_weights):
            raise InputError(f"size_weights={self.size_weights}: pass at least one above 0")
        if self.image_views and not (self.freeze_backbone and self.freeze_head and len(self.sizes) == 1):
            raise InputError(
                f"image_views={self.image_views}: pass freeze_backbone and freeze_head, so that embeddings stay what "
                f"they are, and one of the sizes {self.sizes}; or image_views 0"
            )
        for name, choices in (("contrast", ("all", "set")), ("class_average", ("tiles", "sets"))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name}={getattr(self, name)!r}: pass {' or '.join(map(repr, choices))}")
        for name in ("accumulate", "captions"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: pass 1 or more")
        if self.text_start not in ("random", "isometric"):
            raise InputError(f"text_start={self.text_start!r}: pass 'random' or 'isometric'")
        if self.tile_mix and (self.class_weight == 0 or self.image_views):
            raise InputError(
                f"tile_mix={self.tile_mix}: only the class term sees mixed tiles, and it mixes pixels; pass a "
                "class_weight above 0 and image_views 0, or tile_mix 0"
            )
        if self.tile_mix_in and not self.tile_mix:
            raise InputError(f"tile_mix_in={list(self.tile_mix_in)}: pass a tile_mix above 0 too")
        if (self.restyle > 0) != (self.restyle_from is not None):
            raise InputError(
                f"restyle={self.restyle}, restyle_from={self.restyle_from}: pass a share above 0 and a set's name, "
                "or neither"
            )

    def style_index(self, names: Sequence[str]) -> int | None:
        """Which of the data sets ``names`` is ``restyle_from``; ``None`` without restyling.

        Raises:
            InputError: none of them is.
        """
        if self.restyle_from is None:
            return None
        if self.restyle_from not in names:
            raise InputError(f"restyle_from={self.restyle_from!r}: no such data set; pass one of {', '.join(names)}")
        return list(names).index(self.restyle_from)

    def mix_probabilities(self, names: Sequence[str]) -> list[float]:
        """Of the data sets ``names``: how likely a tile of each is mixed with another.

        Raises:
            InputError: ``tile_mix_in`` names another.
        """
        for name in self.tile_mix_in:
            if name not in names:
                raise InputError(f"tile_mix_in: no data set {name!r}; pass some of {', '.join(names)}")
        return [self.tile_mix if not self.tile_mix_in or name in self.tile_mix_in else 0.0 for name in names]
