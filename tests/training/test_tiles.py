"""Tiles in memory or decoded as needed, what stands in for a bad one, and which tiles a step sees."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from sattxt.errors import InputError, MissingExtraError
from sattxt.training.tiles import Sampler, Tiles


def lazy(broken: set[int], count: int = 6) -> Tiles:
    def decode(index: int) -> np.ndarray:
        if index in broken:
            raise OSError("truncated")
        return np.full((3, 8, 8), index, np.uint8)

    keys, classes = [f"t{i}" for i in range(count)], tuple(map(str, range(count)))
    return Tiles("made", keys, decode, torch.arange(count), classes, [[f"c{i}"] for i in range(count)])


def test_what_stands_in_for_a_bad_tile_brings_its_own_label_and_captions():
    tiles = lazy({2, 3})
    index = torch.tensor([0, 2, 5])
    assert tiles.take(index)[:, 0, 0, 0].tolist() == [0, 4, 5]
    assert tiles.actual(index).tolist() == [0, 4, 5]
    assert sorted(tiles.skipped) == [("t2", "truncated"), ("t3", "truncated")]
    assert tiles.take(torch.tensor([3]))[0, 0, 0, 0] == 4
    assert len(tiles.skipped) == 2  # counted once


def test_what_stands_in_does_not_depend_on_what_was_asked_before():
    one, other = lazy({5, 0}), lazy({5, 0})
    other.take(torch.tensor([0, 1, 2, 3, 4]))
    assert torch.equal(one.take(torch.tensor([5, 0])), other.take(torch.tensor([5, 0])))
    assert one.actual(torch.tensor([5, 0])).tolist() == [1, 1]


def test_a_bad_tile_is_logged_once(caplog):
    tiles = lazy({2})
    for _ in range(3):
        tiles.take(torch.tensor([2, 2]))
    assert [r.message for r in caplog.records] == ["made: t2 is left out: truncated"]


def test_when_nothing_can_be_read_that_is_an_error():
    with pytest.raises(InputError, match="made: none of 6 tiles can be read, first t0: truncated"):
        lazy(set(range(6))).take(torch.tensor([4]))
    with pytest.raises(InputError, match="none of 6 tiles"):
        lazy(set(range(6))).in_memory()


def test_a_missing_package_is_no_bad_tile():
    def decode(index: int) -> np.ndarray:
        raise MissingExtraError("geo", "rasterio", "reading")

    with pytest.raises(MissingExtraError):
        Tiles("made", ["a"], decode).take(torch.tensor([0]))


def test_in_memory_leaves_bad_tiles_out():
    tiles = lazy({1}).in_memory()
    assert tiles.pixels[:, 0, 0, 0].tolist() == [0, 2, 3, 4, 5]
    assert tiles.labels.tolist() == [0, 2, 3, 4, 5]
    assert tiles.captions[1] == ["c2"]
    assert tiles.skipped == [("t1", "truncated")]
    assert torch.equal(tiles.take(torch.tensor([1])), tiles.pixels[1:2])


def test_no_tiles_asked_for_are_none():
    assert lazy(set()).take(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 8, 8)


def test_rgb_alone_gives_back_reflectance_below_the_clip():
    grey = torch.tensor([1, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8).contiguous()
    pairs = Tiles("eurosat", ["a/1.jpg"], grey, bands=("B04", "B03", "B02"))
    assert pairs.spectral(torch.tensor([0]))[0, :, 0, 0].tolist() == pytest.approx([0, 1375, 2750])
    assert torch.equal(pairs.take(torch.tensor([0])), grey)


def test_rgb_is_rendered_from_the_bands():
    values = torch.tensor([1375, 0, 2750, 4000], dtype=torch.int16).view(1, 4, 1, 1).expand(1, 4, 8, 8)
    pairs = Tiles("made", ["a"], values, bands=("nir", "B04", "green", "B2"))
    assert pairs.bands == ("B08", "B04", "B03", "B02")
    assert pairs.take(torch.tensor([0]))[0, :, 0, 0].tolist() == [0, 255, 255]
    assert pairs.spectral(torch.tensor([0]))[0, :, 0, 0].tolist() == [1375, 0, 2750, 4000]


RGB = ("B04", "B03", "B02")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bands": ()}, "made: pixels is int16 (2, 3, 8, 8); pass square tiles (2, 3, 8, 8) of uint8"),
        ({"keys": ["only one"]}, "made: pixels is int16 (2, 3, 8, 8); pass square tiles (1, 3, 8, 8)"),
        ({"labels": torch.zeros(3)}, "made: 2 tiles, 3 labels, 2 lists of captions"),
        ({"keys": []}, "made: 0 tiles"),
        ({"pixels": torch.zeros(2, 3, 8, 4, dtype=torch.int16)}, "made: pixels is int16 (2, 3, 8, 4)"),
        ({"pixels": torch.full((2, 3, 8, 8), math.nan)}, "made: pixels is float32 (2, 3, 8, 8); pass square"),
        ({"bands": ("B04", "B03", "nir")}, "made: needs the bands B02, B03 and B04 to render RGB from, and lacks B02"),
        ({"bands": (*RGB, "red")}, "made: bands names a band twice"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(change, said):
    good = {"name": "made", "keys": ["a", "b"], "pixels": torch.zeros(2, 3, 8, 8, dtype=torch.int16), "bands": RGB}
    Tiles(**good)
    with pytest.raises(InputError, match=re.escape(said)):
        Tiles(**{**good, **change})


def test_sampler_walks_each_set_in_whole_epochs():
    sampler = Sampler([10, 3], [4, 2], seed=1)
    first = torch.cat([sampler.batch(step)[0] for step in range(5)])
    assert sorted(first[:10].tolist()) == list(range(10))
    assert sorted(first[10:].tolist()) == list(range(10))
    again = Sampler([10, 3], [4, 2], seed=1)
    assert torch.equal(again.batch(3)[0], sampler.batch(3)[0])  # any step, without the ones before it
