"""Named label sets: the classes of datasets and land-cover nomenclatures, with human-readable names and references.

The lists are the JSON files of ``labels/sets/``. Class names written for folders ("AnnualCrop", "storagetanks") are
poor prompts, and zero-shot figures depend on the wording; a named set fixes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from sattxt.errors import LabelError, near


@dataclass(frozen=True)
class Label:
    """One class of a label set.

    key: the dataset's own spelling: a folder name or an official class name.
    name: the human-readable name, which results show.
    prompts: the texts put into the templates; the name alone unless the official name says little of what is seen.
    code: the class's number in maps and nomenclatures (CORINE, WorldCover, Dynamic World), if it has one.
    aliases: other spellings it is found by.
    """

    key: str
    name: str
    prompts: tuple[str, ...]
    code: int | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelSet:
    """The classes of a dataset or land-cover nomenclature, in its own order, with where they come from.

    reference: the publication. url: where to read on. licence: of the dataset or product, not of this list.
    multi_label: whether one tile may have several of the labels.
    """

    name: str
    title: str
    labels: tuple[Label, ...]
    reference: str
    url: str
    licence: str
    notes: str = ""
    multi_label: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The human-readable names, in order."""
        return [label.name for label in self.labels]

    @property
    def keys(self) -> list[str]:
        """The dataset's own spellings, in order."""
        return [label.key for label in self.labels]

    def find(self, text: str | int) -> Label:
        """The label with this key, name, alias or code; case, spaces and punctuation do not matter.

        ``"bare_land"``, ``"BareLand"`` and ``"bare land"`` are one label.

        Raises:
            LabelError: there is none.
        """
        for label in self.labels:
            spellings = {squash(spelling) for spelling in (label.key, label.name, *label.aliases)}
            if text == label.code or (isinstance(text, str) and squash(text) in spellings):
                return label
        hint = near(str(text), [*self.names, *self.keys])
        raise LabelError(f"label set '{self.name}' has no label {text!r}{hint}")

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)


def humanise(name: str) -> str:
    """A class or folder name as words: ``HerbaceousVegetation`` or ``herbaceous_vegetation`` to lower-case words.

    It only splits where case or punctuation shows a boundary (``SeaLake`` becomes "sea lake"); the named label sets
    have better names for the datasets they cover.
    """
    words = re.sub(r"[_\-\s]+", " ", name)
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", words)
    return " ".join(words.split()).lower()


def list_label_sets() -> list[str]:
    """The names :func:`label_set` knows, sorted."""
    return sorted(_shipped())


def label_set(name: str) -> LabelSet:
    """A named label set, such as ``"eurosat"``; case and punctuation do not matter, and the usual other names work.

    Raises:
        LabelError: there is none of this name; the message has near matches.
    """
    if not isinstance(name, str):
        raise LabelError(f"label_set must be a name such as 'eurosat', not {type(name).__name__}")
    for known in _shipped().values():
        if squash(name) in map(squash, (known.name, *known.aliases)):
            return known
    hint = near(name, list_label_sets()) or f"; the label sets are {', '.join(list_label_sets())}"
    raise LabelError(f"no label set is called {name!r}{hint}")


def fold(text: str) -> str:
    """``text`` as it is compared for repeats: without case, with single spaces."""
    return " ".join(text.split()).casefold()


def squash(text: str) -> str:
    """``text`` as names are compared: without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", text).casefold()


@cache
def _shipped() -> dict[str, LabelSet]:
    files = (resources.files("sattxt.labels") / "sets").iterdir()
    sets = [_read(json.loads(file.read_text(encoding="utf-8"))) for file in files if file.name.endswith(".json")]
    return {each.name: each for each in sets}


def _read(data: dict[str, Any]) -> LabelSet:
    labels = tuple(
        Label(
            key=row["key"],
            name=row["name"],
            prompts=tuple(row.get("prompts", (row["name"],))),
            code=row.get("code"),
            aliases=tuple(row.get("aliases", ())),
        )
        for row in data.pop("labels")
    )
    return LabelSet(labels=labels, aliases=tuple(data.pop("aliases")), **data)
