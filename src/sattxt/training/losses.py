"""Contrastive objectives of stage 2, on L2-normalised embeddings.

InfoNCE follows SATtxt, section 3.2 (symmetric, on cosine similarity with a temperature); several positives a row, as
repeated captions make, share the target mass equally (Khosla et al. 2020, arXiv 2004.11362, outside the log).
The sigmoid loss is SigLIP's (Zhai et al. 2023, arXiv 2303.15343, section 3.1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.errors import InputError


def positive_pairs(
    unit: Tensor, same_text: float, image_group: Tensor | None = None, text_group: Tensor | None = None
) -> Tensor:
    """Which texts describe which images: (N, N) bool, image i by text j.

    Its own text does, texts that are (nearly) the same do, and a class phrase does for every image of its class.

    Args:
        unit: (N, hidden) frozen text vectors, L2-normalised; row i is image i's text.
        same_text: cosine similarity above which two texts count as the same.
        image_group: (N,) int64, the class of the image, numbered across all data sets; -1: none.
        text_group: (N,) int64, the class that the text names; -1: it is no class phrase.
    """
    positives = unit @ unit.T > same_text
    positives.fill_diagonal_(True)
    if image_group is not None and text_group is not None:
        positives |= (image_group[:, None] == text_group[None]) & (text_group >= 0)[None]
    return positives


def info_nce(
    image: Tensor, text: Tensor, logit_scale: Tensor, positives: Tensor, extra_text: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE with several positives a row.

    Args:
        image: (N, D) and text: (M, D), L2-normalised.
        logit_scale: scalar, 1 / temperature.
        positives: (N, M) bool; every row and every column has at least one True.
        extra_text: (E, D) further negatives for the image-to-text direction.

    Returns:
        scalar, 0.5 * (image-to-text + text-to-image).
    """
    if not bool(positives.any(dim=0).all() and positives.any(dim=1).all()):
        raise InputError("positives: every image and every text needs at least one partner")
    logits = logit_scale * image @ text.T
    targets = positives.to(logits.dtype)
    rows = logits if extra_text is None else torch.cat([logits, logit_scale * image @ extra_text.T], dim=1)
    image_to_text = -(F.log_softmax(rows, dim=1)[:, : text.shape[0]] * targets).sum(1) / targets.sum(1)
    text_to_image = -(F.log_softmax(logits, dim=0) * targets).sum(0) / targets.sum(0)
    return 0.5 * (image_to_text.mean() + text_to_image.mean())


def sigmoid_loss(image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor, positives: Tensor) -> Tensor:
    """SigLIP: every pair is its own binary decision. Shapes as in :func:`info_nce`; the sum is divided by N."""
    logits = logit_scale * image @ text.T + logit_bias
    signs = torch.where(positives, 1.0, -1.0)
    return -F.logsigmoid(signs * logits).sum() / image.shape[0]


def class_contrast(
    image: Tensor,
    classes: Tensor,
    labels: Tensor,
    logit_scale: Tensor,
    smoothing: float = 0.0,
    log_prior: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of images against one text embedding a class of their own data set.

    Args:
        image: (N, D), classes: (K, D), L2-normalised. labels: (N,) int64 in [0, K).
        log_prior: (K,), added to the logits: what is learnt then leaves out how frequent classes are in training
            (logit adjustment; Menon et al. 2021, arXiv 2007.07314, equation 10).
    """
    logits = logit_scale * image @ classes.T
    return F.cross_entropy(logits if log_prior is None else logits + log_prior, labels, label_smoothing=smoothing)
