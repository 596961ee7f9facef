"""Every error `sattxt` raises on purpose, in one place.

All derive from :class:`SatTxtError`, and from the builtin a caller would otherwise expect, so
``except ValueError`` and ``except SatTxtError`` both work. A message is one line: what is wrong,
in which file or argument, and what to pass instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any


class SatTxtError(Exception):
    """Base class of every error raised on purpose."""


class InputError(SatTxtError, ValueError):
    """An argument has the wrong type, value or shape."""


class LabelError(InputError):
    """A label list is empty, has duplicates, or names an unknown label set."""


class ImageError(SatTxtError, ValueError):
    """An image cannot be read, or cannot be read without guessing what it holds.

    completed: raised in the middle of a list, what was made of the images before it (:class:`Embeddings`, or by a
    classifier a :class:`ZeroShotBatch`); else None.
    """

    completed: Any = None


class SceneError(SatTxtError, ValueError):
    """A scene cannot be read, or cannot be placed on the ground without a guess."""


class UnknownModelError(SatTxtError, LookupError):
    """No model goes by this name, and no directory or hub repository either."""


class WeightsError(SatTxtError, RuntimeError):
    """A weights file is missing, damaged, or not of the shape its config says."""


class ChecksumError(WeightsError):
    """A file's sha256 is not the recorded one."""


class UnsafePickleError(WeightsError):
    """A pickle holds more than tensors and plain containers; it was refused, not executed."""


class HubError(SatTxtError, OSError):
    """A file could not be fetched from the hub."""


class GatedModelError(HubError):
    """A repository asks for a licence to be accepted, or for a login."""


class OfflineError(HubError):
    """A file is neither cached nor allowed (or able) to be downloaded."""


class TextEncoderUnavailableError(SatTxtError, RuntimeError):
    """A prompt is not cached and the text encoder is not at hand to encode it."""


class NotEnoughMemoryError(SatTxtError, MemoryError):
    """A model does not fit in this machine's memory."""


class CacheError(SatTxtError, RuntimeError):
    """The text cache or a label bank cannot be read or written."""


class BankMismatchError(CacheError):
    """A label bank was made by another text encoder than this model's."""


class DiskFullError(SatTxtError, OSError):
    """No space is left on the disk; what was written before is kept."""


class StoreError(SatTxtError, RuntimeError):
    """A store, or a file of one, is missing or damaged."""


class StoreMismatchError(StoreError, ValueError):
    """A store was made with other settings, or by another model, than those given; names each with both values."""


class MissingExtraError(SatTxtError, ImportError):
    """An optional dependency is not installed; the message has the pip command."""

    def __init__(self, extra: str, package: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}': pip install 'sattxt[{extra}]'", name=package)


def import_extra(module: str, extra: str, package: str, purpose: str) -> Any:
    """A module of an optional package; :class:`MissingExtraError` where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(extra, package, purpose) from error


def near(text: str, known: Sequence[str]) -> str:
    """``"; did you mean ...?"`` with the names most like ``text``, for an error's message; or nothing."""
    from difflib import get_close_matches

    folded = {" ".join(name.split()).casefold(): name for name in reversed(known)}  # of equal spellings, the first
    close = get_close_matches(" ".join(text.split()).casefold(), folded, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(folded[c]) for c in close)}?" if close else ""
