"""From what a user calls labels to the prompts that are encoded: templates, labels, and their checks.

Nothing here computes or imports torch. A label stands for one or more texts (its name, synonyms, or whole prompts);
each text is put into each template; the classifier averages the embeddings of all that belong to one label.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sattxt.errors import InputError, LabelError, near
from sattxt.labels import sets

#: Named sets of prompt templates; ``"reference"`` is the published model's.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "reference": ("a satellite image of {}",),
    "ensemble": (
        "a satellite image of {}",
        "a satellite photo of {}",
        "an aerial image of {}",
        "an aerial view of {}",
        "a remote sensing image of {}",
        "an overhead view of {}",
        "satellite imagery showing {}",
        "{} seen from above",
    ),
}

_LONGEST = 200  # characters of a label
#: Unicode categories that print nothing, or move what stands around them; but joiners, which emoji and Persian need.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"

#: What a tile is called that no label fits.
NONE_OF_THESE = "none of these"

#: Prompts that mean this, against which multi-label scores are contrasted.
BACKGROUNDS: tuple[str, ...] = (
    "a satellite image",
    "an aerial photo of something else",
    "a satellite image of land",
    "a satellite image of water",
    "a satellite image of bare ground",
    "a satellite image of trees and grass",
    "a satellite image of fields",
    "a satellite image of buildings",
    "a satellite image of roads",
    "a satellite image of sand",
    "a satellite image of snow or clouds",
    "a satellite image of shadows",
)


def parse_templates(
    templates: str | Sequence[str] | None = None, *, default: Sequence[str] = TEMPLATES["reference"]
) -> tuple[str, ...]:
    """Checked prompt templates.

    Args:
        templates: a named set (a key of :data:`TEMPLATES`), one template, several, or None for ``default``.

    Raises:
        InputError: a template does not hold exactly one ``{}``, is repeated, or there is none at all.
    """
    if templates is None:
        templates = default
    if isinstance(templates, str):
        templates = TEMPLATES.get(templates, (templates,))
    if not isinstance(templates, Iterable):
        raise InputError(f"templates must be a text or a list of texts, not {type(templates).__name__}")
    checked: list[str] = []
    for position, template in enumerate(templates):
        if not isinstance(template, str):
            raise InputError(f"templates[{position}] must be a text, not {type(template).__name__}")
        if template.count("{}") != 1:
            hint = near(template, list(TEMPLATES)) or f"; the named sets are {', '.join(TEMPLATES)}"
            raise InputError(
                f"template {template!r} must hold {{}} exactly once, where the label goes, such as 'a satellite image "
                f"of {{}}' (it has {template.count('{}') or 'no'} {{}}){hint}"
            )
        if template in checked:
            raise InputError(f"template {template!r} is given twice: pass each once")
        checked.append(template)
    if not checked:
        raise InputError("templates is empty: pass at least one, or None for the model's own")
    return tuple(checked)


def parse_labels(
    labels: Iterable[str] | Mapping[str, str | Sequence[str]] | sets.LabelSet | None = None,
    *,
    label_set: str | sets.LabelSet | None = None,
) -> dict[str, tuple[str, ...]]:
    """Checked labels, in order, each with the texts that stand for it. Blanks around a label or text are dropped.

    Args:
        labels: a list of labels, a mapping of label to its text or texts (synonyms or prompts), or a :class:`LabelSet`.
        label_set: instead of ``labels``: a label set or the name of one.

    Raises:
        LabelError: none or both are given, the list is empty, a label is empty, repeated (case and spacing aside),
            longer than 200 characters, or no text; it has a character that does not show; two labels stand for the
            same texts, or the set is unknown.
    """
    if label_set is not None:
        if labels is not None:
            raise LabelError("labels and label_set are both given: pass one of them")
        labels = label_set if isinstance(label_set, sets.LabelSet) else sets.label_set(label_set)
    if labels is None:
        raise LabelError("no labels: pass labels=['forest', 'river'] or label_set='eurosat'")
    if isinstance(labels, sets.LabelSet):
        return {label.name: label.prompts for label in labels}
    if isinstance(labels, str):
        parts = [part.strip() for part in labels.split(",") if part.strip()]
        raise LabelError(f"labels is one text: pass a list, {parts}; for the set of that name, label_set={labels!r}")
    if isinstance(labels, set | frozenset):
        raise LabelError("labels is a set, which has no order: pass a list")
    if not isinstance(labels, Iterable) or isinstance(labels, bytes):
        raise LabelError(f"labels must be a list or dict of texts, not {type(labels).__name__}")
    pairs = labels.items() if isinstance(labels, Mapping) else [(label, label) for label in labels]
    names = [_text(name, f"labels[{position}]") for position, (name, _) in enumerate(pairs)]
    if not names:
        raise LabelError("labels is empty: pass at least one, such as ['forest', 'river']")
    for name in names:
        if len(name) > _LONGEST:
            raise LabelError(
                f"label '{name[:40]}...' has {len(name):,} characters, a label at most {_LONGEST}: give it a short "
                "name, {'name': 'the long text'}"
            )
    _refuse_repeats(names, "label")
    texts = {name: _texts(given, name) for name, (_, given) in zip(names, pairs, strict=True)}
    owners: dict[frozenset[str], str] = {}
    for label, group in texts.items():
        owner = owners.setdefault(frozenset(map(sets.fold, group)), label)
        if owner != label:
            raise LabelError(f"labels {owner!r} and {label!r} have the same texts: nothing can tell them apart")
    return texts


def label_prompts(
    labels: Iterable[str] | Mapping[str, str | Sequence[str]] | sets.LabelSet | None = None,
    *,
    label_set: str | sets.LabelSet | None = None,
    templates: str | Sequence[str] | None = None,
    default: Sequence[str] = TEMPLATES["reference"],
) -> dict[str, list[str]]:
    """The prompts of each label: every text of it in every template.

    Args:
        labels, label_set: as :func:`parse_labels` takes them.
        templates, default: as :func:`parse_templates` takes them.

    Raises:
        LabelError: the labels are refused. InputError: a template is.
    """
    texts = parse_labels(labels, label_set=label_set)
    checked = parse_templates(templates, default=default)
    return {
        label: [template.replace("{}", text) for text in group for template in checked]
        for label, group in texts.items()
    }


def find_doubts(labels: Mapping[str, Sequence[str]], *, multi_label: bool) -> list[str]:
    """What to tell someone whose labels are taken, yet whose answers will mean little; a sentence each.

    Args:
        labels: each with the texts that stand for it, as :func:`parse_labels` gives them.
        multi_label: every label is judged by itself, so that one alone is no doubt.
    """
    doubts = []
    if len(labels) == 1 and not multi_label:
        doubts.append(
            f"{next(iter(labels))!r} is the only label, so its probability is always 1.00: pass what else there may "
            "be, or ask for multi-label answers, which judge it by itself"
        )
    foreign = [label for label, texts in labels.items() if not any(map(_in_latin_letters, texts))]
    if foreign:
        doubts.append(
            f"{len(foreign)} of {len(labels)} labels ({', '.join(foreign[:3])}) are not in Latin letters; the text "
            "encoder reads English, so their probabilities mean little: pass English words, as {'label': 'words'} to "
            "keep the label"
        )
    return doubts


def _in_latin_letters(text: str) -> bool:
    """Whether as many characters are Latin letters as are other letters and symbols, and one at least."""
    marks = [c for c in text if unicodedata.category(c)[0] in "LS"]
    latin = sum(unicodedata.name(c, "").startswith("LATIN ") for c in marks)
    return latin > 0 and 2 * latin >= len(marks)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise LabelError(f"{where} must be a text, not {type(value).__name__} ({value!r})")
    text = value.strip()
    if not text:
        raise LabelError(f"{where} is empty: pass a word or phrase")
    unseen = next((c for c in text if unicodedata.category(c) in _UNSEEN and c not in _JOINERS), None)
    if unseen is not None:
        raise LabelError(
            f"{where} has a character that does not show, U+{ord(unseen):04X} "
            f"({unicodedata.name(unseen, 'a control character').lower()}): pass {text[:40]!a} without it"
        )
    return text


def _texts(value: Any, label: str) -> tuple[str, ...]:
    where = f"labels[{label!r}]"
    if isinstance(value, str):
        return (_text(value, where),)
    if not isinstance(value, Iterable) or isinstance(value, bytes | set | frozenset | Mapping):
        raise LabelError(f"{where} must be a text or a list of texts, not {type(value).__name__}")
    texts = tuple(_text(text, f"{where}[{position}]") for position, text in enumerate(value))
    if not texts:
        raise LabelError(f"{where} is empty: pass at least one text")
    _refuse_repeats(texts, f"text of label {label!r}:")
    return texts


def _refuse_repeats(texts: Sequence[str], what: str) -> None:
    seen: dict[str, str] = {}
    for text in texts:
        key = sets.fold(text)
        if key in seen:
            also = "" if text == seen[key] else f" (as {seen[key]!r}; case and spacing do not count)"
            raise LabelError(f"duplicate {what} {text!r}{also}: pass each once")
        seen[key] = text
