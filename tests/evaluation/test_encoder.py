"""This library's models as the tasks see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import tile

from sattxt import SatTxt
from sattxt.errors import InputError
from sattxt.evaluation.encoder import SatTxtEncoder, unit


@pytest.fixture
def tiles() -> list[np.ndarray]:
    return [tile(colour, i, side) for i, (colour, side) in enumerate((("red", 16), ("green", 20), ("blue", 40)))]


def test_this_librarys_models_embed_as_they_do_by_themselves(golden_model_dir: Path, tiles):
    model = SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False)
    encoder = SatTxtEncoder(model)
    assert np.allclose(encoder.encode_images(tiles), model.encode_image(tiles), atol=1e-5)
    mixed = [tiles[0].astype(np.float32), *tiles[1:]]
    assert np.allclose(encoder.encode_images(mixed), model.encode_image(tiles), atol=1e-4)
    assert np.allclose(encoder.encode_texts(["a forest"])[0], model.encode_text("a forest"), atol=1e-6)
    again = SatTxtEncoder(SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False))
    assert again.fingerprint == encoder.fingerprint
    other = SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False, preprocess="unit")
    assert SatTxtEncoder(other).fingerprint != encoder.fingerprint
    assert SatTxtEncoder(model, instruction="Name the land cover.").fingerprint != encoder.fingerprint


def test_a_model_that_gives_nothing_is_not_measured():
    with pytest.raises(InputError, match="zero or not finite"):
        unit(np.zeros((2, 3)))
    with pytest.raises(InputError, match="zero or not finite"):
        unit(np.array([[np.nan, 1]]))
