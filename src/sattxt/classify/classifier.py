"""A set of labels turned into one matrix, and images scored against it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
import torch

from sattxt.classify.fit import FitReference
from sattxt.classify.results import ZeroShotBatch, ZeroShotResult
from sattxt.classify.transduction import transduce
from sattxt.errors import ImageError, InputError
from sattxt.images.load import is_single
from sattxt.labels.prompts import BACKGROUNDS, find_doubts, label_prompts, parse_labels
from sattxt.text.label_bank import LabelBank
from sattxt.vision.embeddings import Embeddings, FloatArray, Matrix, Vector, unit_rows
from sattxt.vision.encode import EncodeOptions, ImageEncoder

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sattxt.config import ModelConfig
    from sattxt.images.read import Tile, Tiles
    from sattxt.text.tower import TextTower

log = logging.getLogger(__name__)

NewLabels: TypeAlias = "Sequence[str] | Mapping[str, str | Sequence[str]]"
LabelInput: TypeAlias = "NewLabels | LabelBank"

_KEPT = 32  # classifiers of which the label matrix is remembered


class ZeroShotOptions(EncodeOptions, total=False):
    """The keyword arguments of :meth:`sattxt.SatTxt.zero_shot`, for type checkers."""

    label_set: str | None
    templates: str | Sequence[str] | None
    instruction: str | None
    multi_label: bool


@dataclass(frozen=True)
class Calibration:
    """From cosine similarities to probabilities.

    logit_scale: 1 / temperature. scale, bias: Platt scaling of the contrast with the backgrounds (multi-label).
    """

    logit_scale: float
    scale: float = 1.0
    bias: float = 0.0

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


class Classifier:
    """Labels encoded once; call it on images or on their embeddings. The text encoder is not touched again.

    Args:
        labels: the K labels, each with how many texts stand for it, one at least.
        texts: (T, D) unit vectors of these texts, those of the first label first.
        calibration: from similarities to probabilities.
        encode: images to embeddings, see :meth:`sattxt.vision.encode.ImageEncoder.encode`.
        backgrounds: (B, D) unit vectors of texts that mean "none of these"; makes a multi-label classifier.
        fit: what tells whether any of the labels fits; ``None``: results do not say.

    Attributes:
        labels: the K labels. weights: (K, D) float32, a unit vector a label: the mean of its texts', renormalised.
    """

    def __init__(
        self,
        labels: Mapping[str, int],
        texts: FloatArray,
        calibration: Calibration,
        encode: Callable[..., Embeddings],
        backgrounds: FloatArray | None = None,
        fit: FitReference | None = None,
    ) -> None:
        self.labels = tuple(labels)
        starts = np.cumsum([0, *labels.values()])[:-1]
        self.weights = unit_rows(np.add.reduceat(texts, starts, axis=0))  # a sum points where the mean does
        self.calibration = calibration
        self._encode = encode
        self._backgrounds = backgrounds
        self._fit = fit
        self._best_pictures = None if fit is None else fit.best_pictures(self.weights)

    def __repr__(self) -> str:
        shown = ", ".join(self.labels[:5]) + (", ..." if len(self.labels) > 5 else "")
        return f"Classifier({len(self.labels)} labels: {shown}{'; several a tile' * self.multi_label})"

    @property
    def multi_label(self) -> bool:
        """Whether every label gets its own probability."""
        return self._backgrounds is not None

    @overload
    def __call__(self, images: Matrix, **options: Unpack[EncodeOptions]) -> ZeroShotBatch: ...
    @overload
    def __call__(self, images: Tile | Vector, **options: Unpack[EncodeOptions]) -> ZeroShotResult: ...  # type: ignore[overload-overlap]  # a str is an iterable of them
    @overload
    def __call__(self, images: torch.Tensor, **options: Unpack[EncodeOptions]) -> ZeroShotResult | ZeroShotBatch: ...
    @overload
    def __call__(self, images: Tiles | Iterable[Vector], **options: Unpack[EncodeOptions]) -> ZeroShotBatch: ...
    def __call__(self, images: Any, **options: Any) -> Any:
        """Score images, or embeddings made by the same model.

        Args:
            images: what :meth:`SatTxt.encode_image` takes, or a float array (D,) or (N, D) of embeddings.
            options: those of :meth:`SatTxt.encode_image` (batch_size, workers, on_error, progress, stretch, ...).

        Returns:
            A :class:`ZeroShotResult` for one image or (D,) vector, else a :class:`ZeroShotBatch`. A type checker takes
            an array for one image unless its type has the shape of several, or is that of embeddings (N, D).

        Raises:
            ImageError: an image cannot be read; with ``on_error="skip"`` only where it is the one image given. Its
                ``completed`` holds the results of the images before it.
        """
        try:
            vectors, single = self._embed(images, options)
        except ImageError as error:
            if error.completed is not None:
                error.completed = self._score(error.completed)
            raise
        batch = self._score(vectors)
        return batch[0] if single else batch

    def together(self, images: Any, **options: Unpack[EncodeOptions]) -> ZeroShotBatch:
        """Classify many tiles together: each by its own scores and by similar tiles.

        For a collection in which every label is right for some of the tiles; how frequent each is does not matter. It
        helps most where labels fit loosely (``"copse"`` for forest). A tile's result then depends on the other tiles.
        Time grows with the square of their number.

        Args:
            images, options: as for a call; at least as many tiles as labels.

        Returns:
            ``scores`` are the plain cosines. ``probs`` are those of :func:`transduce`: near 0 or 1, and overconfident.

        Raises:
            InputError: a multi-label classifier, or fewer tiles than labels.
            ImageError: as for a call.
        """
        if self.multi_label:
            raise InputError("tiles classified together have one label each; make the classifier without multi_label")
        vectors, _ = self._embed(images, options)
        probs = transduce(vectors, self.weights, self.calibration.logit_scale)
        scores = _cosines(vectors, self.weights)
        return self._batch(vectors, scores, probs, self._fits(vectors, scores))

    def _embed(self, images: Any, options: Any) -> tuple[Embeddings, bool]:
        """Unit vectors of the images, or the embeddings given; and whether it is one."""
        given = self._given_embeddings(images)
        if given is None:
            return self._encode(images, **options), is_single(images)
        if options:
            raise InputError(f"embeddings take no image options, got {', '.join(options)}")
        return Embeddings(np.atleast_2d(given)), given.ndim == 1

    def measure(self, vectors: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray | None]:
        """(N, D) embeddings of length 1, each by itself: (N, K) cosines, (N, K) probabilities, and (N,) how sure it is
        that any label fits (``None`` where the model cannot tell). What a call puts into results, as arrays.
        """
        scores, probs = self.compare(vectors)
        return scores, probs, self._fits(vectors, scores)

    def compare(self, vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The cosines and probabilities of :meth:`measure` alone, which take less time."""
        scores = _cosines(vectors, self.weights)
        if self._backgrounds is None:
            return scores, self.calibration.softmax(scores)
        return scores, self.calibration.contrast(scores, _cosines(vectors, self._backgrounds))

    def _fits(self, vectors: FloatArray, scores: FloatArray) -> FloatArray | None:
        if self._fit is None or self._best_pictures is None:
            return None
        return self._fit.measure(vectors, scores, self._best_pictures)

    def _score(self, vectors: Embeddings) -> ZeroShotBatch:
        return self._batch(vectors, *self.measure(vectors))

    def _batch(
        self, vectors: Embeddings, scores: FloatArray, probs: FloatArray, sure: FloatArray | None
    ) -> ZeroShotBatch:
        fits: list[float | None] = [None] * len(scores) if sure is None else sure.tolist()
        results = [
            ZeroShotResult(self.labels, score, prob, self.multi_label, source, fit)
            for score, prob, source, fit in zip(scores, probs, vectors.sources, fits, strict=True)
        ]
        return ZeroShotBatch(results, vectors.indices, vectors.failures)

    def _given_embeddings(self, value: Any) -> FloatArray | None:
        """The value as unit vectors if it holds embeddings of this model's width, else None."""
        if isinstance(value, (list, tuple)) and value and all(getattr(v, "ndim", None) == 1 for v in value):
            value = np.stack([np.asarray(v) for v in value])
        if getattr(value, "ndim", None) not in (1, 2):
            return None
        if getattr(value, "is_meta", False):
            raise InputError("a meta tensor was passed, which has a shape and no values")
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        width = self.weights.shape[1]
        if array.dtype.kind != "f":
            return None
        if array.ndim == 2 and array.shape[1] != width:
            of_length_1 = array.size > 0 and np.allclose(np.linalg.norm(array, axis=1), 1, atol=1e-3)
            if not (of_length_1 or isinstance(value, Embeddings)):
                return None  # a grey image
        if array.shape[-1] != width:
            raise InputError(f"an embedding of width {array.shape[-1]} was passed; this model's are {width} wide")
        return unit_rows(array)


