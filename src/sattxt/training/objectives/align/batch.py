"""A batch of stage 2."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sattxt.training.objectives.base import Batch


@dataclass
class AlignBatch(Batch):
    """A micro-batch of stage 2; N tiles, set after set.

    pixels: (N, 3, S, S) float32; or else embedded: (N, D) float32, where tiles are embedded once for the whole run.
    labels: for each data set (n,) int64 into its classes, or ``None`` where it has none. classes: for each data set
    (K, hidden), one frozen text vector a class, the same on every rank; or ``None``. rows: (N,) int64, each tile's own
    text (a caption, or a phrase of its class) in the bank; -1: none. texts: (N, hidden), their vectors, zeros where
    there is none. image_group, text_group: (N,) int64, see ``PromptBook.draw``; -1: none. extra_rows: (E,),
    extra: (E, hidden), further captions, the same on every rank, which are negatives of tiles that they are not written
    of. noise_seed: of ``text_noise``.
    """

    pixels: Tensor | None
    embedded: Tensor | None
    labels: list[Tensor | None]
    classes: list[Tensor | None]
    rows: Tensor
    texts: Tensor
    image_group: Tensor
    text_group: Tensor
    extra_rows: Tensor
    extra: Tensor
    noise_seed: int
