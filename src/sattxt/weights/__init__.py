"""Model files: which exist, where they come from, how they are read and written.

The names below are imported on first use, so that :func:`list_models` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sattxt.weights.directory import read_model, write_model
    from sattxt.weights.manifest import list_models
    from sattxt.weights.resolver import resolve

_MODULES = {
    "list_models": "sattxt.weights.manifest",
    "read_model": "sattxt.weights.directory",
    "resolve": "sattxt.weights.resolver",
    "write_model": "sattxt.weights.directory",
}

__all__ = ["list_models", "read_model", "resolve", "write_model"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
