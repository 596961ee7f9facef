"""The demonstration on NASA's Blue Marble: the whole Earth at seven kilometres a pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sattxt import SatTxt
from sattxt.demo import LABELS, PLACES, best_places, blue_marble, crop, run


@pytest.fixture(scope="module")
def mosaic() -> np.ndarray:
    return blue_marble()


def test_places_of_the_earth(mini: SatTxt, mosaic: np.ndarray) -> None:
    batch = mini.zero_shot([crop(mosaic, place) for place in PLACES.values()], LABELS)
    found = {name: result.label for name, result in zip(PLACES, batch, strict=True)}
    wanted = {
        "Sahara, Algeria": "desert",
        "Rub' al Khali, Arabia": "desert",
        "Amazon basin, Brazil": "forest",
        "Congo basin": "forest",
        "Borneo": "forest",
        "Siberian taiga": "forest",
        "Greenland ice sheet": "ice and snow",
        "Antarctica": "ice and snow",
        "Central Pacific": "open ocean",
        "South Atlantic": "open ocean",
    }
    assert {name: found[name] for name in wanted} == wanted


def test_the_demo_finds_ice_where_ice_is(tmp_path: Path) -> None:
    lines: list[str] = []
    picture = run("sea ice", [], tmp_path, say=lines.append)
    with Image.open(picture) as image:
        assert image.width > 1000
    table = "\n".join(lines)
    assert all(name in table for name in PLACES)
    best = [line.split() for line in lines if "standard deviations" in line]
    latitudes = [abs(float(line[0].rstrip(","))) for line in best]
    assert len(latitudes) == 5
    assert min(latitudes) > 50


def test_best_places_keep_apart() -> None:
    scores = np.zeros((83, 167), np.float32)
    scores[40, 80], scores[41, 81], scores[10, 20] = 3, 2.9, 2
    (first, second) = best_places(scores, 2)
    assert first[2] == 3
    assert second[2] == 2


def test_the_demo_has_a_label_for_every_kind_of_place() -> None:
    assert len(PLACES) == 12
    assert all(prompts for prompts in LABELS.values())
