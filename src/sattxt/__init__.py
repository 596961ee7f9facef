"""sattxt: RGB satellite tiles and text in one embedding space.

>>> from sattxt import SatTxt
>>> model = SatTxt.from_pretrained()
>>> model.zero_shot("tile.png", ["forest", "river", "city"]).label

The public names are imported on first use: ``import sattxt`` alone loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sattxt.errors import SatTxtError

if TYPE_CHECKING:
    from sattxt.classify.classifier import Classifier
    from sattxt.classify.results import ZeroShotBatch, ZeroShotResult
    from sattxt.images.options import ImageOptions
    from sattxt.labels.sets import label_set, list_label_sets
    from sattxt.model import SatTxt
    from sattxt.segment import Segmentation
    from sattxt.text.cache import TextCache
    from sattxt.text.label_bank import LabelBank
    from sattxt.vision.embeddings import Embeddings
    from sattxt.weights.convert import convert
    from sattxt.weights.manifest import list_models

__version__ = "0.1.0"

_HOMES = {
    "Classifier": "sattxt.classify.classifier",
    "Embeddings": "sattxt.vision.embeddings",
    "ImageOptions": "sattxt.images.options",
    "LabelBank": "sattxt.text.label_bank",
    "SatTxt": "sattxt.model",
    "Segmentation": "sattxt.segment",
    "TextCache": "sattxt.text.cache",
    "ZeroShotBatch": "sattxt.classify.results",
    "ZeroShotResult": "sattxt.classify.results",
    "convert": "sattxt.weights.convert",
    "label_set": "sattxt.labels.sets",
    "list_label_sets": "sattxt.labels.sets",
    "list_models": "sattxt.weights.manifest",
}

__all__ = [
    "Classifier",
    "Embeddings",
    "ImageOptions",
    "LabelBank",
    "SatTxt",
    "SatTxtError",
    "Segmentation",
    "TextCache",
    "ZeroShotBatch",
    "ZeroShotResult",
    "__version__",
    "convert",
    "label_set",
    "list_label_sets",
    "list_models",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sattxt' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
