"""Settings of stage 2, what it trains, and what it minimises: contrastive losses on L2-normalised embeddings.

InfoNCE follows SATtxt, section 3.2 (symmetric, on cosine similarity with a temperature); several positives a row, as
repeated captions make, share the target mass equally (Khosla et al. 2020, arXiv 2004.11362, outside the log).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from sattxt.errors import InputError
from sattxt.text.tower import TextHead
from sattxt.training.objectives.base import StepConfig
from sattxt.training.schema import Count, NotNegative, Positive, Share, Whole
from sattxt.vision.tower import VisionTower

_MAX_SCALE = 100.0  # of 1 / temperature, as CLIP clips it


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
    place_weight: NotNegative = 1.0  # of the land-cover term, place by place, of sets with a teacher; 0 leaves it out
    caption_weight: NotNegative = 0.6  # of the caption term; 0 leaves it out
    keep_weight: NotNegative = 30.0  # of the mean squared distance that kept texts (keep_texts) have moved
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


class AlignModel(nn.Module):
    """Everything that is trained: vision tower, text head, log temperature."""

    def __init__(self, vision: VisionTower, text_hidden: int, initial_scale: float) -> None:
        super().__init__()
        self.vision = vision
        self.text = TextHead(text_hidden, 2 * self.vision.config.head.dim)
        # One value, but not 0-d: FSDP takes no scalar parameters.
        self.log_scale = nn.Parameter(torch.tensor([math.log(initial_scale)]))

    def image(self, pixel_values: Tensor) -> Tensor:
        """(N, D) float32, L2-normalised."""
        return F.normalize(self.vision(pixel_values).embedding.float(), dim=-1)

    def texts(self, pooled: Tensor) -> Tensor:
        """(M, D) float32, L2-normalised."""
        return F.normalize(self.text(pooled), dim=-1)

    def scale(self) -> Tensor:
        """(1,): 1 / temperature."""
        return self.log_scale.exp().clamp(max=_MAX_SCALE)


@torch.no_grad()
def make_isometric(head: TextHead, pooled: Tensor) -> None:
    """Set ``head`` to a centring of the frozen vectors followed by a random matrix with orthonormal columns.

    An isometry keeps all distances. A head trained on a few thousand phrases bends the frozen encoder's idea of which
    texts are alike, and words that were not among them suffer.

    Args:
        head: changed in place.
        pooled: (T, hidden) frozen vectors of the texts at hand; their mean becomes the origin.

    Raises:
        InputError: the shared space is narrower than the frozen encoder.
    """
    out, hidden = head.proj.weight.shape
    if out < hidden:
        raise InputError(
            f"text_start='isometric': the shared space has {out} dimensions, {hidden} are due; widen the head"
        )
    plain = F.layer_norm(pooled, (hidden,), eps=head.ln.eps)
    head.ln.weight.fill_(1.0)
    head.ln.bias.copy_(-plain.mean(dim=0))
    nn.init.orthogonal_(head.proj.weight)


def add_noise(texts: Tensor, share: float, random: torch.Generator) -> Tensor:
    """(N, hidden) texts with Gaussian noise of ``share`` times each one's root mean square; 0 leaves them alone."""
    if share == 0:
        return texts
    size = share * texts.square().mean(dim=-1, keepdim=True).sqrt()
    return texts + size * torch.randn(texts.shape, generator=random).to(texts)


def positive_pairs(unit: Tensor, own: Tensor, same_text: float, image_group: Tensor, text_group: Tensor) -> Tensor:
    """Which texts describe which images: (N, M) bool, image i by text j.

    Its own text does, texts that are (nearly) the same do, and a class phrase does for every image of its class.

    Args:
        unit: (M, hidden) frozen text vectors, L2-normalised.
        own: (N,) int64, which of them is image i's own.
        same_text: cosine similarity above which two texts count as the same.
        image_group: (N,) int64, the class of the image, numbered across all data sets; -1: none.
        text_group: (M,) int64, the class that the text names; -1: it is no class phrase.
    """
    used, place = torch.unique(own, return_inverse=True)
    near = unit[used] @ unit.T > same_text
    near[torch.arange(len(used), device=unit.device), used] = True
    of_class = (image_group[:, None] == text_group[None]) & (text_group >= 0)[None]
    return near[place] | of_class


def info_nce(image: Tensor, text: Tensor, logit_scale: Tensor, positives: Tensor) -> Tensor:
    """Symmetric InfoNCE with several positives a row.

    Args:
        image: (N, D) and text: (M, D), L2-normalised.
        logit_scale: scalar, 1 / temperature.
        positives: (N, M) bool; every row has at least one True, as those of :func:`positive_pairs` have. A text that
            describes none of the images is a further negative of the image-to-text direction.

    Returns:
        scalar, 0.5 * (image-to-text + text-to-image).
    """
    logits = logit_scale * image @ text.T
    described = positives.any(dim=0)
    image_to_text = _cross_entropy(logits, positives, dim=1)
    text_to_image = _cross_entropy(logits[:, described], positives[:, described], dim=0)
    return 0.5 * (image_to_text.mean() + text_to_image.mean())


def _cross_entropy(logits: Tensor, positives: Tensor, dim: int) -> Tensor:
    """Of softmax along ``dim`` against equal shares for ``positives``."""
    likely = F.log_softmax(logits, dim=dim).masked_fill(~positives, 0)
    return -likely.sum(dim) / positives.sum(dim)
