"""Training data in memory: tiles as uint8, read in place from zip archives, with their labels and captions.

Samples that cannot be read are counted, reported and left out, never silently dropped.
"""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sattxt.errors import InputError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".avif", ".webp", ".tif", ".tiff", ".bmp"}


@dataclass
class TileSet:
    """Tiles of one data set and one split.

    images: (N, 3, S, S) uint8. labels: (N,) int64 into ``classes``, or -1 where there is none.
    captions: one list of texts a tile, possibly empty. keys: the tile's path in its archive.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    captions: list[list[str]]
    keys: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)


def read_captions(path: Path) -> dict[str, list[str]]:
    """``image`` to ``captions`` from a jsonl file; rows without a picture are left out."""
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            if row.get("image"):
                captions[row["image"]] = [text.strip() for text in row["captions"] if text.strip()]
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{path}:{number}: expected an object with 'image' and 'captions' ({error})") from error
    return captions


def read_zip(
    path: Path, split: str, size: int, *, name: str, captions: dict[str, list[str]] | None = None, workers: int = 2
) -> TileSet:
    """Tiles of ``{split}/{class}/{file}`` in a zip, resized to ``size`` where they differ.

    Raises:
        InputError: the archive is missing or has no image under ``split/``.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such archive")
    with zipfile.ZipFile(path) as archive:
        keys = sorted(
            key
            for key in archive.namelist()
            if key.startswith(f"{split}/") and PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES
        )
        if not keys:
            raise InputError(f"{path}: no image lies under {split}/ (class folders are expected there)")
        blobs = [archive.read(key) for key in keys]
    classes = tuple(sorted({PurePosixPath(key).parts[1] for key in keys}))
    images = torch.empty((len(keys), 3, size, size), dtype=torch.uint8)
    failed: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            images[index] = torch.from_numpy(_decode(blobs[index], size))
        except (OSError, ValueError) as error:
            failed[index] = str(error)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(decode, range(len(keys))))
    kept = [i for i in range(len(keys)) if i not in failed]
    skipped = [(keys[i], message) for i, message in sorted(failed.items())]
    if skipped:
        log.warning("%s: %d of %d tiles cannot be read, first %s (%s)", path, len(skipped), len(keys), *skipped[0])
        images = images[kept]
    index = {label: i for i, label in enumerate(classes)}
    return TileSet(
        name=name,
        images=images,
        labels=torch.tensor([index[PurePosixPath(keys[i]).parts[1]] for i in kept]),
        classes=classes,
        captions=[(captions or {}).get(keys[i], []) for i in kept],
        keys=[keys[i] for i in kept],
        skipped=skipped,
    )


def _decode(blob: bytes, size: int) -> np.ndarray:
    with Image.open(io.BytesIO(blob)) as image:
        rgb = image.convert("RGB")
        if rgb.size != (size, size):
            rgb = rgb.resize((size, size), Image.Resampling.LANCZOS)
        return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))


class Sampler:
    """Which tiles step ``t`` of a run sees: fixed counts a data set, each set walked in shuffled epochs.

    A pure function of the seed and the step, so that a resumed run sees what it would have seen.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int], seed: int) -> None:
        if len(sizes) != len(counts) or any(c <= 0 for c in counts) or any(s <= 0 for s in sizes):
            raise InputError("every data set needs tiles and a positive count a batch")
        self._sizes, self._counts, self._seed = tuple(sizes), tuple(counts), seed
        self._order: dict[tuple[int, int], Tensor] = {}

    def batch(self, step: int) -> list[Tensor]:
        """One int64 index tensor a data set."""
        return [self._indices(which, step) for which in range(len(self._sizes))]

    def _indices(self, which: int, step: int) -> Tensor:
        size, count = self._sizes[which], self._counts[which]
        positions = range(step * count, (step + 1) * count)
        return torch.stack([self._permutation(which, p // size)[p % size] for p in positions])

    def _permutation(self, which: int, epoch: int) -> Tensor:
        key = (which, epoch)
        if key not in self._order:
            for old in [k for k in self._order if k[0] == which and k[1] < epoch - 1]:
                del self._order[old]
            generator = torch.Generator().manual_seed((self._seed * 1000 + which) * 1_000_003 + epoch)
            self._order[key] = torch.randperm(self._sizes[which], generator=generator)
        return self._order[key]


def unique_texts(groups: Iterable[Iterable[str]]) -> list[str]:
    """All texts once, in first-seen order."""
    return list(dict.fromkeys(text for group in groups for text in group))
