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
    unit: Tensor,
    own: Tensor,
    same_text: float,
    image_group: Tensor | None = None,
    text_group: Tensor | None = None,
) -> Tensor:
    """Which texts describe which images: (N, M) bool, image i by text j.

    Its own texts do, texts that are (nearly) the same do, and a class phrase does for every image of its class.

    Args:
        unit: (M, hidden) frozen text vectors, L2-normalised.
        own: (N, K) int64, which of them are image i's own; -1: none.
        same_text: cosine similarity above which two texts count as the same.
        image_group: (N,) int64, the class of the image, numbered across all data sets; -1: none.
        text_group: (M,) int64, the class that the text names; -1: it is no class phrase.
    """
    used = torch.unique(own[own >= 0])
    near = unit[used] @ unit.T > same_text
    near[torch.arange(len(used), device=unit.device), used] = True
    positives = torch.zeros(len(own), len(unit), dtype=torch.bool, device=unit.device)
    for column in own.T:
        positives[column >= 0] |= near[torch.searchsorted(used, column[column >= 0])]
    if image_group is not None and text_group is not None:
        positives |= (image_group[:, None] == text_group[None]) & (text_group >= 0)[None]
    return positives


def info_nce(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    positives: Tensor,
    log_frequency: Tensor | None = None,
    compared: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE with several positives a row.

    Args:
        image: (N, D) and text: (M, D), L2-normalised.
        logit_scale: scalar, 1 / temperature.
        positives: (N, M) bool; every row has at least one True. A text that describes none of the images is a further
            negative of the image-to-text direction.
        log_frequency: (M,), added to the logits of the image-to-text direction (logit adjustment, as in
            :func:`class_contrast`): a text that stands for many in a collection is no better an answer for that.
        compared: (N, M) bool, the pairs that are told apart, ``positives`` among them; all by default.

    Returns:
        scalar, 0.5 * (image-to-text + text-to-image).
    """
    if not bool(positives.any(dim=1).all()):
        raise InputError("positives: every image needs at least one text")
    logits = logit_scale * image @ text.T
    if compared is not None:
        logits = logits.masked_fill(~compared, -torch.inf)
    rows = logits if log_frequency is None else logits + log_frequency
    told = positives.any(dim=0)
    image_to_text = _cross_entropy(rows, positives, dim=1)
    text_to_image = _cross_entropy(logits[:, told], positives[:, told], dim=0)
    return 0.5 * (image_to_text.mean() + text_to_image.mean())


def _cross_entropy(logits: Tensor, positives: Tensor, dim: int) -> Tensor:
    """Of softmax along ``dim`` against equal shares for ``positives``."""
    likely = F.log_softmax(logits, dim=dim).masked_fill(~positives, 0)
    return -likely.sum(dim) / positives.sum(dim)


def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    positives: Tensor,
    compared: Tensor | None = None,
) -> Tensor:
    """SigLIP: every pair is its own binary decision. Shapes as in :func:`info_nce`; the sum is divided by N."""
    logits = logit_scale * image @ text.T + logit_bias
    likely = F.logsigmoid(torch.where(positives, 1.0, -1.0) * logits)
    return -(likely if compared is None else likely[compared]).sum() / image.shape[0]


def class_contrast(
    image: Tensor,
    classes: Tensor,
    labels: Tensor,
    logit_scale: Tensor,
    smoothing: float = 0.0,
    log_prior: Tensor | None = None,
    others: Tensor | None = None,
    share: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of images against one text embedding a class of their own data set.

    Args:
        image: (N, D), classes: (K, D), L2-normalised. labels: (N,) int64 in [0, K).
        log_prior: (K,), added to the logits: what is learnt then leaves out how frequent classes are in training
            (logit adjustment; Menon et al. 2021, arXiv 2007.07314, equation 10).
        others: (N,) int64 in [0, K), a second class of each image. share: (N,) in [0, 1], what of its target the first
            has; the second has the rest. Both or neither.
    """
    logits = logit_scale * image @ classes.T
    if log_prior is not None:
        logits = logits + log_prior
    if others is None or share is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    first, second = (
        F.cross_entropy(logits, which, label_smoothing=smoothing, reduction="none") for which in (labels, others)
    )
    return torch.lerp(second, first, share).mean()
