"""From a data set's classes to the prompts that stand for them, and to one vector a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from sattxt.data.dataset import Samples
from sattxt.errors import InputError, LabelError
from sattxt.evaluation.encoder import Encoder
from sattxt.labels.prompts import label_prompts, parse_templates
from sattxt.labels.sets import fold, humanise, label_set, list_label_sets
from sattxt.vision.embeddings import FloatArray, unit_rows


@dataclass(frozen=True)
class ClassPrompts:
    """The classes of a data set in words.

    names: what tables show. prompts: the complete texts of each class, whose vectors are averaged. templates: what the
    texts were put into. source: where the words come from.
    """

    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    source: str

    def vectors(self, encoder: Encoder) -> FloatArray:
        """(K, D) a unit vector a class: the mean of its prompts'."""
        found = encoder.encode_texts([text for group in self.prompts for text in group])
        ends = accumulate((len(group) for group in self.prompts), initial=0)
        return unit_rows([found[start:end].mean(axis=0) for start, end in pairwise(ends)])

    def describe(self) -> dict[str, Any]:
        """What a result says of its prompts."""
        return {"templates": list(self.templates), "names_from": self.source}


def class_prompts(
    data: Samples,
    *,
    words: Mapping[str, Sequence[str]] | None = None,
    source: str = "names",
    named_set: str | None = None,
    templates: Sequence[str] | str,
) -> ClassPrompts:
    """The prompts of the data's classes.

    The texts are those of ``words`` (see :func:`find_texts`), else of the label set ``named_set``, else of the data
    set's own label set, else the class folders' names, split into words.

    Args:
        source: where ``words`` come from, for results and errors.

    Raises:
        LabelError: a class is missing from the words or the set, or two classes have the same texts.
        InputError: the data have no classes, or a template has no ``{}``.
    """
    if not data.classes:
        raise InputError(f"{data.store.path}: has no classes to name; it has captions only")
    chosen = label_set(named_set or data.label_set or "") if named_set or data.label_set else None
    if words is not None:
        texts = find_texts(words, data.classes, source)
        names = [group[0] for group in texts.values()]
    elif chosen is not None:
        labels = {key: chosen.find(key) for key in data.classes}
        texts, source = {key: label.prompts for key, label in labels.items()}, f"label set {chosen.name}"
        names = [label.name for label in labels.values()]
    else:
        names, source = [humanise(key) for key in data.classes], "class names"
        texts = {key: (name,) for key, name in zip(data.classes, names, strict=True)}
    checked = parse_templates(templates)
    prompts = tuple(tuple(group) for group in label_prompts(texts, templates=checked).values())
    return ClassPrompts(tuple(names), prompts, checked, source)


def find_texts(words: Mapping[str, Sequence[str]], classes: Sequence[str], source: str) -> dict[str, tuple[str, ...]]:
    """The texts of each class, from texts by class as a user wrote them: case and punctuation do not matter.

    Raises:
        LabelError: a class has none.
    """
    folded = {fold(humanise(key)): group for key, group in words.items()}
    found = {key: tuple(words.get(key) or folded.get(fold(humanise(key))) or ()) for key in classes}
    missing = [key for key, group in found.items() if not group]
    if missing:
        listed = ", ".join(map(repr, list(words)[:12]))
        raise LabelError(f"{source}: has no entry for the class {missing[0]!r}; it has {listed}")
    return found


def matching_sets(classes: Sequence[str]) -> list[str]:
    """The label sets that have every one of these classes, those of as many classes first."""
    found = []
    for named in map(label_set, list_label_sets()):
        try:
            found += [named] if all(named.find(key) for key in classes) else []
        except LabelError:
            continue
    return [named.name for named in sorted(found, key=lambda s: (len(s) != len(classes), s.name))]
