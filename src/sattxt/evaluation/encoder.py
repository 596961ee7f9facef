"""What evaluation asks of a model, and this library's models in that form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import InputError
from sattxt.vision.embeddings import FloatArray

if TYPE_CHECKING:
    from sattxt.model import SatTxt
    from sattxt.segment import Segmentation

Image = NDArray[Any]


class Encoder(Protocol):
    """A model with an image and a text side in one space.

    name: what results call it. fingerprint: sha256 over all that decides its embeddings (weights, preprocessing,
    precision). logit_scale: what cosines are multiplied by before a softmax. templates: its own prompt templates.
    """

    name: str
    fingerprint: str
    logit_scale: float
    templates: tuple[str, ...]

    def encode_images(self, images: Sequence[Image]) -> FloatArray:
        """(N, D) float32 unit vectors of (H, W, 3) images in 0..255, uint8 or float32, of any sizes."""

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """(N, D) float32 unit vectors of texts, taken as they are."""

    def describe(self) -> dict[str, Any]:
        """What a result says of its model, JSON-ready."""


class SatTxtEncoder:
    """A :class:`sattxt.SatTxt`, with one instruction for all texts."""

    def __init__(self, model: SatTxt, *, instruction: str | None = None, batch_size: int | None = None) -> None:
        self.model = model
        self.name = model.config.name
        self.instruction = instruction
        self.logit_scale = model.config.logit_scale
        self.templates = tuple(model.config.prompt_templates)
        self._batch_size = batch_size
        # The config as it is in use: another pixel scaling, precision or kind of device gives other embeddings.
        facts = (model.fingerprint, asdict(model.config), str(model.dtype), model.device.type, instruction)
        self.fingerprint = digest(*facts)

    def encode_images(self, images: Sequence[Image]) -> FloatArray:
        """See :class:`Encoder`."""
        reading: dict[str, Any] = {"batch_size": self._batch_size, "workers": 0, "channels": "last"}
        if any(image.dtype != np.uint8 for image in images):
            images = [image.astype(np.float32) for image in images]
            reading["value_range"] = "0-255"
        return np.asarray(self.model.encode_image(list(images), **reading), dtype=np.float32)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """See :class:`Encoder`."""
        return np.asarray(self.model.encode_text(list(texts), instruction=self.instruction), dtype=np.float32)

    def segment(self, image: Image, prompts: Mapping[str, Sequence[str]], **options: Any) -> Segmentation:
        """Label map of an (H, W, 3) image; a label's complete prompts are averaged."""
        return self.model.segment(
            image,
            {label: list(texts) for label, texts in prompts.items()},
            templates="{}",
            instruction=self.instruction,
            channels="last",
            **options,
        )

    def describe(self) -> dict[str, Any]:
        """See :class:`Encoder`."""
        config = self.model.config
        return {
            "name": self.name,
            "kind": "sattxt",
            "fingerprint": self.fingerprint,
            "embed_dim": self.model.embed_dim,
            "logit_scale": self.logit_scale,
            "image_size": config.image.size,
            "preprocessing": config.image.preset,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "instruction": self.instruction if self.instruction is not None else config.text.instruction,
        }


def unit(vectors: Any) -> FloatArray:
    """Rows scaled to length 1, float32.

    Raises:
        InputError: a row is zero or not finite: the model is broken, and every figure would be.
    """
    matrix = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(matrix, axis=-1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise InputError("the model gave an embedding that is zero or not finite")
    return matrix / norms


def digest(*parts: Any) -> str:
    """One sha256 over JSON-ready parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
