"""Colour fields look like what they are called."""

from __future__ import annotations

from sattxt.training.fields import FIELDS, draw_fields


def test_drawn_fields_look_like_their_captions():
    tiles = draw_fields(len(FIELDS) * 2, seed=5)
    means = {key.split("/")[0]: image.float().mean((1, 2)) for key, image in zip(tiles.keys, tiles.pixels, strict=True)}
    assert float(means["ice"].min()) > 190
    assert means["water"].argmax() == 2
    assert means["lake"].argmin() == 0
    assert means["forest"].argmax() == 1
    assert all(tiles.captions)
