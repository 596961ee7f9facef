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
    from sattxt.banks import LabelBank
    from sattxt.cache import TextCache
    from sattxt.dense import Segmentation
    from sattxt.images import ImageOptions
    from sattxt.model import SatTxt
    from sattxt.prompts import label_set, list_label_sets
    from sattxt.results import Embeddings, ZeroShotBatch, ZeroShotResult
    from sattxt.weights import list_models
    from sattxt.weights.convert import convert
    from sattxt.zero_shot import Classifier

__version__ = "0.1.0"

_HOMES = {
    "Classifier": "sattxt.zero_shot",
    "Embeddings": "sattxt.results",
    "ImageOptions": "sattxt.images",
    "LabelBank": "sattxt.banks",
    "SatTxt": "sattxt.model",
    "Segmentation": "sattxt.dense",
    "TextCache": "sattxt.cache",
    "ZeroShotBatch": "sattxt.results",
    "ZeroShotResult": "sattxt.results",
    "convert": "sattxt.weights.convert",
    "label_set": "sattxt.prompts",
    "list_label_sets": "sattxt.prompts",
    "list_models": "sattxt.weights",
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
