"""Image embeddings, computed once a model and data set and kept on disk for every figure that needs them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal

import numpy as np

from sattxt.data.dataset import Samples
from sattxt.errors import ImageError, InputError, WeightsError
from sattxt.evaluation.encoder import Encoder, digest
from sattxt.images.load import Failure, stream
from sattxt.io import atomic_write, first_line, user_cache_dir
from sattxt.vision.embeddings import FloatArray

#: Part of every key: raised when the same model and images would give other embeddings than before.
VERSION = 1
CHUNK = 256


class Embedder:
    """Image embeddings of data sets by one model.

    cache: the folder they are kept in, ``False`` for none. A file's name is a sha256 over the model's fingerprint,
    that of the images with how they are read, and the kind of samples. on_error: ``"skip"`` leaves images out that
    cannot be read; ``skipped`` lists them, by their place among the samples.
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
        self.skipped: list[Failure] = []
        self._cache = user_cache_dir() / "eval" if cache is True else cache or None
        self._workers = workers
        self._progress = progress
        self._on_error = on_error

    def __call__(self, data: Samples) -> tuple[Samples, FloatArray]:
        """The data, and (N, D) float32 unit vectors of their images, in order.

        With ``on_error="skip"`` the data come back without the images that cannot be read.

        Raises:
            ImageError: an image cannot be read (``on_error="raise"``). InputError: none can be.
        """
        path = None
        vectors = np.empty((0, 0), np.float32)
        if self._cache:
            key = digest(VERSION, self.encoder.fingerprint, data.pixels_fingerprint, type(data).__name__)
            path = Path(self._cache) / f"{key}.npy"
            vectors = _load(path, len(data))
        unknown = np.flatnonzero(np.isnan(vectors[:, 0])).tolist() if vectors.size else list(range(len(data)))
        if not unknown:
            return data, vectors
        done, found, failures = self._compute(data, unknown)
        if len(failures) == len(data):
            first = failures[0].error
            raise InputError(f"{data.store.path}: none of the {len(data)} images can be read, first {first}")
        vectors = vectors if vectors.size else np.full((len(data), found.shape[1]), np.nan, dtype=np.float32)
        if done:
            vectors[done] = found
        if done and path is not None:
            with suppress(OSError, WeightsError), atomic_write(path) as file:  # a full disk: they are only not kept
                np.save(file, vectors)
        if not failures:
            return data, vectors
        self.skipped += failures
        rows = np.flatnonzero(~np.isnan(vectors[:, 0])).tolist()
        return data.take(rows), vectors[rows]

    def _compute(self, data: Samples, rows: Sequence[int]) -> tuple[list[int], FloatArray, list[Failure]]:
        """The rows whose images were embedded, their embeddings, and the images that could not be."""
        from tqdm import tqdm

        done: list[int] = []
        parts: list[FloatArray] = []
        failures: list[Failure] = []
        lost: list[Failure] = []
        batches = stream(
            rows,
            lambda row, _: data.image(row),
            batch_size=CHUNK,
            workers=self._workers,
            failures=lost if self._on_error == "skip" else None,
            name_of=lambda row, _: f"{data.store.path}/{data.samples[row].id}",
        )
        bar = tqdm(total=len(rows), unit="image", disable=not self._progress, delay=1, leave=False)
        with closing(batches), bar:
            for batch in batches:
                known = [rows[i] for i in batch.indices]
                try:
                    parts.append(self.encoder.encode_images(batch.images))
                    done += known
                except ImageError:
                    if self._on_error == "raise":
                        raise
                    for row, image in zip(known, batch.images, strict=True):
                        try:
                            parts.append(self.encoder.encode_images([image]))
                            done.append(row)
                        except ImageError as error:
                            failures.append(failure(data, row, error))
                bar.update(len(batch))
        failures += [failure(data, rows[each.index], each.error) for each in lost]
        found = np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
        return done, found, sorted(failures, key=lambda each: each.index)


def failure(data: Samples, row: int, error: Exception | str) -> Failure:
    """Why a sample's image cannot be read: one line that names it as the data do, without the folder they lie in."""
    return Failure(row, data.samples[row].id, first_line(error).removeprefix(f"{data.store.path}/"))


def _load(path: Path, rows: int) -> FloatArray:
    """The embeddings in a file; none if it is missing, damaged or of another length."""
    with suppress(OSError, ValueError, EOFError):
        found: FloatArray = np.load(path, allow_pickle=False)
        if found.ndim == 2 and len(found) == rows and found.dtype == np.float32:
            return found
    return np.empty((0, 0), np.float32)
