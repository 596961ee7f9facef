"""A set of labels turned into one matrix, and images scored against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sattxt.classify.results import FloatArray, ZeroShotBatch, ZeroShotResult
from sattxt.errors import ImageError, InputError

if TYPE_CHECKING:
    from sattxt.config import ModelConfig
    from sattxt.vision.encode import Encoded


@dataclass(frozen=True)
class Calibration:
    """From cosine similarities to probabilities.

    logit_scale: 1 / temperature. scale, bias: Platt scaling of the contrast with the backgrounds (multi-label).
    """

    logit_scale: float
    scale: float = 1.0
    bias: float = 0.0

    @classmethod
    def of(cls, config: ModelConfig) -> Calibration:
        """The one a model's config holds."""
        return cls(config.logit_scale, config.multi_label_scale or 1.0, config.multi_label_bias or 0.0)

    def softmax(self, scores: FloatArray) -> FloatArray:
        """(N, K) cosine similarities to (N, K) probabilities that sum to 1."""
        logits = self.logit_scale * scores
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)

    def contrast(self, scores: FloatArray, backgrounds: FloatArray) -> FloatArray:
        """(N, K) and (N, B) cosine similarities to (N, K) independent probabilities.

        Each label against the mean of the backgrounds: sigmoid(scale * (s c_k - log mean_b exp(s c_b)) + bias).
        """
        logits = self.logit_scale * backgrounds
        peak = logits.max(axis=1, keepdims=True)
        level = peak + np.log(np.exp(logits - peak).mean(axis=1, keepdims=True))
        margin = self.scale * (self.logit_scale * scores - level) + self.bias
        return np.asarray(1 / (1 + np.exp(-np.clip(margin, -60, 60))), dtype=np.float32)


def _cosines(a: FloatArray, b: FloatArray) -> FloatArray:
    """(N, D) and (M, D) unit vectors to (N, M). By torch: numpy's own threads would wait for the model's to end."""
    return (torch.from_numpy(a) @ torch.from_numpy(b).T).numpy()


def label_weights(vectors: FloatArray, counts: Sequence[int]) -> FloatArray:
    """(K, D) unit vectors of labels from their texts' unit vectors: means over each label's, renormalised.

    Args:
        vectors: (T, D), the texts of the first label first; more rows than the counts' sum are ignored.
        counts: how many texts each label has.
    """
    means, start = [], 0
    for count in counts:
        mean = vectors[start : start + count].mean(axis=0)
        means.append(mean / np.linalg.norm(mean))
        start += count
    return np.stack(means).astype(np.float32)


class Classifier:
    """Labels encoded once; call it on images or on their embeddings. The text encoder is not touched again.

    labels: the K labels. weights: (K, D) float32, a unit vector a label.
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        weights: FloatArray,
        calibration: Calibration,
        embed: Callable[..., Encoded],
        backgrounds: FloatArray | None = None,
    ) -> None:
        self.labels = labels
        self.weights = weights
        self.calibration = calibration
        self._embed = embed
        self._backgrounds = backgrounds

    @property
    def multi_label(self) -> bool:
        """Whether every label gets its own probability."""
        return self._backgrounds is not None

    def __call__(self, images: Any, **options: Any) -> ZeroShotResult | ZeroShotBatch:
        """Score images, or embeddings made by the same model.

        Args:
            images: what :meth:`SatTxt.encode_image` takes, or a float array (D,) or (N, D) of embeddings.
            options: those of :meth:`SatTxt.encode_image` (batch_size, workers, on_error, progress, stretch, ...).

        Returns:
            A :class:`ZeroShotResult` for one image or (D,) vector, else a :class:`ZeroShotBatch`.

        Raises:
            ImageError: an image cannot be read; with ``on_error="skip"`` only where it is the one image given.
        """
        found = self._embedded(images, options)
        results = self._score(found.vectors, found.sources)
        return results[0] if found.single else ZeroShotBatch(results, found.indices, found.failures)

    def together(self, images: Any, **options: Any) -> ZeroShotBatch:
        """Classify many tiles at once: each by its scores, and by the tiles that are like it.

        For a collection in which every label is the right one for some of the tiles; frequencies may differ. It helps
        most where a label's words are not quite what the tiles show (``"copse"`` for forest). What a tile is called
        then depends on the others. Time grows with the square of their number.

        Args:
            images, options: as of a call; at least as many tiles as labels.

        Returns:
            ``scores`` are the plain cosines, ``probs`` those of :func:`transduce`: near 0 or 1, and
            surer than they are right.

        Raises:
            InputError: a multi-label classifier, or fewer tiles than labels.
            ImageError: as of a call.
        """
        from sattxt.classify.transduction import transduce

        if self.multi_label:
            raise InputError("tiles classified together have one label each; make the classifier without multi_label")
        found = self._embedded(images, options)
        probs = transduce(found.vectors, self.weights, self.calibration.logit_scale)
        results = self._results(_cosines(found.vectors, self.weights), probs, found.sources)
        return ZeroShotBatch(results, found.indices, found.failures)

    def _embedded(self, images: Any, options: dict[str, Any]) -> Encoded:
        vectors = self._as_embeddings(images)
        if vectors is None:
            found = self._embed(images, **options)
            if found.single and found.failures:  # on_error="skip": there is no batch for the failure to stand in
                raise ImageError(found.failures[0].error)
            return found
        from sattxt.vision.encode import Encoded

        if options:
            raise InputError(f"embeddings take no image options, got {', '.join(options)}")
        matrix = np.atleast_2d(vectors)
        return Encoded(matrix, list(range(len(matrix))), [None] * len(matrix), [], vectors.ndim == 1)

    def _score(self, vectors: FloatArray, sources: Iterable[str | None]) -> list[ZeroShotResult]:
        scores = _cosines(vectors, self.weights)
        if self._backgrounds is None:
            probs = self.calibration.softmax(scores) if len(scores) else scores
        else:
            probs = self.calibration.contrast(scores, _cosines(vectors, self._backgrounds))
        return self._results(scores, probs, sources)

    def _results(self, scores: FloatArray, probs: FloatArray, sources: Iterable[str | None]) -> list[ZeroShotResult]:
        return [
            ZeroShotResult(self.labels, score, prob, self.multi_label, source)
            for score, prob, source in zip(scores, probs, sources, strict=True)
        ]

    def _as_embeddings(self, value: Any) -> FloatArray | None:
        """The value as unit vectors if it is an embedding array of this model's width, else None."""
        if isinstance(value, (list, tuple)) and value and all(getattr(v, "ndim", None) == 1 for v in value):
            value = np.stack([np.asarray(v) for v in value])
        if not hasattr(value, "ndim") or value.ndim not in (1, 2):
            return None
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        if array.dtype.kind != "f":
            return None  # a grey image
        width = self.weights.shape[1]
        if array.shape[-1] != width:
            if array.ndim == 2:
                return None
            raise InputError(f"an embedding of width {array.shape[-1]} was passed; this model's are {width} wide")
        if not np.isfinite(array).all():
            raise InputError("the embeddings hold NaN or infinite values")
        array = array.astype(np.float32)
        norms = np.linalg.norm(array, axis=-1, keepdims=True)
        if (norms == 0).any():
            raise InputError("the embeddings hold an all-zero vector")
        return np.asarray(array / norms, dtype=np.float32)
