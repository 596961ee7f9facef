"""Images with label maps: ``images/NAME.*`` and ``masks/NAME.png`` in pairs, with ``classes.json``."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sattxt.data.archive import Store, is_image, open_store
from sattxt.data.dataset import Dataset, Sample, Samples, by_split, split_of
from sattxt.errors import InputError
from sattxt.images.options import ImageOptions

#: Classes whose pixels count for nothing.
IGNORED = ("unlabelled", "unlabeled", "ignore", "ignored", "void", "no data", "nodata")


@dataclass(frozen=True)
class MaskedSamples(Samples):
    """Samples whose files are an image and its mask.

    values: value in the masks to position among the classes, -1 for values whose pixels are ignored.
    """

    values: dict[int, int] = field(default_factory=dict)

    def mask(self, index: int) -> NDArray[np.int64]:
        """(H, W) class of every pixel, -1 where it is ignored.

        Raises:
            InputError: the mask cannot be read, is no single-band image, or has a value that is no class.
        """
        name = self.samples[index].files[1]
        where = f"{self.store.path}/{name}"
        try:
            with Image.open(io.BytesIO(self.store.read(name))) as image:
                mask = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{where}: cannot be read as an image ({error})") from error
        if mask.ndim != 2:
            raise InputError(f"{where}: has {mask.shape[-1]} bands; a mask has one, of class numbers")
        found, places = np.unique(mask, return_inverse=True)
        unknown = [value for value in found.tolist() if value not in self.values]
        if unknown:
            raise InputError(f"{where}: value {unknown[0]} is no class of classes.json")
        return np.array([self.values[value] for value in found.tolist()])[places].reshape(mask.shape)


def read_masks(path: Path, *, ignored: Sequence[str] = IGNORED, options: ImageOptions | None = None) -> Dataset:
    """Images with a label map each, below split folders or not; their splits are :class:`MaskedSamples`.

    ``classes.json`` is an object of number in the masks to class name, or a list of names from number 0 on.

    Args:
        ignored: names, in lower case, of classes whose pixels count for nothing.

    Raises:
        InputError: ``classes.json`` is missing or of another form, or a file has no partner.
    """
    store = open_store(path)
    numbered = _numbered_classes(store)
    classes = tuple(name for _, name in sorted(numbered.items()) if name.lower() not in ignored)
    values = {value: classes.index(name) if name in classes else -1 for value, name in numbered.items()}
    pairs: dict[str, dict[str, str]] = defaultdict(dict)
    for name in filter(is_image, store.names()):
        place = PurePosixPath(name)
        if place.parent.name in ("images", "masks"):
            pairs[str(place.parent.parent / place.stem)][place.parent.name] = name
    lonely = [place for place, pair in pairs.items() if len(pair) < 2]
    if not pairs or lonely:
        found = f"{lonely[0]} has no partner" if lonely else "there are none"
        raise InputError(f"{path}: images/NAME and masks/NAME are needed in pairs; {found}")
    samples = [(split_of(pair["images"]), Sample((pair["images"], pair["masks"]))) for pair in pairs.values()]
    return Dataset(
        store.name,
        store,
        by_split(samples),
        classes,
        options=options or ImageOptions(),
        view=partial(MaskedSamples, values=values),
    )


def _numbered_classes(store: Store) -> dict[int, str]:
    name = next((name for name in store.names() if PurePosixPath(name).name == "classes.json"), None)
    if name is None:
        raise InputError(f"{store.path}: no classes.json (number to class name) in it")
    try:
        found = json.loads(store.read(name))
        pairs = enumerate(found) if isinstance(found, list) else found.items()
        return {int(value): str(label) for value, label in pairs}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{store.path}/{name}: an object of number to class name is needed ({error})") from error
