"""Settings of stage 2."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sattxt.training.objectives.base import StepConfig
from sattxt.training.schema import Count, NotNegative, Positive, Share, Whole


class AlignConfig(StepConfig):
    """Settings of an alignment run."""

    sizes: tuple[Count, ...] = Field((64, 96, 128), min_length=1)  # sides in pixels; each step draws one
    size_weights: tuple[NotNegative, ...] = (0.35, 0.4, 0.25)  # how often each size is drawn
    backbone_lr: NotNegative = 6e-4  # learning rates
    head_lr: NotNegative = 1.2e-3
    text_lr: NotNegative | None = None  # of the text head; None: head_lr
    warmup: Whole = 200  # steps over which the learning rates rise
    clip_norm: Positive = 5.0  # largest norm of the gradient
    class_weight: NotNegative = 1.0  # of the class term in the loss; 0 leaves it out
    caption_weight: NotNegative = 0.6  # of the caption term; 0 leaves it out
    pool: Whole = 1024  # captions drawn as further negatives
    same_text: Share = 0.95  # captions count as the same above this cosine similarity of frozen vectors
    text_noise: NotNegative = 0.0  # std of noise on frozen text vectors, as a share of a vector's root mean square
    text_mix: Share = 0.0  # probability that a class's text is a random mean of two of its phrases' vectors
    # How a text head that nothing initialises starts; isometric keeps the frozen encoder's geometry, for unseen words.
    text_start: Literal["random", "isometric"] = "random"
    initial_scale: Positive = 1 / 0.07  # 1 / temperature
    freeze_backbone: bool = False  # the backbone stays as it is
    freeze_head: bool = False  # the vision head stays as it is
    freeze_text_head: bool = False  # the text head stays as it is
    freeze_norms: bool = False  # BatchNorm keeps its statistics and trains gains and biases, as inference computes
    # With backbone and head frozen: views of each tile embedded once, before the first step; 0: each step embeds.
    image_views: Whole = 0

    @model_validator(mode="after")
    def _check_together(self) -> AlignConfig:
        if not self.class_weight + self.caption_weight:
            raise ValueError("class_weight and caption_weight: pass at least one above 0")
        if self.freeze_backbone and self.freeze_head and self.freeze_text_head:
            raise ValueError("freeze_backbone, freeze_head, freeze_text_head: pass at most two, or nothing is trained")
        if len(self.sizes) != len(self.size_weights):
            raise ValueError(f"{len(self.sizes)} sizes, {len(self.size_weights)} size_weights; pass one weight a size")
        if not sum(self.size_weights):
            raise ValueError(f"size_weights={self.size_weights}: pass at least one above 0")
        if self.image_views and not (self.freeze_backbone and self.freeze_head and len(self.sizes) == 1):
            raise ValueError(
                f"image_views={self.image_views}: pass freeze_backbone and freeze_head, so that embeddings stay what "
                f"they are, and one of the sizes {self.sizes}; or image_views 0"
            )
        return self
