"""From a data set's classes to the prompts that stand for them, and to one vector a class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from sattxt.data.dataset import Samples
from sattxt.errors import InputError, LabelError
from sattxt.evaluation.encoder import Encoder, unit
from sattxt.labels.prompts import label_prompts, parse_templates
from sattxt.labels.sets import fold, humanise, label_set, list_label_sets
from sattxt.vision.embeddings import FloatArray


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
        found = encoder.encode_texts([text for group in self.prompts for text in group])
        ends = accumulate((len(group) for group in self.prompts), initial=0)
        return unit([found[start:end].mean(axis=0) for start, end in pairwise(ends)])

    def describe(self) -> dict[str, Any]:
        """What a result says of its prompts."""
        return {"templates": list(self.templates), "names_from": self.source}


def class_prompts(
    data: Samples,
    *,
    names: Path | None = None,
    named_set: str | None = None,
    templates: Sequence[str] | str,
) -> ClassPrompts:
    """The prompts of the data's classes.

    The words come from ``names`` (see :func:`read_names`), else from the label set ``named_set`` ("auto": the one that
    has all of the classes), else from the data set's own label set, else from the class folders' names, split into
    words.

    Raises:
        LabelError: a class is missing from ``names`` or the set, or two classes have the same texts.
        InputError: the data have no classes, or a template has no ``{}``.
    """
    if not data.classes:
        raise InputError(f"{data.store.path}: has no classes to name; it has captions only")
    if names is not None and named_set is not None:
        raise LabelError("--names and --label-set exclude each other; pass one")
    checked = parse_templates(templates)
    if named_set == "auto":
        named_set = _matching_set(data)
    named_set = named_set or data.label_set
    if names is not None:
        texts, source = read_names(names, data.classes), names.name
        shown = [group[0] for group in texts.values()]
    elif named_set is not None:
        chosen = label_set(named_set)
        labels = [chosen.find(key) for key in data.classes]
        texts, source = {label.key: label.prompts for label in labels}, f"label set {chosen.name}"
        shown = [label.name for label in labels]
    else:
        shown, source = [humanise(key) for key in data.classes], "class names"
        texts = {key: (name,) for key, name in zip(data.classes, shown, strict=True)}
    prompts = label_prompts(texts, templates=checked)
    return ClassPrompts(tuple(data.classes), tuple(shown), tuple(map(tuple, prompts.values())), checked, source)


def matching_sets(classes: Sequence[str]) -> list[str]:
    """The label sets that have every one of these classes, those of as many classes first."""
    found = []
    for named in map(label_set, list_label_sets()):
        try:
            found += [named] if all(named.find(key) for key in classes) else []
        except LabelError:
            continue
    return [named.name for named in sorted(found, key=lambda s: (len(s) != len(classes), s.name))]


def read_names(path: Path, classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The texts of each class, from a ``.json`` object of class to text or texts; case and punctuation do not matter.

    Raises:
        LabelError: it cannot be read, is not of that form, or has no entry for a class.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise LabelError(f"{path}: cannot be read as JSON ({error})") from error
    groups = (
        {key: [value] if isinstance(value, str) else value for key, value in data.items()}
        if isinstance(data, dict)
        else {}
    )
    if not groups or not all(isinstance(g, list) and g and all(isinstance(t, str) for t in g) for g in groups.values()):
        raise LabelError(f"{path}: an object of class to text, or to a list of texts, is needed")
    known = {fold(humanise(key)): group for key, group in groups.items()}
    found = {}
    for key in classes:
        group = groups.get(key) or known.get(fold(humanise(key)))
        if group is None:
            listed = ", ".join(map(repr, list(groups)[:12]))
            raise LabelError(f"{path}: has no entry for the class {key!r}; it has {listed}")
        found[key] = tuple(group)
    return found


def _matching_set(data: Samples) -> str:
    names = matching_sets(data.classes)
    if not names:
        raise LabelError(
            f"--label-set auto: no label set has all of the {len(data.classes)} classes of {data.store.path}; "
            "pass --names FILE.json, or leave it out"
        )
    return names[0]
