"""Views of stage 1: crops of the same ground for the student (RGB, other radiometry) and the teacher (all bands)."""

from __future__ import annotations

from pathlib import Path

import torch
from distilling_toy import Distilling, pair_set

from sattxt.training.augment import AugmentConfig

PLAIN = AugmentConfig(radiometry_probability=0.0, coarse_probability=0.0)


def test_geometry_moves_both_alike_and_radiometry_moves_rgb_only(tmp_path: Path) -> None:
    views = {"counts": (12,), "global_area": (0.3, 0.8), "global_views": 1, "ms_views": 1}
    wild = AugmentConfig(radiometry_probability=1.0)
    plain, changed = (Distilling(tmp_path, augment=a, **views).distiller.draw(0) for a in (PLAIN, wild))
    ((bands,),) = plain.spectral
    rgb = (plain.pixels[0] + 1) / 2
    torch.testing.assert_close(rgb * 2750, bands[:, :3], rtol=0, atol=0.05)
    assert (bands[:, :3] - pair_set().pixels[plain.parts[0], :3]).abs().max() > 100  # they did move
    assert (changed.pixels[0] - plain.pixels[0]).abs().mean() > 0.04
    assert torch.equal(changed.spectral[0][0], bands)


def test_views_keep_to_their_share_of_the_tile(tmp_path: Path) -> None:
    """On tiles whose bands are their own coordinates, -1 to 1 from edge to edge."""
    tiles = pair_set(200, 32)
    sides = torch.arange(32.0) * 100
    tiles.pixels[:, 0], tiles.pixels[:, 1] = sides[None, :], sides[:, None]
    run = Distilling(
        tmp_path, sets=[tiles], counts=(200,), global_area=(0.1, 0.4), global_views=1, ms_views=1, augment=PLAIN
    )
    ((bands,),) = run.distiller.draw(0).spectral
    places = (bands[:, :2] / 100 + 0.5) / 16 - 1  # of pixel centres
    x, y = places[:, 0], places[:, 1]
    (x_down, x_across), (y_down, y_across) = (
        [v[:, 12:20, 12:20].diff(dim=axis).mean((1, 2)) for axis in (1, 2)] for v in (x, y)
    )
    area = (x_across * y_down - x_down * y_across).abs() * 16**2
    assert 0.09 < float(area.min()) < 0.13
    assert 0.36 < float(area.max()) < 0.41
    assert float(places.abs().amax()) > 0.9  # up to the tile's edge
