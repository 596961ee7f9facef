"""One tile gives one result and a list gives a batch, to the type checker (mypy runs over this file) as at run time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, from_numpy
from typing_extensions import assert_type

from sattxt import Classifier, Embeddings, SatTxt, ZeroShotBatch, ZeroShotResult
from sattxt.vision.embeddings import FloatArray, Matrix, Vector

LABELS = ["river", "forest"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "tile.png")
    return tmp_path / "tile.png"


def test_one_tile_is_embedded_as_one_vector(mini: SatTxt, path: Path) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    with path.open("rb") as file:
        found = [mini.encode_image(path), mini.encode_image(str(path)), mini.encode_image(file)]
    found += [assert_type(mini.encode_image(Image.open(path)), Vector), mini.encode_image(picture)]
    assert assert_type(found, list[Vector])
    assert {vector.ndim for vector in found} == {1}
    assert type(mini.encode_image(path)) is np.ndarray


def test_several_tiles_are_embedded_as_one_array_whatever_on_error_is(mini: SatTxt, path: Path) -> None:
    missing = path.with_name("missing.png")
    several = assert_type(mini.encode_image([path, path]), Embeddings)
    skipped = assert_type(mini.encode_image((path, missing), on_error="skip"), Embeddings)
    stacked = np.zeros((2, 32, 32, 3), np.uint8)
    batch = assert_type(mini.encode_image(stacked), Embeddings)
    for found in (several, skipped, batch, mini.encode_image(p for p in [path])):
        assert type(found) is Embeddings
        assert found.ndim == 2
    assert (skipped.indices, skipped.sources, skipped.failures[0].index) == ([0], [str(path)], 1)
    assert type(several[0]) is type(several @ several.T) is type(several[:1]) is np.ndarray


def test_a_tensor_may_be_either(mini: SatTxt, path: Path) -> None:
    tensor: Tensor = from_numpy(np.zeros((3, 32, 32), np.uint8))
    assert assert_type(mini.encode_image(tensor), FloatArray).ndim == 1
    assert isinstance(assert_type(mini.zero_shot(tensor[None], LABELS), ZeroShotResult | ZeroShotBatch), ZeroShotBatch)


def test_texts(mini: SatTxt) -> None:
    assert assert_type(mini.encode_text("a river"), Vector).ndim == 1
    assert assert_type(mini.encode_text(["a river"]), Matrix).ndim == 2


def test_one_tile_gives_one_result_and_several_a_batch(mini: SatTxt, path: Path) -> None:
    classifier = assert_type(mini.classifier(LABELS), Classifier)
    one, several = mini.encode_image(path), mini.encode_image([path, path])
    results = [assert_type(classifier(path), ZeroShotResult), classifier(one), mini.zero_shot(path, LABELS)]
    batches = [assert_type(classifier([path]), ZeroShotBatch), classifier(several), mini.zero_shot([path], LABELS)]
    assert assert_type([*results, mini.zero_shot(one, LABELS, multi_label=True)], list[ZeroShotResult])
    assert assert_type([*batches, mini.zero_shot(several, label_set="eurosat")], list[ZeroShotBatch])
    assert {type(result) for result in results} == {ZeroShotResult}
    assert {type(batch) for batch in batches} == {ZeroShotBatch}


def test_a_misspelt_or_mistyped_option_is_found_by_both(mini: SatTxt, path: Path) -> None:
    with pytest.raises(ValueError, match="strech"):
        mini.encode_image(path, strech="sentinel2")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="stretch"):
        mini.zero_shot(path, LABELS, stretch="sentinel3")  # type: ignore[call-overload]
