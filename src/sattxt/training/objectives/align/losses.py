"""Contrastive objectives of stage 2, on L2-normalised embeddings.

InfoNCE follows SATtxt, section 3.2 (symmetric, on cosine similarity with a temperature); several positives a row, as
repeated captions make, share the target mass equally (Khosla et al. 2020, arXiv 2004.11362, outside the log).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.errors import InputError


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
        positives: (N, M) bool; every row has at least one True. A text that describes none of the images is a further
            negative of the image-to-text direction.

    Returns:
        scalar, 0.5 * (image-to-text + text-to-image).
    """
    if not bool(positives.any(dim=1).all()):
        raise InputError("positives: every image needs at least one text")
    logits = logit_scale * image @ text.T
    described = positives.any(dim=0)
    image_to_text = _cross_entropy(logits, positives, dim=1)
    text_to_image = _cross_entropy(logits[:, described], positives[:, described], dim=0)
    return 0.5 * (image_to_text.mean() + text_to_image.mean())


def _cross_entropy(logits: Tensor, positives: Tensor, dim: int) -> Tensor:
    """Of softmax along ``dim`` against equal shares for ``positives``."""
    likely = F.log_softmax(logits, dim=dim).masked_fill(~positives, 0)
    return -likely.sum(dim) / positives.sum(dim)


def class_contrast(
    image: Tensor,
    classes: Tensor,
    labels: Tensor,
    logit_scale: Tensor,
    smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of images against one text embedding a class of their own data set.

    Args:
        image: (N, D), classes: (K, D), L2-normalised. labels: (N,) int64 in [0, K).
    """
    return F.cross_entropy(logit_scale * image @ classes.T, labels, label_smoothing=smoothing)
