"""A stand-in for a model, for tests of the command line, and how they call it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sattxt.classify.classifier import Calibration, Classifier
from sattxt.cli import app
from sattxt.errors import ImageError
from sattxt.images.load import Failure
from sattxt.images.options import ImageOptions
from sattxt.images.read import to_rgb
from sattxt.segment import Segmentation
from sattxt.vision.embeddings import Embeddings


class BrightnessModel:
    """Embeds a tile as the angle that its mean brightness gives; of two labels the first means dark."""

    fit = None

    def __init__(self) -> None:
        self.opened_with: dict[str, Any] = {}
        self.calls: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        return "BrightnessModel"

    def encode_image(self, images: Any, *, on_error: str = "raise", options: Any = None, **rest: Any) -> Any:
        self.calls.append({"images": list(images), "options": options, **rest})
        rows, indices, failures = [], [], []
        for index, path in enumerate(images):
            try:
                angle = float(to_rgb(path, options or ImageOptions()).mean()) / 255 * np.pi / 2
            except ImageError as error:
                if on_error == "raise":
                    raise
                failures.append(Failure(index, path, str(error)))
                continue
            rows.append([np.cos(angle), np.sin(angle)])
            indices.append(index)
        vectors = np.array(rows, dtype=np.float32).reshape(-1, 2)
        return Embeddings(vectors, indices, [images[i] for i in indices], failures)

    def encode_text(self, texts: list[str], **_: Any) -> Any:
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)

    def classifier(self, labels: Any, *, multi_label: bool = False, **options: Any) -> Classifier:
        self.labels, self.label_options = labels, options
        vectors = np.array([[1, 0], [0, 1]], dtype=np.float32)
        background = np.array([[0.7, 0.7]], dtype=np.float32) if multi_label else None
        return Classifier(dict.fromkeys(labels, 1), vectors, Calibration(10), self.encode_image, background)

    def segment(self, image: Any, labels: Any, **options: Any) -> Segmentation:
        self.label_options = options
        label_map = np.array([[0, 0], [0, 1]], dtype=np.int16)
        scores = np.zeros((2, 2, 2), dtype=np.float32)
        return Segmentation(tuple(labels), label_map, scores, 10.0, np.zeros((2, 2, 3), dtype=np.uint8))


def sattxt(*arguments: str | Path) -> int:
    return app.run([str(argument) for argument in arguments])
