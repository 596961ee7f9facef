"""Models, classifiers and results in other processes: forked, spawned, pickled."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sattxt import SatTxt

if TYPE_CHECKING:
    from sattxt import Classifier

_MODEL: list[SatTxt] = []


def encode(tile: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """In a forked process, by the model that the parent has used before: image, a new text, and labels."""
    (model,) = _MODEL
    return model.encode_image(tile), model.encode_text("a text of the child"), model.zero_shot(tile, ["a", "b"]).label


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="processes are not forked there")
def test_a_model_used_before_a_fork_works_in_the_child(tiles: list[np.ndarray]) -> None:
    model = SatTxt.from_pretrained(dtype="float32", text_cache=False)
    expected = model.encode_image(tiles)
    labels = model.zero_shot(tiles, ["a", "b"]).labels
    _MODEL[:] = [model]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(encode, tiles).get(timeout=120)
    assert np.allclose([image for image, _, _ in found], expected, atol=1e-5)
    assert np.allclose([text for _, text, _ in found], model.encode_text("a text of the child"), atol=1e-5)
    assert [label for _, _, label in found] == labels


def copied(value: object) -> object:
    return pickle.loads(pickle.dumps(value))


def test_a_pickled_model_gives_the_same(mini: SatTxt, tiles: list[np.ndarray]) -> None:
    copy: SatTxt = copied(mini)
    assert np.array_equal(copy.encode_image(tiles), mini.encode_image(tiles))
    assert np.array_equal(copy.encode_text(["a new text", "river"]), mini.encode_text(["a new text", "river"]))
    assert copy.fingerprint == mini.fingerprint


def test_a_pickled_classifier_and_its_results(mini: SatTxt, tiles: list[np.ndarray]) -> None:
    classifier = mini.classifier(["forest", "river"])
    copy: Classifier = copied(classifier)
    batch = classifier(tiles)
    assert np.allclose(copy(tiles).probs, batch.probs, atol=1e-6)
    again = copied(batch)
    assert again.to_dict() == batch.to_dict()
    assert again.indices == batch.indices


def test_pickled_embeddings_know_their_images(mini: SatTxt, tiles: list[np.ndarray]) -> None:
    broken = np.zeros((0, 4, 3), np.uint8)
    found = mini.encode_image([tiles[0], broken, tiles[1]], on_error="skip")
    again = copied(found)
    assert np.array_equal(again, found)
    assert (again.indices, again.sources, again.failures) == ([0, 2], [None, None], found.failures)
