"""Segmentation on the miniature release."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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


@pytest.mark.parametrize(("gsd", "window"), [(10, 48), (1.0, 48), (0.5, 24), (0.6, 24), (0.1, 120)])
def test_the_window_follows_the_ground_resolution_where_none_is_given(
    model: SatTxt, golden_model_dir: Path, tiles: list[np.ndarray], gsd: float, window: int
) -> None:
    named = SatTxt.from_pretrained(golden_model_dir, preprocess={"window": 48}, dtype="float32", text_cache=False)
    scene = np.concatenate([np.concatenate([tiles[0], tiles[1]], 1), np.concatenate([tiles[2], tiles[3]], 1)], 0)
    found = named.segment(scene, LABELS, gsd=gsd).scores
    assert np.abs(found - model.segment(scene, LABELS, window=window).scores).max() < 1e-5


def test_segment_writes_a_picture_with_a_legend(model: SatTxt, tiles: list[np.ndarray], tmp_path: Path) -> None:
    result = model.segment(tiles[0], LABELS)
    result.save_png(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width > picture.height  # the legend stands beside the map
    assert set(result.legend) == set(LABELS)


@pytest.mark.parametrize("options", [{"window": 2}, {"overlap": 1.0}, {"overlap": -0.1}, {"gsd": 0}, {"gsd": "10 m"}])
def test_segment_refuses_impossible_windows(model: SatTxt, tiles: list[np.ndarray], options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        model.segment(tiles[0], LABELS, **options)


def _patch_cosines(model: SatTxt, crop: np.ndarray, texts: np.ndarray) -> torch.Tensor:
    """(K, side, side) of one window: every patch in the place of the mean patch, the class token weighed by half."""
    tokens = model.vision.tokens(model.vision.preprocess(crop))
    cls, patches = tokens.cls[0], tokens.patches[0]
    rows = torch.stack([torch.cat([0.5 * cls, patch]) for patch in patches])
    rows = rows / rows.norm(dim=1, keepdim=True)
    scores = (rows @ torch.from_numpy(texts).T).T.reshape(1, len(texts), *tokens.grid)
    return F.interpolate(scores, size=crop.shape[:2], mode="bilinear", align_corners=False)[0]


def test_scores_are_blended_as_by_hand(model: SatTxt, tiles: list[np.ndarray]) -> None:
    scene = np.concatenate(tiles[:2], axis=1)[:64]  # (64, 128): windows of 64 at columns 0, 32 and 64
    texts = model.classifier(LABELS).weights
    centres = (np.arange(64) + 0.5) / 64
    ramp = np.maximum(np.sin(np.pi * centres), 0.05)
    taper = torch.from_numpy(np.outer(ramp, ramp)).float()
    total, weight = torch.zeros(3, 64, 128), torch.zeros(64, 128)
    for left in (0, 32, 64):
        total[:, :, left : left + 64] += taper * _patch_cosines(model, scene[:, left : left + 64], texts)
        weight[:, left : left + 64] += taper
    found = model.segment(scene, LABELS, window=64, overlap=0.5)
    assert np.abs(found.scores - (total / weight).numpy()).max() < 1e-4
    assert np.abs(found.scores).max() <= 1


def test_shares_and_probabilities_are_those_of_the_map(model: SatTxt, tiles: list[np.ndarray]) -> None:
    found = model.segment(tiles[0], LABELS)
    for index, label in enumerate(LABELS):
        assert found.shares[label] == pytest.approx((found.label_map == index).mean())
    scaled = np.exp(model.config.logit_scale * found.scores)
    assert np.abs(found.probs - scaled / scaled.sum(axis=0)).max() < 1e-4


def test_the_overlay_is_the_image_where_it_is_transparent(model: SatTxt, tiles: list[np.ndarray]) -> None:
    found = model.segment(tiles[0], LABELS)
    assert np.array_equal(np.asarray(found.to_image(0, legend=False)), tiles[0])
    opaque = np.asarray(found.to_image(1, legend=False))
    colours = np.array([found.legend[label] for label in LABELS])
    assert np.array_equal(opaque, colours[found.label_map])
