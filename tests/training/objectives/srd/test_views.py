"""Views of stage 1 move RGB and all bands alike."""

from __future__ import annotations

import torch
from distilling_toy import pair_set

from sattxt.training.augment import AugmentConfig
from sattxt.training.objectives.srd.views import ms_view, rgb_view, view_geometry

PLAIN = AugmentConfig(radiometry_probability=0.0, coarse_probability=0.0)


def test_geometry_moves_both_alike_and_radiometry_moves_rgb_only():
    sets, parts = [pair_set()], [torch.arange(12)]
    thetas = view_geometry(parts, (0.3, 0.8), PLAIN, torch.Generator().manual_seed(0))
    tiles, values = [sets[0].take(parts[0])], [sets[0].spectral(parts[0])]
    (bands,) = ms_view(values, thetas)
    rgb = rgb_view(tiles, thetas, 32, PLAIN, torch.Generator())
    torch.testing.assert_close(rgb * 2750, bands[:, :3], rtol=0, atol=0.05)
    assert (bands[:, :3] - sets[0].pixels[:, :3]).abs().max() > 100  # they did move
    wild = AugmentConfig(radiometry_probability=1.0)
    assert (rgb_view(tiles, thetas, 32, wild, torch.Generator()) - rgb).abs().mean() > 0.02
    assert torch.equal(ms_view(values, thetas)[0], bands)


def test_views_keep_to_their_share_of_the_tile():
    parts = [torch.arange(400)]
    (theta,) = view_geometry(parts, (0.1, 0.4), AugmentConfig(), torch.Generator().manual_seed(0))
    area = torch.linalg.det(theta[:, :, :2]).abs()
    assert 0.0999 < float(area.min()) < 0.12
    assert 0.37 < float(area.max()) < 0.4001
    corners = torch.tensor([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)])
    reached = torch.einsum("nij,cj->nci", theta, corners)
    assert float(reached.abs().max()) <= 1 + 1e-6  # inside the tile
    assert float(reached.abs().amax()) > 0.95  # up to its edge
