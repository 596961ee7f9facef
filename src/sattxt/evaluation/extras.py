"""Optional packages of the ``eval`` extra, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sattxt.errors import MissingExtraError


def sklearn(module: str, purpose: str) -> Any:
    """A module of scikit-learn, such as ``"linear_model"``.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        return import_module(f"sklearn.{module}")
    except ImportError as error:
        raise MissingExtraError("eval", "scikit-learn", purpose) from error
