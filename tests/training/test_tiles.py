"""Tiles in memory or decoded as needed, what stands in for a bad one, and which tiles a step sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sattxt.errors import InputError, MissingExtraError
from sattxt.training.tiles import Tiles, take_in_turn


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


def test_rgb_is_rendered_from_the_bands():
    values = torch.tensor([1375, 0, 2750, 4000], dtype=torch.int16).view(1, 4, 1, 1).expand(1, 4, 8, 8)
    pairs = Tiles("made", ["a"], values, bands=("nir", "B04", "green", "B2"))
    assert pairs.bands == ("B08", "B04", "B03", "B02")
    assert pairs.take(torch.tensor([0]))[0, :, 0, 0].tolist() == [0, 255, 255]
    assert pairs.spectral(torch.tensor([0]))[0, :, 0, 0].tolist() == [1375, 0, 2750, 4000]


def test_bands_without_those_of_rgb_are_refused():
    said = "made: needs the bands B02, B03 and B04 to render RGB from, and lacks B02; it has B04, B03, B08"
    with pytest.raises(InputError, match=said):
        Tiles("made", ["a", "b"], torch.zeros(2, 3, 8, 8, dtype=torch.int16), bands=("B04", "B03", "nir"))


def test_tiles_are_walked_in_whole_epochs():
    first = torch.cat([take_in_turn(10, 4, 1, step) for step in range(5)])
    assert sorted(first[:10].tolist()) == list(range(10))
    assert sorted(first[10:].tolist()) == list(range(10))
    assert torch.equal(take_in_turn(10, 4, 1, 3), first[12:16])  # any step, without the ones before it
    assert not torch.equal(take_in_turn(10, 4, 2, 0), first[:4])
