"""Open-vocabulary segmentation against label maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sattxt.data.dataset import Samples
from sattxt.data.labelled import MaskedSamples
from sattxt.errors import InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.encoder import SatTxtEncoder
from sattxt.evaluation.metrics import Figure
from sattxt.evaluation.prompts import ClassPrompts
from sattxt.evaluation.result import Result


def segment(
    embedder: Embedder,
    data: Samples,
    classes: ClassPrompts,
    *,
    window: int | None = None,
    overlap: float = 0.5,
    show: Callable[[Any, Any, Any], None] | None = None,
) -> Result:
    """mIoU of open-vocabulary segmentation: intersection over union of each class, over all pixels of all images,
    averaged over the classes. Ignored pixels count for nothing, whatever is predicted there.

    Args:
        embedder: with ``on_error="skip"``, images that cannot be read are left out; a mask that cannot be is an error
            all the same.

        show: called with each image, its true label map and the predicted one, for pictures.

    Raises:
        ImageError: an image cannot be read. InputError: the model gives no patch tokens, a mask is damaged or has
            another size than its image, or none of the images can be read.
    """
    encoder = embedder.encoder
    if not isinstance(data, MaskedSamples):
        raise InputError(f"{data.store.path}: has no label maps; open it with sattxt.data.labelled.read_masks")
    if not isinstance(encoder, SatTxtEncoder):
        raise InputError(f"{encoder.name}: segmentation needs patch tokens in the text's space, which it does not give")
    prompts = dict(zip(data.classes, classes.prompts, strict=True))
    count = len(prompts) + 1  # 0: ignored
    matrices: dict[int, Any] = {}
    for (index,), (image,) in embedder.read(data, range(len(data)), 1):
        truth = data.mask(index)
        if truth.shape != image.shape[:2]:
            raise InputError(
                f"{data.store.path}/{data.samples[index].id}: is {image.shape[:2]} pixels, its mask {truth.shape}"
            )
        found = encoder.segment(image, prompts, window=window, overlap=overlap).label_map
        pairs = (truth.ravel() + 1) * count + found.ravel() + 1
        matrices[index] = np.bincount(pairs, minlength=count**2).reshape(count, count)[1:, 1:]
        if show is not None:
            show(image, truth, found)
    settings = {**classes.describe(), "window": window, "overlap": overlap}
    result = Result("segment", embedder, embedder.readable(data, list(matrices)), settings)
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
        for k, key in enumerate(data.classes)
    ]
    return result
