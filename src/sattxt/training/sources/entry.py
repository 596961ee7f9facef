"""One data set of a recipe, checked: its keys are known, its values have the types they need."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sattxt.errors import InputError
from sattxt.images.options import ImageOptions

#: Keys that any entry may have and that no reader looks at: the engine does.
ENGINE_KEYS = frozenset({"name", "kind", "count", "vocabulary"})
#: How images are to be read, for kinds that decode image files; see :class:`sattxt.images.options.ImageOptions`.
IMAGE_KEYS = frozenset({"stretch", "bands", "band_names", "value_range", "offset"})


class Entry:
    """A mapping of a recipe with typed access; every error names the data set and the key.

    Raises:
        InputError: a key is unknown; the message has the nearest known one.
    """

    def __init__(self, values: Mapping[str, Any], root: Path, keys: Collection[str]) -> None:
        self.kind = str(values.get("kind", ""))
        self.name = str(values.get("name") or self.kind)
        self._values, self._root = dict(values), root
        for key in values:
            if key not in keys and key not in ENGINE_KEYS:
                raise self.error(str(key), f"unknown key of kind {self.kind!r}{hint(str(key), keys)}")

    def error(self, key: str, problem: str) -> InputError:
        """What to raise about a key."""
        return InputError(f"data set {self.name!r}: {key}: {problem}")

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def path(self, key: str) -> Path:
        """A path that is there, relative to the root."""
        found = self.optional_path(key)
        if found is None:
            raise self.error(key, "missing; pass a path")
        return found

    def optional_path(self, key: str) -> Path | None:
        """As :meth:`path`, ``None`` where the key is not given."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str | Path) or not str(value):
            raise self.error(key, f"{value!r} is no path")
        found = self._root / value
        if not found.exists():
            raise self.error(key, f"{found}: no such file or folder")
        return found

    def integer(self, key: str, default: int | None = None, *, low: int = 1) -> int:
        """A whole number of at least ``low``."""
        value = self._values.get(key, default)
        if value is None:
            raise self.error(key, f"missing; pass a whole number of at least {low}")
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self.error(key, f"{value!r}; pass a whole number of at least {low}")
        return value

    def number(self, key: str, default: float, *, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number in [low, high]."""
        value = self._values.get(key, default)
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or not low <= value <= high:
            raise self.error(key, f"{value!r}; pass a number from {low} to {high}")
        return float(value)

    def text(self, key: str, default: str | None = None, *, choices: Sequence[str] | None = None) -> str | None:
        """A string, one of ``choices`` where these are given."""
        value = self._values.get(key, default)
        if value is None:
            return None
        if not isinstance(value, str) or (choices is not None and value not in choices):
            expected = f"one of {', '.join(choices)}" if choices else "a string"
            raise self.error(key, f"{value!r}; pass {expected}")
        return value

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Several strings, or one."""
        value = self._values.get(key)
        if value is None:
            return None
        several = [value] if isinstance(value, str) else value
        if not isinstance(several, Sequence) or not several or not all(isinstance(item, str) for item in several):
            raise self.error(key, f"{value!r}; pass a list of strings")
        return tuple(several)

    def names(self, key: str) -> dict[str, str]:
        """A mapping of strings to strings, empty where the key is not given."""
        value = self._values.get(key) or {}
        if not isinstance(value, Mapping) or not all(isinstance(x, str) for pair in value.items() for x in pair):
            raise self.error(key, f"{value!r}; pass a mapping of names to names")
        return dict(value)

    def raw(self, key: str, default: Any = None) -> Any:
        """The value as written."""
        value = self._values.get(key)
        return default if value is None else value

    def memory(self) -> bool | None:
        """Whether to decode everything now; ``None``: as the size suggests."""
        value = self._values.get("memory", "auto")
        if value == "auto" or value is None:
            return None
        if not isinstance(value, bool):
            raise self.error("memory", f"{value!r}; pass auto, true or false")
        return value

    def image_options(self) -> ImageOptions:
        """How to read image files."""
        given = {key: value for key, value in self._values.items() if key in IMAGE_KEYS and value is not None}
        try:
            return ImageOptions(**given)
        except InputError as error:
            raise InputError(f"data set {self.name!r}: {error}") from error


def hint(text: str, known: Collection[str], *, listed: bool = True) -> str:
    """``"; did you mean 'path'?"``, or else what there is."""
    close = get_close_matches(text.lower(), list(known), n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(sorted(known))}" if listed else ""
