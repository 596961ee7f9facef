"""Image embeddings, computed once a model and data set and kept on disk for every figure that needs them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sattxt.errors import InputError
from sattxt.evaluation.datasets import EvalData
from sattxt.evaluation.encoder import Encoder, Image
from sattxt.loading import stream
from sattxt.paths import user_cache_dir
from sattxt.results import FloatArray

#: Part of every key: raised when the same model and images would give other embeddings than before.
VERSION = 1
CHUNK = 256

Transform = Callable[[Image], Image]


class Embedder:
    """Image embeddings of data sets by one model.

    cache: the folder they are kept in, ``None`` for none. Keys are the model's fingerprint, that of the images with
    how they are read, and the name of the transform.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        cache: Path | bool = True,
        workers: int | None = None,
        progress: bool = False,
    ) -> None:
        self.encoder = encoder
        self.hits = 0
        self._cache = user_cache_dir() / "eval" if cache is True else cache or None
        self._workers = workers
        self._progress = progress

    def __call__(self, data: EvalData, transform: Transform | None = None, variant: str = "") -> FloatArray:
        """(N, D) float32 unit vectors of the data's images, in order.

        Args:
            transform: applied to every (H, W, 3) image first; ``variant`` names it, as part of the key.

        Raises:
            ImageError: an image cannot be read.
        """
        if (transform is None) != (variant == ""):
            raise InputError("a transform and the name of its variant go together")
        path = self._path(data, variant)
        found = _load(path, len(data)) if path else None
        if found is not None:
            self.hits += 1
            return found
        vectors = self._compute(data, transform)
        if path:
            _save(path, vectors)
        return vectors

    def _path(self, data: EvalData, variant: str) -> Path | None:
        if not isinstance(self._cache, Path):
            return None
        key = f"{VERSION} {self.encoder.fingerprint} {data.pixels_fingerprint} {variant}"
        return self._cache / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.npy"

    def _compute(self, data: EvalData, transform: Transform | None) -> FloatArray:
        from tqdm import tqdm

        def load(index: int) -> Image:
            image = data.image(index)
            return image if transform is None else transform(image)

        parts: list[FloatArray] = []
        batches = stream(
            range(len(data)),
            load,
            batch_size=CHUNK,
            workers=self._workers,
            name_of=lambda index, _: f"{data.store.path}/{data.samples[index].id}",
        )
        with tqdm(total=len(data), unit="image", disable=not self._progress, delay=1, leave=False) as bar:
            for batch in batches:
                parts.append(self.encoder.encode_images(batch.images))
                bar.update(len(batch))
        return np.concatenate(parts)


def _load(path: Path, rows: int) -> FloatArray | None:
    """The embeddings in a file, unless it is missing, damaged or of another length."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and len(found) == rows and found.dtype == np.float32 else None


def _save(path: Path, vectors: Any) -> None:
    """Write whole or not at all; where the disk refuses, the result is only not kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            try:
                np.save(file, vectors)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        os.replace(temporary, path)
    except OSError:
        return
