"""From a data set's classes to the prompts that stand for them, and to one vector a class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sattxt.classify.results import FloatArray
from sattxt.data.dataset import Samples
from sattxt.errors import InputError, LabelError
from sattxt.evaluation.encoder import Encoder
from sattxt.labels.prompts import label_prompts, parse_templates
from sattxt.labels.sets import LabelSet, fold, humanise, label_set, list_label_sets


@dataclass(frozen=True)
class ClassPrompts:
    """The classes of a data set in words.

    keys: its own spellings. names: what tables show. prompts: the complete texts of each class, whose vectors are
    averaged. templates: what the texts were put into. source: where the words come from.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    source: str

    def vectors(self, encoder: Encoder) -> FloatArray:
        """(K, D) a unit vector a class: the mean of its prompts'."""
        flat = [text for group in self.prompts for text in group]
        found = encoder.encode_texts(flat)
        means, start = [], 0
        for group in self.prompts:
            mean = found[start : start + len(group)].mean(axis=0)
            means.append(mean / np.linalg.norm(mean))
            start += len(group)
        return np.stack(means).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """What a result says of its prompts."""
        return {"templates": list(self.templates), "names_from": self.source}


def class_prompts(
    data: Samples,
    *,
    names: Path | None = None,
    named_set: str | None = None,
    templates: Sequence[str] | str | None = None,
    default_templates: Sequence[str],
) -> ClassPrompts:
    """The prompts of the data's classes.

    The words come from ``names`` (a ``.json`` object: class to name, or to a list of texts that are averaged), else
    from the label set ``named_set`` ("auto": the one that has all of the classes), else from the data set's own label
    set, else from the class folders' names, split into words.

    Raises:
        LabelError: a class is missing from ``names`` or the set, or two classes have the same texts.
        InputError: the data have no classes, or a template has no ``{}``.
    """
    if not data.classes:
        raise InputError(f"{data.store.path}: has no classes to name; it has captions only")
    if names is not None and named_set is not None:
        raise LabelError("--names and --label-set exclude each other; pass one")
    checked = parse_templates(templates, default=default_templates)
    texts: dict[str, tuple[str, ...]]
    shown: dict[str, str]
    if names is not None:
        found = read_names(names)
        texts = {key: _entry(found, key, str(names)) for key in data.classes}
        shown, source = {key: group[0] for key, group in texts.items()}, names.name
    else:
        chosen = _label_set(data, named_set)
        if chosen is None:
            texts = {key: (humanise(key),) for key in data.classes}
            shown, source = {key: group[0] for key, group in texts.items()}, "class names"
        else:
            labels = {key: chosen.find(key) for key in data.classes}
            texts = {key: label.prompts for key, label in labels.items()}
            shown, source = {key: label.name for key, label in labels.items()}, f"label set {chosen.name}"
    prompts = label_prompts(texts, templates=checked)
    return ClassPrompts(
        tuple(data.classes),
        tuple(shown[key] for key in data.classes),
        tuple(tuple(group) for group in prompts.values()),
        checked,
        source,
    )


def matching_sets(classes: Sequence[str]) -> list[str]:
    """The label sets that have every one of these classes, those of as many classes first."""
    found = [named for named in map(label_set, list_label_sets()) if all(_has(named, key) for key in classes)]
    return [named.name for named in sorted(found, key=lambda s: (len(s) != len(classes), s.name))]


def read_names(path: Path) -> dict[str, tuple[str, ...]]:
    """A ``.json`` object of class to text or texts.

    Raises:
        LabelError: it cannot be read, or is not of that form.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise LabelError(f"{path}: cannot be read as JSON ({error})") from error
    if isinstance(data, dict):
        listed = {key: (value,) if isinstance(value, str) else value for key, value in data.items()}
        if all(isinstance(g, list | tuple) and g and all(isinstance(t, str) for t in g) for g in listed.values()):
            return {key: tuple(group) for key, group in listed.items()}
    raise LabelError(f"{path}: an object of class to text, or to a list of texts, is needed")


def _entry(found: dict[str, tuple[str, ...]], key: str, where: str) -> tuple[str, ...]:
    if key in found:
        return found[key]
    folded = {fold(humanise(name)): group for name, group in found.items()}
    if fold(humanise(key)) in folded:
        return folded[fold(humanise(key))]
    raise LabelError(f"{where}: has no entry for the class {key!r}; it has {', '.join(map(repr, list(found)[:12]))}")


def _label_set(data: Samples, wanted: str | None) -> LabelSet | None:
    if wanted is None:
        return label_set(data.label_set) if data.label_set else None
    if wanted != "auto":
        return label_set(wanted)
    names = matching_sets(data.classes)
    if not names:
        raise LabelError(
            f"--label-set auto: no label set has all of the {len(data.classes)} classes of {data.store.path}; "
            "pass --names FILE.json, or leave it out"
        )
    return label_set(names[0])


def _has(named: LabelSet, key: str) -> bool:
    try:
        named.find(key)
    except LabelError:
        return False
    return True
