"""The training vocabulary agrees with the label sets and shares nothing with the held-out paraphrases."""

from __future__ import annotations

import json
import re
from importlib import resources

import pytest

from sattxt.labels.sets import label_set

RECIPES = resources.files("sattxt") / "training" / "recipes"
VOCABULARY: dict[str, dict[str, list[str]]] = json.loads((RECIPES / "vocabulary.json").read_text(encoding="utf-8"))
HELD_OUT: dict[str, list[str]] = json.loads((RECIPES / "eurosat_paraphrases.json").read_text(encoding="utf-8"))
SETS = {"eurosat": "eurosat", "resisc45": "resisc45", "aid": "aid", "ucm": "ucmerced"}
CLASS_NAMES = {(d, phrases[0]) for d, classes in VOCABULARY.items() for phrases in classes.values()}


def words(text: str) -> list[str]:
    """Lower-case words without articles, each in the singular."""
    found = [w for w in re.findall(r"[a-z]+", text.lower()) if w not in ("a", "an")]
    return [singular(w) for w in found]


def singular(word: str) -> str:
    for ending, instead in ((r"ies$", "y"), (r"(ch|sh|x|z|ss)es$", r"\1"), (r"([a-z]{2}[^s])s$", r"\1")):
        changed = re.sub(ending, instead, word)
        if changed != word:
            return changed
    return word


def occurs(phrase: str, text: str) -> bool:
    part, whole = words(phrase), words(text)
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


def shared(dataset: str) -> set[tuple[str, str]]:
    """Held-out phrases that occur in a dataset's training phrases."""
    texts = [text for phrases in VOCABULARY[dataset].values() for text in phrases]
    return {(held, text) for group in HELD_OUT.values() for held in group for text in texts if occurs(held, text)}


@pytest.mark.parametrize(
    ("phrase", "text", "expected"),
    [
        ("olive groves", "an Olive Grove on a hill", True),
        ("copse", "copses", True),
        ("village", "Villages", True),
        ("the sea", "waves of the sea", True),
        ("the sea", "sea or lake", False),
        ("marsh", "marshes", True),
        ("refinery", "two refineries", True),
        ("stream", "a mainstream road", False),
    ],
)
def test_occurrence_is_by_whole_phrase_in_singular_and_plural(phrase: str, text: str, expected: bool) -> None:
    assert occurs(phrase, text) is expected


def test_eurosats_training_phrases_share_nothing_with_the_held_out_ones() -> None:
    assert shared("eurosat") == set()
    assert shared("dynamicworld") == set()


@pytest.mark.parametrize("dataset", ["resisc45", "aid", "ucm"])
def test_other_sets_share_held_out_phrases_only_as_their_own_class_names(dataset: str) -> None:
    assert {(dataset, text) for _, text in shared(dataset)} <= CLASS_NAMES
    assert {held for held, _ in shared(dataset)} <= {"freeway"}


def test_held_out_phrases_cover_every_class_without_repeats() -> None:
    assert list(HELD_OUT) == label_set("eurosat").keys
    phrases = [phrase for group in HELD_OUT.values() for phrase in group]
    assert all(len(group) >= 5 for group in HELD_OUT.values())
    assert len({phrase.lower() for phrase in phrases}) == len(phrases)


def test_every_set_of_the_recipe_has_a_vocabulary() -> None:
    assert set(VOCABULARY) == {*SETS, "dynamicworld"}


@pytest.mark.parametrize("dataset", sorted(SETS))
def test_vocabulary_follows_the_label_set(dataset: str) -> None:
    labels = label_set(SETS[dataset])
    classes = VOCABULARY[dataset]
    assert [labels.find(key).key for key in classes] == labels.keys
    for key, phrases in classes.items():
        assert phrases[0] == labels.find(key).name, key
        assert labels.find(key).prompts == (phrases[0],), key


@pytest.mark.parametrize("dataset", sorted(SETS))
def test_a_phrase_stands_for_one_class_only(dataset: str) -> None:
    phrases = [phrase.lower() for group in VOCABULARY[dataset].values() for phrase in group]
    assert sorted(phrases) == sorted(set(phrases))
    fewest = 10 if dataset == "eurosat" else 6
    assert all(len(group) >= fewest for group in VOCABULARY[dataset].values())
