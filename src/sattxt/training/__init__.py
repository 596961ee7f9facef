"""Training: the stages that make a sattxt model, and the recipe of the bundled one.

>>> from sattxt.training import AlignRun, read_recipe
>>> run = AlignRun(read_recipe("my.yaml"), "data", "runs/mine")
>>> run.train()
>>> run.export("my-model")

The public names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sattxt.errors import MissingExtraError

if TYPE_CHECKING:
    from sattxt.training.loop import LoopOptions
    from sattxt.training.objectives.align.model import AlignConfig
    from sattxt.training.objectives.srd.model import SRDConfig
    from sattxt.training.recipe import Recipe, read_recipe
    from sattxt.training.run import AlignRun, SRDRun

_HOMES = {
    "AlignConfig": "sattxt.training.objectives.align.model",
    "AlignRun": "sattxt.training.run",
    "LoopOptions": "sattxt.training.loop",
    "Recipe": "sattxt.training.recipe",
    "SRDConfig": "sattxt.training.objectives.srd.model",
    "SRDRun": "sattxt.training.run",
    "read_recipe": "sattxt.training.recipe",
}

__all__ = ["AlignConfig", "AlignRun", "LoopOptions", "Recipe", "SRDConfig", "SRDRun", "read_recipe"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        package = {"pydantic": "pydantic", "yaml": "pyyaml"}.get(error.name or "")
        if package:
            raise MissingExtraError("train", package, "training") from error
        raise
