"""Embeddings as arrays: their types, and the array that knows which images its rows belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import InputError

if TYPE_CHECKING:
    from sattxt.images.load import Failure

FloatArray: TypeAlias = NDArray[np.float32]
#: (D,): the embedding of one image or text.
Vector: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float32]]
#: (N, D): those of several.
Matrix: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]


class Embeddings(np.ndarray[tuple[int, int], np.dtype[np.float32]]):
    """Embeddings of several images: an (N, D) float32 array that knows which images its rows belong to.

    It is used like any other array. Slices and results of arithmetic are plain arrays.

    Attributes:
        indices: for each row, the position of its image in the input.
        sources: for each row, the path or file name of its image, ``None`` where it has none.
        failures: the images that could not be read and have no row (``on_error="skip"``).
    """

    indices: list[int]
    sources: list[str | None]
    failures: list[Failure]

    def __new__(  # noqa: D102
        cls,
        vectors: FloatArray,
        indices: Sequence[int] | None = None,
        sources: Sequence[str | None] | None = None,
        failures: Sequence[Failure] = (),
    ) -> Embeddings:
        embeddings = np.asarray(vectors, dtype=np.float32).view(cls)
        embeddings.indices = list(range(len(vectors)) if indices is None else indices)
        embeddings.sources = [None] * len(vectors) if sources is None else list(sources)
        embeddings.failures = list(failures)
        return embeddings

    def __reduce__(self) -> tuple[Any, ...]:
        return Embeddings, (np.asarray(self), self.indices, self.sources, self.failures)

    def __getitem__(self, item: Any) -> Any:
        return np.asarray(self)[item]

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        return array[()]


def unit_rows(embeddings: Any) -> FloatArray:
    """Embeddings (D,) or (N, D) as float32 of length 1.

    Raises:
        InputError: a value is NaN or infinite, or a vector is all zero.
    """
    array = np.asarray(embeddings, dtype=np.float32)
    if not np.isfinite(array).all():
        raise InputError("the embeddings hold NaN or infinite values")
    norms = np.linalg.norm(array, axis=-1, keepdims=True)
    if (norms == 0).any():
        raise InputError("the embeddings hold an all-zero vector")
    return array / norms


def similarity(a: Any, b: Any) -> FloatArray:
    """Cosine similarity of embeddings: (N, D) and (M, D) to (N, M) float32; a (D,) side loses its axis.

    Raises:
        InputError: they are not embeddings, or of different widths.
    """
    try:
        left, right = (np.asarray(side, dtype=np.float32) for side in (a, b))
    except (TypeError, ValueError) as error:
        raise InputError("similarity takes embeddings; encode_image and encode_text make them") from error
    if left.ndim not in (1, 2) or right.ndim not in (1, 2) or left.shape[-1] != right.shape[-1]:
        raise InputError(f"similarity needs (N, D) and (M, D) embeddings, got {left.shape} and {right.shape}")
    return np.asarray(unit_rows(left) @ unit_rows(right).T, dtype=np.float32)
