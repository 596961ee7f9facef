"""Images in, vectors out: sources are read in threads, put into batches, and run through the vision tower."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.classify.results import Embeddings, FloatArray
from sattxt.config import SMALLEST_WINDOW, ImageConfig
from sattxt.errors import ImageError, InputError
from sattxt.images.load import Failure, source_name, stream
from sattxt.images.preprocess import Preprocessor, check_size
from sattxt.images.read import ImageOptions, to_rgb
from sattxt.vision.tower import ImageTokens, VisionTower

log = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
DEFAULT_BATCH = 64
_PLAIN = ImageOptions()


@dataclass(frozen=True)
class Encoded:
    """What :meth:`ImageEncoder.embed` found.

    vectors: (N, D) float32. indices: for each row, the position of its tile in the input. sources: its path, if it
    had one. failures: tiles that could not be read. single: whether the input was one tile, not a list.
    """

    vectors: FloatArray
    indices: list[int]
    sources: list[str | None]
    failures: list[Failure]
    single: bool


class ImageEncoder:
    """A vision tower with everything before it.

    Raises:
        InputError: the config's window is too small, or its size is no multiple of the tower's patches, whose last
            ones would be cut off.
    """

    def __init__(self, tower: VisionTower, config: ImageConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        patch = getattr(getattr(tower.backbone, "config", None), "patch_size", 1)
        if config.size % patch:
            raise InputError(f"size={config.size}: pass a multiple of {patch}, the side of the model's patches")
        if config.window is not None and config.window < SMALLEST_WINDOW:
            raise InputError(f"window={config.window}: pass at least {SMALLEST_WINDOW} pixels")
        self.tower = tower.for_inference(dtype).to(device)
        self.device = device
        self.dtype = dtype
        self.width = 2 * tower.config.head.dim
        self._preprocessor = Preprocessor(config)
        self._size = config.size

    @property
    def step(self) -> int | None:
        """Images that one pass of the tower takes at most, see :meth:`VisionTower.images_per_pass`."""
        return self.tower.images_per_pass(self._size, self.device)

    def to(self, device: torch.device) -> None:
        """Move the tower."""
        self.device = device
        self.tower.to(device)

    def preprocess(self, images: Any, options: ImageOptions) -> Tensor:
        """(N, 3, S, S) float32 pixel values of one tile or several."""
        sources, _ = as_sources(images)
        arrays = [to_rgb(source, options, name=source_name(source, i)) for i, source in enumerate(sources)]
        return self._preprocessor.batch(arrays)

    @torch.inference_mode()
    def tokens(self, pixel_values: Tensor) -> ImageTokens:
        """Backbone and head tokens as float32, on the tower's device."""
        parts = self._passes(pixel_values)
        backbone, cls, patches = (torch.cat(tensors).float() for tensors in list(zip(*parts, strict=True))[:3])
        return ImageTokens(backbone, cls, patches, parts[0].grid)

    def _passes(self, pixel_values: Tensor) -> list[ImageTokens]:
        count = len(pixel_values)
        step = self.step or max(1, count)
        starts = range(0, max(1, count), step)
        return [self.tower(pixel_values[start : start + step].to(self.device)) for start in starts]

    @torch.inference_mode()
    def embed(
        self,
        images: Any,
        options: ImageOptions,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
        normalize: bool = True,
    ) -> Encoded:
        """Embed tiles; arguments as in :meth:`SatTxt.encode_image`."""
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error={on_error!r}: pass 'raise' or 'skip'")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size={batch_size}: pass 1 or more")
        sources, single = as_sources(images)
        if single and workers is None:
            workers = 0  # a pool of threads costs more than it brings
        names: dict[int, str | None] = {}
        blank: list[tuple[int, str]] = []

        def load(item: tuple[int, Any]) -> np.ndarray:
            index, source = item
            names[index] = source_name(source, None)
            name = source_name(source, index)
            rgb = to_rgb(source, options, name=name)
            check_size(rgb, name)  # here, where it is a failure of this one image
            if _is_blank(rgb):
                blank.append((index, name))
            return rgb

        loader = stream(
            enumerate(sources),
            load,
            batch_size=batch_size or DEFAULT_BATCH,
            workers=workers,
            on_error=on_error,
            name_of=lambda item, index: source_name(item[1], index),
        )
        parts: list[FloatArray] = []
        indices: list[int] = []
        try:
            with loader, _progress_bar(progress, sources) as bar:
                for batch in loader:
                    tokens = self._passes(self._preprocessor.batch(batch.images))
                    embedding = torch.cat([part.embedding for part in tokens]).float()
                    if normalize:
                        embedding = F.normalize(embedding, dim=-1)
                    parts.append(embedding.cpu().numpy())
                    indices.extend(batch.indices)
                    bar.update(len(batch.indices))
        except ImageError as error:
            error.completed = Embeddings(_stack(parts, self.width), indices, loader.failures)
            raise
        finally:
            _tell_of(blank)
        sources_kept = [names[i] for i in indices]
        return Encoded(_stack(parts, self.width), indices, sources_kept, loader.failures, single)


def _is_blank(rgb: np.ndarray) -> bool:
    """Whether an (H, W, 3) image is all black or all white."""
    first = int(rgb[0, 0, 0])
    return first in (0, 255) and bool((rgb[::16, ::16] == first).all() and (rgb == first).all())


def _tell_of(blank: list[tuple[int, str]]) -> None:
    if blank:
        names = [name for _, name in sorted(blank)]
        log.warning(
            "%s: all black or all white, as where there is no data; %d such image%s embedded like any other, but no "
            "label of it means anything",
            ", ".join(names[:3]) + (", ..." if len(names) > 3 else ""),
            len(names),
            " was" if len(names) == 1 else "s were",
        )


def _stack(parts: list[FloatArray], width: int) -> FloatArray:
    return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)


def merge_options(options: ImageOptions | None, named: Mapping[str, Any]) -> ImageOptions:
    """``options`` with single ones replaced by name.

    Raises:
        InputError: a name is no image option.
    """
    if not named:
        return options or _PLAIN
    known = set(ImageOptions.__dataclass_fields__)
    unknown = sorted(set(named) - known)
    if unknown:
        raise InputError(f"unknown option {unknown[0]!r}; images take {', '.join(sorted(known))}")
    return replace(options or _PLAIN, **named)


def as_sources(images: Any) -> tuple[Iterable[Any], bool]:
    """The tiles in ``images``, and whether it was a single one.

    Raises:
        InputError: it is neither an image nor a collection of them.
    """
    if isinstance(images, (str, os.PathLike)) or hasattr(images, "read") or hasattr(images, "getbands"):
        return [images], True
    if hasattr(images, "ndim"):
        if images.ndim in (2, 3):
            return [images], True
        if images.ndim == 4:
            return images, False
        raise InputError(f"an array of {images.ndim} axes is no tile; pass (H, W, 3), (3, H, W) or (N, H, W, 3)")
    if isinstance(images, Iterable) and not isinstance(images, (bytes, Mapping)):
        return images, False
    raise InputError(
        f"{type(images).__name__} is no image; pass a path, an open file, a PIL image, an array, or a list of these"
    )


def _progress_bar(show: bool, sources: Any) -> Any:
    if not show:
        return _NoBar()
    from tqdm import tqdm

    total = len(sources) if hasattr(sources, "__len__") else None
    return tqdm(total=total, unit=" images", disable=None, leave=False)  # None: only on a terminal


class _NoBar(nullcontext[Any]):
    """Where no progress is shown."""

    def __enter__(self) -> _NoBar:
        return self

    def update(self, count: int) -> None:
        """Nothing to show."""
