"""Open-vocabulary segmentation against label maps: images and masks of the same names in two folders."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from sattxt.data.archive import Store, is_image, open_store
from sattxt.data.dataset import SPLITS, Dataset, Sample, Samples, by_split, data_name
from sattxt.errors import ImageError, InputError
from sattxt.evaluation.bootstrap import Figure
from sattxt.evaluation.embeddings import failure
from sattxt.evaluation.encoder import Encoder, SatTxtEncoder
from sattxt.evaluation.metrics import sklearn
from sattxt.evaluation.prompts import ClassPrompts
from sattxt.evaluation.result import Result
from sattxt.images.load import Failure
from sattxt.images.options import ImageOptions

#: Classes whose pixels count for nothing.
IGNORED = ("unlabelled", "unlabeled", "ignore", "ignored", "void", "no data", "nodata")


@dataclass(frozen=True)
class MaskedImages:
    """Images with a label map each.

    values: value in the masks to class; -1 for values whose pixels are ignored. masks: image file to mask file.
    """

    collection: Dataset
    values: dict[int, int]
    masks: dict[str, str]

    def truth(self, data: Samples, index: int) -> NDArray[np.int64]:
        """(H, W) class of every pixel, -1 where it is ignored.

        Raises:
            InputError: the mask cannot be read, is no single-band image, or has a value that is no class.
        """
        name = self.masks[data.samples[index].id]
        try:
            with Pillow.open(io.BytesIO(data.store.read(name))) as image:
                mask = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{data.store.path}/{name}: cannot be read as an image ({error})") from error
        if mask.ndim != 2:
            raise InputError(f"{data.store.path}/{name}: has {mask.shape[-1]} bands; a mask has one, of class numbers")
        unknown = sorted(set(np.unique(mask).tolist()) - set(self.values))
        if unknown:
            raise InputError(f"{data.store.path}/{name}: value {unknown[0]} is no class of classes.json")
        table = np.full(max(self.values) + 1, -1, dtype=np.int64)
        for value, position in self.values.items():
            table[value] = position
        return table[mask.astype(np.int64)]


def open_masked(path: Any, *, options: ImageOptions | None = None, ignored: Sequence[str] = IGNORED) -> MaskedImages:
    """``images/NAME.*`` and ``masks/NAME.png`` (class numbers), below split folders or not, with ``classes.json``.

    ``classes.json`` is an object of number to class name, or a list of names from number 0 on.

    Raises:
        InputError: one of these is missing, or a file has no partner.
    """
    store = open_store(path)
    names = store.names()
    listed = [n for n in names if PurePosixPath(n).name == "classes.json"]
    if not listed:
        raise InputError(f"{store.path}: no classes.json (number to class name) in it")
    numbered = _numbered(store, listed[0])
    classes = tuple(name for _, name in sorted(numbered.items()) if name.lower() not in ignored)
    values = {v: (classes.index(name) if name in classes else -1) for v, name in numbered.items()}
    images = {_key(n): n for n in names if is_image(n) and PurePosixPath(n).parent.name == "images"}
    masks = {_key(n): n for n in names if is_image(n) and PurePosixPath(n).parent.name == "masks"}
    lonely = sorted(set(images) ^ set(masks))
    if not images or lonely:
        found = f"{'/'.join(lonely[0])} has no partner" if lonely else "there are none"
        raise InputError(f"{store.path}: images/NAME and masks/NAME are needed in pairs; {found}")
    samples = [(_split(key[0]), Sample((images[key],))) for key in sorted(images)]
    collection = Dataset(data_name(store), store, by_split(samples), classes, options=options or ImageOptions())
    return MaskedImages(collection, values, {images[key]: masks[key] for key in images})


def segment(
    encoder: Encoder,
    source: MaskedImages,
    data: Samples,
    classes: ClassPrompts,
    *,
    window: int | None = None,
    overlap: float = 0.5,
    progress: bool = False,
    keep: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
) -> tuple[Result, list[tuple[Any, Any, Any]]]:
    """mIoU of open-vocabulary segmentation: intersection over union of each class, over all pixels of all images,
    averaged over the classes. Ignored pixels count for nothing, whatever is predicted there.

    Args:
        keep: so many (image, truth, predicted) triples are given back, for a picture.
        on_error: ``"skip"`` leaves images out that cannot be read. A mask that cannot be is an error all the same.

    Raises:
        ImageError: an image cannot be read (``on_error="raise"``).
        InputError: the model gives no patch tokens, a mask is damaged or has another size than its image, or none of
            the images can be read.
    """
    from tqdm import tqdm

    if not isinstance(encoder, SatTxtEncoder):
        raise InputError(f"{encoder.name}: segmentation needs patch tokens in the text's space, which it does not give")
    count = len(classes.keys)
    prompts = dict(zip(classes.keys, classes.prompts, strict=True))
    confusion = sklearn("metrics").confusion_matrix
    matrices: list[Any] = []
    kept: list[tuple[Any, Any, Any]] = []
    read: list[int] = []
    skipped: list[Failure] = []
    for index in tqdm(range(len(data)), unit="image", disable=not progress, delay=1, leave=False):
        try:
            image = data.image(index)
        except ImageError as error:
            if on_error == "raise":
                raise
            skipped.append(failure(data, index, error))
            continue
        truth = source.truth(data, index)
        if truth.shape != image.shape[:2]:
            raise InputError(
                f"{data.store.path}/{data.samples[index].id}: is {image.shape[:2]} pixels, its mask {truth.shape}"
            )
        found = encoder.segment(image, prompts, window=window, overlap=overlap).label_map
        read.append(index)
        matrices.append(confusion(truth.ravel() + 1, found.ravel() + 1, labels=range(count + 1))[1:, 1:])
        if len(kept) < keep:
            kept.append((image, truth, found))
    if not read:
        raise InputError(f"{data.store.path}: none of the {len(data)} images can be read, first {skipped[0].error}")
    both = np.array([np.diag(matrix) for matrix in matrices], dtype=float)
    either = np.array([matrix.sum(axis=0) + matrix.sum(axis=1) for matrix in matrices]) - both
    settings = {**classes.describe(), "window": window, "overlap": overlap}
    result = Result("segment", encoder, data.take(read), settings, skipped)
    result.add("miou", Figure(both, either))
    pixels = either.sum(axis=0)
    result.tables["per_class"] = [
        {
            "class": key,
            "name": classes.names[k],
            "iou": Figure(both[:, [k]], either[:, [k]]).value,
            "union_pixels": int(n),
        }
        for k, (key, n) in enumerate(zip(classes.keys, pixels, strict=True))
    ]
    return result, kept


def _numbered(store: Store, name: str) -> dict[int, str]:
    try:
        found = json.loads(store.read(name))
        pairs = enumerate(found) if isinstance(found, list) else found.items()
        return {int(value): str(label) for value, label in pairs}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{store.path}/{name}: an object of number to class name is needed ({error})") from error


def _key(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    return path.parent.parent.as_posix(), path.stem


def _split(folder: str) -> str:
    return next((SPLITS[part.lower()] for part in PurePosixPath(folder).parts if part.lower() in SPLITS), "")
