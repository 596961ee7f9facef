"""Open-vocabulary segmentation against label maps."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from sattxt.data.dataset import Samples
from sattxt.data.masks import MaskedSamples
from sattxt.errors import ImageError, InputError
from sattxt.evaluation.bootstrap import Figure
from sattxt.evaluation.embeddings import failure
from sattxt.evaluation.encoder import Encoder, SatTxtEncoder
from sattxt.evaluation.prompts import ClassPrompts
from sattxt.evaluation.result import Result
from sattxt.images.load import Failure

#: An image, its true label map and the predicted one.
Shown = tuple[Any, Any, Any]


def segment(
    encoder: Encoder,
    data: Samples,
    classes: ClassPrompts,
    *,
    window: int | None = None,
    overlap: float = 0.5,
    progress: bool = False,
    keep: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
) -> tuple[Result, list[Shown]]:
    """mIoU of open-vocabulary segmentation: intersection over union of each class, over all pixels of all images,
    averaged over the classes. Ignored pixels count for nothing, whatever is predicted there.

    Args:
        keep: so many images come back with their label maps, for a picture.
        on_error: ``"skip"`` leaves images out that cannot be read. A mask that cannot be is an error all the same.

    Raises:
        ImageError: an image cannot be read (``on_error="raise"``).
        InputError: the model gives no patch tokens, a mask is damaged or has another size than its image, or none of
            the images can be read.
    """
    from tqdm import tqdm

    if not isinstance(data, MaskedSamples):
        raise InputError(f"{data.store.path}: has no label maps; open it with sattxt.data.masks.read_masks")
    if not isinstance(encoder, SatTxtEncoder):
        raise InputError(f"{encoder.name}: segmentation needs patch tokens in the text's space, which it does not give")
    prompts = dict(zip(classes.keys, classes.prompts, strict=True))
    count = len(prompts) + 1  # 0: ignored
    matrices: dict[int, Any] = {}
    skipped: list[Failure] = []
    shown: list[Shown] = []
    for index in tqdm(range(len(data)), unit="image", disable=not progress, delay=1, leave=False):
        try:
            image = data.image(index)
        except ImageError as error:
            if on_error == "raise":
                raise
            skipped.append(failure(data, index, error))
            continue
        truth = data.mask(index)
        if truth.shape != image.shape[:2]:
            where = f"{data.store.path}/{data.samples[index].id}"
            raise InputError(f"{where}: is {image.shape[:2]} pixels, its mask {truth.shape}")
        found = encoder.segment(image, prompts, window=window, overlap=overlap).label_map
        pairs = (truth.ravel() + 1) * count + found.ravel() + 1
        matrices[index] = np.bincount(pairs, minlength=count**2).reshape(count, count)[1:, 1:]
        if len(shown) < keep:
            shown.append((image, truth, found))
    if not matrices:
        raise InputError(f"{data.store.path}: none of the {len(data)} images can be read, first {skipped[0].error}")
    settings = {**classes.describe(), "window": window, "overlap": overlap}
    result = Result("segment", encoder, data.take(list(matrices)), settings, skipped)
    both = np.array([np.diag(matrix) for matrix in matrices.values()], dtype=float)
    either = np.array([matrix.sum(axis=0) + matrix.sum(axis=1) for matrix in matrices.values()]) - both
    result.add("miou", Figure(both, either))
    result.tables["per_class"] = [
        {
            "class": key,
            "name": classes.names[k],
            "iou": Figure(both[:, [k]], either[:, [k]]).value,
            "union_pixels": int(either[:, k].sum()),
        }
        for k, key in enumerate(classes.keys)
    ]
    return result, shown
