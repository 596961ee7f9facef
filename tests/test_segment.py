"""Segmentation on the miniature release."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sattxt import SatTxt
from sattxt.errors import InputError

LABELS = ["forest", "river", "city"]


def test_segment_covers_the_image_at_its_own_size(model: SatTxt, tiles: list[np.ndarray]) -> None:
    scene = np.concatenate([np.concatenate([tiles[0], tiles[1]], 1), np.concatenate([tiles[2], tiles[3]], 1)], 0)
    result = model.segment(scene[:100], LABELS, window=64)
    assert result.label_map.shape == (100, 128)
    assert result.scores.shape == (3, 100, 128)
    assert np.isfinite(result.scores).all()
    assert np.array_equal(result.scores.argmax(0), result.label_map)
    assert sum(result.shares.values()) == pytest.approx(1)
    assert result.probs.sum(0) == pytest.approx(np.ones((100, 128)), abs=1e-4)


def test_segment_does_not_depend_on_how_windows_are_batched(model: SatTxt, tiles: list[np.ndarray]) -> None:
    scene = np.concatenate(tiles[:3], axis=1)
    together = model.segment(scene, LABELS, window=48)
    one_by_one = model.segment(scene, LABELS, window=48, batch_size=1)
    assert np.abs(together.scores - one_by_one.scores).max() < 1e-4


def test_segment_takes_the_window_that_the_model_names(
    model: SatTxt, golden_model_dir: Path, tiles: list[np.ndarray]
) -> None:
    named = SatTxt.from_pretrained(golden_model_dir, preprocess={"window": 48}, dtype="float32", text_cache=False)
    scene = np.concatenate(tiles[:2], axis=1)
    found = named.segment(scene, LABELS).scores
    assert np.abs(found - model.segment(scene, LABELS, window=48).scores).max() < 1e-5
    assert np.abs(found - model.segment(scene, LABELS).scores).max() > 1e-3
    assert np.abs(named.segment(scene, LABELS, window=64).scores - model.segment(scene, LABELS).scores).max() < 1e-5


def test_segment_writes_a_picture_with_a_legend(model: SatTxt, tiles: list[np.ndarray], tmp_path: Path) -> None:
    result = model.segment(tiles[0], LABELS)
    result.save_png(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width > picture.height  # the legend stands beside the map
    assert set(result.legend) == set(LABELS)


@pytest.mark.parametrize("options", [{"window": 2}, {"overlap": 1.0}, {"overlap": -0.1}])
def test_segment_refuses_impossible_windows(model: SatTxt, tiles: list[np.ndarray], options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        model.segment(tiles[0], LABELS, **options)
