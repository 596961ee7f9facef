"""Images in, vectors out: sources are read in threads, put into batches, and run through the vision tower."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sattxt.config import ImageConfig
from sattxt.errors import ImageError, InputError, WeightsError
from sattxt.images.load import Failure, LoadedBatch, is_single, sources_of, stream
from sattxt.images.options import ImageOptions, ReadOptions, check_count, merge_options
from sattxt.images.preprocess import PixelValues, Preprocessor, as_pixel_values, check_shape
from sattxt.images.read import source_name, source_path, to_rgb
from sattxt.vision.embeddings import Embeddings, FloatArray
from sattxt.vision.openvino import OpenVinoTower
from sattxt.vision.tower import ImageTokens, VisionTower

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
DEFAULT_BATCH = 64
#: What is larger than this on both sides, in pixels, is a scene and no tile.
LARGEST_TILE = 1500


class EncodeOptions(ReadOptions, total=False):
    """The keyword arguments of :meth:`ImageEncoder.encode`, for type checkers."""

    batch_size: int | None
    workers: int | None
    on_error: OnError
    progress: bool
    normalize: bool


class ImageEncoder:
    """A vision tower, of torch or of OpenVINO, with everything before it.

    Raises:
        InputError: the config's window is too small, or its size is no multiple of the tower's patches, whose last
            ones would be cut off.
    """

    def __init__(
        self, tower: VisionTower | OpenVinoTower, config: ImageConfig, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        patch = tower.config.backbone.patch_size
        if config.size % patch:
            raise InputError(f"size={config.size}: pass a multiple of {patch}, the side of the model's patches")
        self.tower = tower.for_inference(dtype).to(device)
        self.device = device
        self.dtype = dtype
        self.config = config
        self._preprocessor = Preprocessor(config)

    @property
    def precision(self) -> str:
        """In which the tower computes: ``"float32"``, ``"bfloat16"``, ``"int8"``, ..."""
        return str(self.dtype).removeprefix("torch.")

    def to(self, device: torch.device) -> None:
        """Move the tower."""
        self.device = device
        self.tower.to(device)

    def preprocess(self, images: Any, **options: Unpack[ReadOptions]) -> PixelValues:
        """(N, 3, S, S) float32 pixel values of one image or several, which :meth:`encode` takes too."""
        reading = merge_options(options)
        arrays = [to_rgb(source, reading, name=source_name(source, i)) for i, source in enumerate(sources_of(images))]
        return self._preprocessor.batch(arrays).as_subclass(PixelValues)

    @torch.inference_mode()
    def tokens(self, pixel_values: Tensor) -> ImageTokens:
        """Backbone and head tokens as float32, on the tower's device."""
        parts = self.tower.in_passes(pixel_values)
        backbone, cls, patches = (torch.cat(tensors).float() for tensors in list(zip(*parts, strict=True))[:3])
        return ImageTokens(backbone, cls, patches, parts[0].grid)

    @torch.inference_mode()
    def encode_pixels(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, S, S) pixel values to (N, D) float32 embeddings on the tower's device, not normalised.

        Raises:
            WeightsError: they come out as NaN or infinity.
        """
        embedding = torch.cat([part.embedding for part in self.tower.in_passes(pixel_values)]).float()
        if not embedding.sum().isfinite():  # one pass, where a look at each value takes four
            raise WeightsError(
                f"the image tower gives NaN or infinity in {self.precision}; pass dtype='float32', or check the weights"
            )
        return embedding

    def _embed(self, batches: Iterable[LoadedBatch]) -> Generator[tuple[LoadedBatch, Tensor], None, None]:
        """Batches and their embeddings, in order. OpenVINO works on one while the next is read and preprocessed; the
        threads of torch would wait for one another on a CPU.
        """
        if self.tower.backend == "torch":
            for batch in batches:
                yield batch, self.encode_pixels(self._preprocessor.batch([rgb for _, _, rgb in batch]))
            return
        working: tuple[LoadedBatch, Future[Tensor]] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="sattxt-tower") as pool:
            try:
                for batch in batches:
                    pixels = self._preprocessor.batch([rgb for _, _, rgb in batch])
                    done, working = working, (batch, pool.submit(self.encode_pixels, pixels))
                    if done is not None:
                        yield done[0], done[1].result()
            except ImageError:
                if working is not None:
                    yield working[0], working[1].result()
                raise
            if working is not None:
                yield working[0], working[1].result()

    @torch.inference_mode()
    def encode(
        self,
        images: Any,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
        normalize: bool = True,
        **options: Unpack[ReadOptions],
    ) -> Embeddings:
        """Embed one image or several, one row an image; arguments and errors as in :meth:`SatTxt.encode_image`.

        Where the one image given cannot be read, ``on_error="skip"`` raises too.
        """
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error={on_error!r}: pass 'raise' or 'skip'")
        reading = merge_options(options)
        if batch_size is None:
            batch_size = DEFAULT_BATCH
        ready = as_pixel_values(images, self.config.size)
        if ready is not None:
            if reading != ImageOptions():
                raise InputError(f"pixel values take no image options, got {', '.join(options)}")
            parts = [self.encode_pixels(part) for part in torch.split(ready, check_count("batch_size", batch_size))]
            vectors = torch.cat(parts)
            return Embeddings((F.normalize(vectors, dim=-1) if normalize else vectors).cpu().numpy())
        single, sources = is_single(images), sources_of(images)

        def load(source: Any, name: str) -> NDArray[Any]:
            rgb = to_rgb(source, reading, name=name)
            height, width = check_shape(rgb, name)  # here, where it is a failure of this one image
            if min(height, width) > LARGEST_TILE:
                raise ImageError(
                    f"{name}: is {width} x {height} pixels, a whole scene, of which one input of {self.config.size} x "
                    f"{self.config.size} would show nothing; cut it into tiles, or use segment, which takes any size"
                )
            return rgb

        failures: list[Failure] = []
        batches = stream(
            sources,
            load,
            batch_size=batch_size,
            workers=workers or 0 if single else workers,  # for one image, a pool of threads costs more than it brings
            failures=failures if on_error == "skip" and not single else None,
        )
        rows: list[FloatArray] = []
        indices: list[int] = []
        names: list[str | None] = []
        blank: list[str] = []

        def embeddings() -> Embeddings:
            vectors = np.concatenate(rows) if rows else np.zeros((0, 2 * self.tower.config.head.dim), np.float32)
            return Embeddings(vectors, indices, names, failures)

        bar = tqdm(
            total=len(sources) if hasattr(sources, "__len__") else None,
            unit=" images",
            disable=None if progress else True,  # None: it shows on a terminal only
            leave=False,
        )
        try:
            with closing(batches), closing(self._embed(batches)) as embedded, bar:
                for batch, embedding in embedded:
                    if normalize:
                        embedding = F.normalize(embedding, dim=-1)
                    rows.append(embedding.cpu().numpy())
                    indices += [index for index, _, _ in batch]
                    names += [source_path(source) for _, source, _ in batch]
                    blank += [source_name(source, index) for index, source, rgb in batch if _is_blank(rgb)]
                    bar.update(len(batch))
        except ImageError as error:
            error.completed = embeddings()
            raise
        finally:
            if blank:
                log.warning(
                    "%s: all black or all white, as where there is no data; %s embedded anyway; ignore %s",
                    ", ".join(blank[:3]) + (", ..." if len(blank) > 3 else ""),
                    "1 blank image was" if len(blank) == 1 else f"{len(blank)} blank images were",
                    "its label" if len(blank) == 1 else "their labels",
                )
        return embeddings()


def _is_blank(rgb: np.ndarray) -> bool:
    """Whether an (H, W, 3) image is all black or all white."""
    first = int(rgb[0, 0, 0])
    return first in (0, 255) and bool((rgb[::16, ::16] == first).all() and (rgb == first).all())
