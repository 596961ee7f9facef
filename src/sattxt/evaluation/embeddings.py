"""Image embeddings, computed once a model and data set and kept on disk for every figure that needs them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sattxt.classify.results import FloatArray
from sattxt.data.dataset import Samples
from sattxt.errors import ImageError, InputError, WeightsError
from sattxt.evaluation.encoder import Encoder, Image
from sattxt.images.load import Failure, stream
from sattxt.io import atomic_write, first_line, user_cache_dir

#: Part of every key: raised when the same model and images would give other embeddings than before.
VERSION = 1
CHUNK = 256

Transform = Callable[[Image], Image]


class Embedder:
    """Image embeddings of data sets by one model.

    cache: the folder they are kept in, ``None`` for none. Keys are the model's fingerprint, that of the images with
    how they are read, and the name of the transform. on_error: what :meth:`readable` does with images that cannot be
    read; those that were left out are listed in ``skipped``, by their place among the samples.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        cache: Path | bool = True,
        workers: int | None = None,
        progress: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        self.encoder = encoder
        self.hits = 0
        self.skipped: list[Failure] = []
        self._cache = user_cache_dir() / "eval" if cache is True else cache or None
        self._workers = workers
        self._progress = progress
        self._skip = on_error == "skip"
        self._kept: dict[str, FloatArray] = {}

    def __call__(self, data: Samples, transform: Transform | None = None, variant: str = "") -> FloatArray:
        """(N, D) float32 unit vectors of the data's images, in order.

        Args:
            transform: applied to every (H, W, 3) image first; ``variant`` names it, as part of the key.

        Raises:
            ImageError: an image cannot be read, whatever ``on_error`` says; see :meth:`readable`.
        """
        vectors, failures = self._embed(data, transform, variant, skip=False)
        if failures:
            raise ImageError(f"{data.store.path}/{failures[0].error}")
        return vectors

    def readable(self, data: Samples, transform: Transform | None = None, variant: str = "") -> Samples:
        """The data as they are; with ``on_error="skip"`` without the images that cannot be read.

        It takes embedding them to know; the embeddings are kept for the calls that follow.

        Raises:
            InputError: none can be read.
        """
        if not self._skip:
            return data
        vectors, failures = self._embed(data, transform, variant, skip=True)
        if not failures:
            self._kept[self._key(data, variant)] = vectors
            return data
        if len(failures) == len(data):
            raise InputError(
                f"{data.store.path}: none of the {len(data)} images can be read, first {failures[0].error}"
            )
        known = {lost.source for lost in self.skipped}
        self.skipped += [lost for lost in failures if lost.source not in known]
        lost = {each.index for each in failures}
        rows = [i for i in range(len(data)) if i not in lost]
        kept = data.take(rows)
        self._kept[self._key(kept, variant)] = vectors[rows]
        return kept

    def _embed(
        self, data: Samples, transform: Transform | None, variant: str, *, skip: bool
    ) -> tuple[FloatArray, list[Failure]]:
        """Embeddings with rows of NaN for the images that cannot be read, and these."""
        if (transform is None) != (variant == ""):
            raise InputError("a transform and the name of its variant go together")
        key = self._key(data, variant) if self._skip or isinstance(self._cache, Path) else ""
        if key in self._kept:
            return self._kept[key], []
        path = self._cache / f"{key}.npy" if isinstance(self._cache, Path) else None
        found = _load(path, len(data)) if path else None
        if found is not None:
            lost = np.flatnonzero(np.isnan(found[:, 0])).tolist() if found.size else []
            failures = [found for found in (_failure(data, i) for i in lost) if found]
            if len(failures) == len(lost):
                self.hits += 1
                return found, failures
        vectors, failures = self._compute(data, transform, skip=skip)
        if path and len(failures) < len(data):
            _save(path, vectors)
        return vectors, failures

    def _key(self, data: Samples, variant: str) -> str:
        key = f"{VERSION} {self.encoder.fingerprint} {data.pixels_fingerprint} {variant}"
        return hashlib.sha256(key.encode()).hexdigest()[:40]

    def _compute(self, data: Samples, transform: Transform | None, *, skip: bool) -> tuple[FloatArray, list[Failure]]:
        from tqdm import tqdm

        def load(index: int) -> Image:
            image = data.image(index)
            return image if transform is None else transform(image)

        parts: list[FloatArray] = []
        indices: list[int] = []
        refused: list[Failure] = []
        batches = stream(
            range(len(data)),
            load,
            batch_size=CHUNK,
            workers=self._workers,
            on_error="skip" if skip else "raise",
            name_of=lambda index, _: f"{data.store.path}/{data.samples[index].id}",
        )
        with tqdm(total=len(data), unit="image", disable=not self._progress, delay=1, leave=False) as bar:
            for batch in batches:
                try:
                    parts.append(self.encoder.encode_images(batch.images))
                    indices += batch.indices
                except ImageError:
                    if not skip:
                        raise
                    for index, image in zip(batch.indices, batch.images, strict=True):
                        try:
                            parts.append(self.encoder.encode_images([image]))
                            indices.append(index)
                        except ImageError as error:
                            refused.append(failure(data, index, error))
                bar.update(len(batch))
        unread = [failure(data, f.index, f.error) for f in batches.failures]
        failures = sorted([*unread, *refused], key=lambda f: f.index)
        if not failures:
            return np.concatenate(parts), []
        width = parts[0].shape[1] if parts else 0
        vectors = np.full((len(data), width), np.nan, dtype=np.float32)
        if parts:
            vectors[indices] = np.concatenate(parts)
        return vectors, failures


def failure(data: Samples, index: int, error: Exception | str) -> Failure:
    """Why a sample's image cannot be read: one line that names it as the data do, without the folder they lie in."""
    line = first_line(error)
    return Failure(index, data.samples[index].id, line.removeprefix(f"{data.store.path}/"))


def _failure(data: Samples, index: int) -> Failure | None:
    """Why an image cannot be read; ``None`` if it can be, after all."""
    try:
        data.image(index)
    except ImageError as error:
        return failure(data, index, error)
    return None


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
        with atomic_write(path) as file:
            np.save(file, vectors)
    except (OSError, WeightsError):
        return
