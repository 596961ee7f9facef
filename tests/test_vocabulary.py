"""The training vocabulary agrees with the label sets and shares nothing with the held-out paraphrases."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from sattxt.labels.prompts import label_set
from sattxt.training.scenes import SCENES

RECIPES = resources.files("sattxt") / "training" / "recipes"
VOCABULARY: dict[str, dict[str, list[str]]] = json.loads((RECIPES / "vocabulary.json").read_text(encoding="utf-8"))
COVERS: dict[str, list[str]] = json.loads((RECIPES / "s2_covers.json").read_text(encoding="utf-8"))
HELD_OUT: dict[str, list[str]] = json.loads((RECIPES / "eurosat_paraphrases.json").read_text(encoding="utf-8"))
SETS = {"eurosat": "eurosat", "resisc45": "resisc45", "aid": "aid", "ucm": "ucmerced"}
#: No label set is of these tiles: their classes are our own (s2_covers.json, the drawn scenes).
OURS = {"s2", "scenes"}
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


@pytest.mark.parametrize("dataset", ["eurosat", *sorted(OURS)])
def test_training_phrases_share_nothing_with_the_held_out_ones(dataset: str) -> None:
    assert shared(dataset) == set()


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
    assert set(VOCABULARY) == set(SETS) | OURS


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


def test_our_own_labels_are_classes_of_the_vocabulary_and_each_tile_has_one() -> None:
    assert set(COVERS) == set(VOCABULARY["s2"])
    tiles = Counter(key for keys in COVERS.values() for key in keys)
    assert [key for key, times in tiles.items() if times > 1] == []
    assert all(key.startswith("train/") for key in tiles)
    phrases = [phrase.lower() for group in VOCABULARY["s2"].values() for phrase in group]
    assert sorted(phrases) == sorted(set(phrases)), "a phrase stands for one class only"


def test_each_drawn_scene_is_a_class_of_the_vocabulary() -> None:
    assert set(SCENES) == set(VOCABULARY["scenes"])
    captions = [text for scene in SCENES.values() for text in scene.captions]
    assert [text for text in captions for group in HELD_OUT.values() for held in group if occurs(held, text)] == []
    phrases = [phrase.lower() for group in VOCABULARY["scenes"].values() for phrase in group]
    assert sorted(phrases) == sorted(set(phrases)), "a phrase stands for one class only"


def test_what_was_told_by_eye_is_what_the_labels_say() -> None:
    path = Path(__file__).resolve().parents[1] / "scripts" / "s2_by_eye.json"
    told: dict[str, str | None] = json.loads(path.read_text(encoding="utf-8"))
    label = {key: name for name, keys in COVERS.items() for key in keys}
    assert len(told) == 772
    assert {key: label.get(key) for key in told} == told


@pytest.mark.tiles
def test_our_own_labels_are_of_train_tiles(data_dir: Path) -> None:
    with zipfile.ZipFile(data_dir / "s2_tiles.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".tif")]
    train = {name for name in names if name.startswith("train/")}
    labelled = {key for keys in COVERS.values() for key in keys}
    assert labelled <= train
    val = {Path(name).relative_to("val") for name in names if name.startswith("val/")}
    assert val
    assert not {Path(key).relative_to("train") for key in labelled} & val
