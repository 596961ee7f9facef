"""Hyper-parameters of stage 2."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sattxt.errors import InputError
from sattxt.training.augment import AugmentConfig
from sattxt.training.precision import Precision, check_precision
from sattxt.training.ranges import DECAY, NOT_NEGATIVE, POSITIVE, SHARE, check_ranges

_RANGES = {
    **dict.fromkeys(("backbone_lr", "head_lr", "text_lr", "weight_decay", "warmup"), NOT_NEGATIVE),
    **dict.fromkeys(("class_weight", "caption_weight", "size_weights"), NOT_NEGATIVE),
    **dict.fromkeys(("pool", "steps", "image_views", "text_noise"), NOT_NEGATIVE),
    **dict.fromkeys(("sizes", "clip_norm", "initial_scale"), POSITIVE),
    **dict.fromkeys(("same_text", "text_mix"), SHARE),
    "ema": DECAY,
}


@dataclass(frozen=True)
class AlignConfig:
    """Hyper-parameters of an alignment run.

    counts: tiles a step and rank from each data set, in their order. accumulate: micro-batches they are cut into; their
    losses are averaged, and captions are contrasted within one. sizes and size_weights: a step's image side is drawn
    from them. class_weight, caption_weight: of the two terms; 0 leaves one out. pool: captions drawn as further
    negatives. same_text: frozen cosine similarity above which two captions count as the same.
    text_lr: learning rate of the text head, ``head_lr`` if ``None``. text_noise: standard deviation of Gaussian noise
    on the frozen text vectors, as a share of each vector's root mean square. text_mix: probability that a class is
    named by a random convex combination of two of its phrases' vectors. text_start: of a text head that nothing else
    initialises; ``isometric`` keeps the frozen encoder's own geometry, centred, which unseen words need.
    freeze_norms: BatchNorm's means
    and variances stay as they are, in training too, while its gains and biases are trained; what is trained is then
    what inference computes, whatever data sets share a batch. freeze_backbone, freeze_head, freeze_text_head: the
    backbone, the vision head, the text head stay as they are; with the first two, so do image embeddings. image_views:
    above 0, these are computed once, before the first step, of that many views of each tile (the whole tile, then
    augmented ones), and a step takes a random one; 0: a step embeds views of its own.
    initial_scale: 1 / temperature.
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
    class_weight: float = 1.0
    caption_weight: float = 0.6
    pool: int = 1024
    same_text: float = 0.95
    text_noise: float = 0.0
    text_mix: float = 0.0
    text_start: Literal["random", "isometric"] = "random"
    ema: float = 0.998
    initial_scale: float = 1 / 0.07
    freeze_backbone: bool = False
    freeze_head: bool = False
    image_views: int = 0
    freeze_norms: bool = False
    freeze_text_head: bool = False
    precision: Precision = "auto"
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_ranges(self, _RANGES)
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
        if self.accumulate < 1:
            raise InputError(f"accumulate={self.accumulate}: pass 1 or more")
        if self.text_start not in ("random", "isometric"):
            raise InputError(f"text_start={self.text_start!r}: pass 'random' or 'isometric'")
