"""Image embeddings, computed once a model and data set and kept on disk for every figure that needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image as Pillow

from sattxt.data.dataset import Samples
from sattxt.errors import ImageError, InputError, WeightsError
from sattxt.evaluation.encoder import Encoder, Image, digest
from sattxt.images.load import Failure, stream
from sattxt.io import atomic_write, first_line, user_cache_dir
from sattxt.vision.embeddings import FloatArray

#: Part of every key: raised when the same model and images would give other embeddings than before.
VERSION = 1
CHUNK = 256


class Embedder:
    """Image embeddings of data sets by one model.

    cache: the folder they are kept in, ``False`` for none. A file's name is a sha256 over the model's fingerprint,
    that of the images with how they are read, the kind of samples and the size of their pixels. on_error: ``"skip"``
    leaves images out that cannot be read; ``skipped`` lists them, by their place among the samples.
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

    def __call__(self, data: Samples, factor: float = 1) -> tuple[Samples, FloatArray]:
        """The data, and (N, D) float32 unit vectors of their images, in order.

        With ``on_error="skip"`` the data come back without the images that cannot be read.

        Args:
            factor: show the model pixels so many times as large, see :func:`degrade`.

        Raises:
            ImageError: an image cannot be read (``on_error="raise"``). InputError: none can be.
        """
        path, known = None, {}
        if self._cache:
            key = digest(VERSION, self.encoder.fingerprint, data.pixels_fingerprint, type(data).__name__, factor)
            path = Path(self._cache) / f"{key}.npy"
            known = _load(path, len(data))
        missing = [row for row in range(len(data)) if row not in known]
        for rows, images in self.read(data, missing, factor=factor):
            self._encode(data, rows, images, known)
        kept = self.readable(data, sorted(known))
        vectors = np.stack([known[row] for row in sorted(known)])
        if path and not known.keys().isdisjoint(missing):
            every = np.full((len(data), vectors.shape[1]), np.nan, dtype=np.float32)
            every[sorted(known)] = vectors
            with suppress(OSError, WeightsError), atomic_write(path) as file:  # a full disk: they are only not kept
                np.save(file, every)
        return kept, vectors

    def readable(self, data: Samples, rows: Sequence[int]) -> Samples:
        """The data with the rows that could be read.

        Raises:
            InputError: there are none.
        """
        if not rows:
            first = self.skipped[-len(data)].error
            raise InputError(f"{data.store.path}: none of the {len(data)} images can be read, first {first}")
        return data if len(rows) == len(data) else data.take(rows)

    def read(
        self, data: Samples, rows: Sequence[int], batch_size: int = CHUNK, factor: float = 1
    ) -> Iterator[tuple[list[int], list[Image]]]:
        """Images in batches, with their rows among the samples; errors as :meth:`__call__`."""
        from tqdm import tqdm

        lost: list[Failure] = []
        batches = stream(
            rows,
            lambda row, _: data.image(row) if factor == 1 else degrade(data.image(row), factor),
            batch_size=batch_size,
            workers=self._workers,
            failures=lost if self._on_error == "skip" else None,
            name_of=lambda row, _: f"{data.store.path}/{data.samples[row].id}",
        )
        bar = tqdm(total=len(rows), unit="image", disable=not self._progress, delay=1, leave=False)
        with closing(batches), bar:
            for batch in batches:
                yield [rows[i] for i, _, _ in batch], [image for _, _, image in batch]
                bar.update(len(batch))
        for each in lost:
            self._skip(data, rows[each.index], each.error)

    def _encode(self, data: Samples, rows: Sequence[int], images: Sequence[Image], known: dict[int, Any]) -> None:
        """Add the embeddings of images by row; where a model refuses one of them, one by one."""
        try:
            known.update(zip(rows, self.encoder.encode_images(images), strict=True))
        except ImageError as error:
            if self._on_error == "raise":
                raise
            if len(rows) == 1:
                self._skip(data, rows[0], error)
            else:
                for row, image in zip(rows, images, strict=True):
                    self._encode(data, [row], [image], known)

    def _skip(self, data: Samples, row: int, error: Exception | str) -> None:
        """Note why an image is left out: one line that names it as the data do, without the folder they lie in."""
        line = first_line(error).removeprefix(f"{data.store.path}/")
        self.skipped.append(Failure(row, data.samples[row].id, line))


def degrade(image: Image, factor: float) -> Image:
    """An (H, W, 3) image with pixels ``factor`` times as large: each the mean of those it covers.

    It comes out smaller; models resize it to their input size, as they would a tile of that resolution.
    """
    size = [max(1, round(side / factor)) for side in image.shape[1::-1]]
    if image.dtype == np.uint8:
        return np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.BOX))
    planes = [Pillow.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    return np.stack([np.asarray(plane.resize(size, Pillow.Resampling.BOX)) for plane in planes], axis=-1)


def _load(path: Path, rows: int) -> dict[int, FloatArray]:
    """The embeddings in a file by row; none if it is missing, damaged or of another length."""
    with suppress(OSError, ValueError, EOFError):
        found: FloatArray = np.load(path, allow_pickle=False)
        if found.ndim == 2 and len(found) == rows and found.dtype == np.float32:
            return {row: vector for row, vector in enumerate(found) if not np.isnan(vector[0])}
    return {}
