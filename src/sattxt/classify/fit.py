"""Whether any label fits a tile at all: a second number beside the probabilities, which only rank the labels given.

A softmax always finds a best label, and a cosine says little by itself: some tiles are near to every text, some texts
to every tile. So each cosine is set against the best that the tile reaches with a wide vocabulary, and the best that
the label reaches with reference pictures: cross-domain similarity local scaling (Conneau et al. 2018,
arXiv 1710.04087, section 2.3) with one neighbour a side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from sattxt.vision.embeddings import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FitReference:
    """What tiles and labels are compared with.

    words: (W, D) unit embeddings of a wide vocabulary. pictures: (P, D) unit embeddings, the middles of groups of
    training tiles. floor: the least that a label counts as reaching with a picture; else a word that nothing looks
    like would fit whatever is a little nearer. scale, bias: from a margin to a probability; 0.5 is where it refuses.
    """

    words: Tensor = field(repr=False)
    pictures: Tensor = field(repr=False)
    floor: float
    scale: float
    bias: float

    def best_pictures(self, weights: FloatArray) -> FloatArray:
        """(K, D) unit vectors of labels to (K,): the cosine of each with its nearest picture, ``floor`` at least."""
        return (self.pictures @ torch.from_numpy(weights).T).amax(dim=0).clamp(min=self.floor).numpy()

    def margins(self, images: FloatArray, scores: FloatArray, best_pictures: FloatArray) -> FloatArray:
        """How much nearer images and labels are to each other than to what is nearest to each, (N, K).

        Args:
            images: (N, D) unit vectors. scores: (N, K) their cosines with the labels.
            best_pictures: (K,), see :meth:`best_pictures`.
        """
        best_words = (torch.from_numpy(np.asarray(images)) @ self.words.T).amax(dim=1, keepdim=True).numpy()
        return np.asarray(2 * scores - best_words - best_pictures)

    def measure(self, images: FloatArray, scores: FloatArray, best_pictures: FloatArray) -> FloatArray:
        """(N,) in [0, 1]: how sure it is that one of the labels at least fits the image; arguments as above."""
        logits = self.scale * self.margins(images, scores, best_pictures).max(axis=1) + self.bias
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))), dtype=np.float32)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> FitReference:
        """From the tensors of a model directory's ``fit.safetensors``: its fields, the vectors in float16."""
        numbers = (float(tensors[name]) for name in ("floor", "scale", "bias"))
        return cls(tensors["words"].float(), tensors["pictures"].float(), *numbers)