class Classifiers:
    """Makes a model's classifiers and label banks; remembers the latest, so that labels seen before cost nothing."""

    def __init__(
        self, config: ModelConfig, text: TextTower, vision: ImageEncoder, fit: FitReference | None = None
    ) -> None:
        self._backgrounds = list(config.backgrounds or BACKGROUNDS)
        self._config = config
        self._text = text
        self._vision = vision
        self._fit = fit
        self._latest: dict[Hashable, Classifier] = {}

    def make(
        self,
        labels: LabelInput | None,
        label_set: str | None,
        templates: str | Sequence[str] | None,
        instruction: str | None,
        *,
        multi_label: bool,
        progress: bool,
    ) -> Classifier:
        """A classifier; arguments and errors as in :meth:`sattxt.SatTxt.classifier`."""
        asked: Hashable = None
        with suppress(TypeError):  # a label bank, or what is refused below
            asked = _freeze((labels, label_set, templates, instruction, multi_label))
        known = self._latest.get(asked)
        if known is not None:
            return known
        if isinstance(labels, LabelBank):
            self._text.add_bank(labels)
            prompts, instruction = labels.prompts, labels.instruction
            _tell_doubts(prompts, multi_label)
        else:
            prompts = self._prompts(labels, label_set, templates, multi_label)
        texts = [text for group in prompts.values() for text in group]
        backgrounds = self._backgrounds if multi_label else []
        embedded = self._text.embed(texts + backgrounds, instruction=instruction, progress=progress)
        vectors = unit_rows(embedded.cpu().numpy())
        config = self._config
        classifier = Classifier(
            {label: len(group) for label, group in prompts.items()},
            vectors[: len(texts)],
            Calibration(config.logit_scale, config.multi_label_scale or 1.0, config.multi_label_bias or 0.0),
            self._vision.encode,
            vectors[len(texts) :] if multi_label else None,
            self._fit,
        )
        if asked is not None:
            self._latest[asked] = classifier
            if len(self._latest) > _KEPT:
                self._latest.pop(next(iter(self._latest)))
        return classifier

    def bank(
        self,
        labels: NewLabels | None,
        label_set: str | None,
        templates: str | Sequence[str] | None,
        instruction: str | None,
        *,
        progress: bool,
    ) -> LabelBank:
        """The text vectors of labels and backgrounds; arguments and errors as in :meth:`sattxt.SatTxt.classifier`."""
        prompts = self._prompts(labels, label_set, templates, multi_label=True)
        texts = [text for group in prompts.values() for text in group] + self._backgrounds
        name = self._config.name
        return self._text.bank(texts, labels=prompts, model=name, instruction=instruction, progress=progress)

    def _prompts(
        self, labels: NewLabels | None, label_set: str | None, templates: str | Sequence[str] | None, multi_label: bool
    ) -> dict[str, list[str]]:
        texts = parse_labels(labels, label_set=label_set)
        _tell_doubts(texts, multi_label)
        return label_prompts(texts, templates=templates, default=self._config.prompt_templates)


def _tell_doubts(labels: Mapping[str, Sequence[str]], multi_label: bool) -> None:
    for doubt in find_doubts(labels, multi_label=multi_label):
        log.warning("%s", doubt)


def _freeze(value: Any) -> Hashable:
    """Lists, dicts and plain values as a hashable value that is equal for equal content only.

    Raises:
        TypeError: something else is in them.
    """
    if isinstance(value, (list, tuple)):
        plain = set(map(type, value)) <= {str}  # a thousand labels, at every call
        return tuple(value if plain else map(_freeze, value))
    if isinstance(value, Mapping):
        return dict, *map(_freeze, value.items())
    if value is None or isinstance(value, (str, bool)):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be frozen")
