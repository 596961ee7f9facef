"""Coarser pixels and other input sizes."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_fakes import ColourEncoder, prompts, write_folders

from sattxt.data.registry import open_data
from sattxt.errors import InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.scale import degrade, scale


def test_degrading_averages_the_pixels_it_merges():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2] = 200
    image[0, 0] = 0
    found = degrade(image, 2)
    assert found.shape == (2, 2, 3)
    assert found[..., 0].tolist() == [[150, 0], [0, 0]]
    assert np.allclose(degrade(image.astype(np.float32), 2), found)
    assert np.array_equal(degrade(image, 1), image)
    assert degrade(image, 100).shape == (1, 1, 3)


def test_scale_measures_every_factor_and_size(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 2)).split()
    sizes = []

    def open_at(size: int) -> Embedder:
        sizes.append(size)
        return embed

    document = scale(embed, data, prompts(data), factors=(1, 4), sizes=(32,), open_at=open_at).to_dict()
    assert (document["top1_x1"], document["top1_x4"], document["top1_32px"]) == (100, 100, 100)
    assert sizes == [32]
    assert [row["factor"] for row in document["gsd"]] == [1, 4]
    with pytest.raises(InputError, match="pass 1 or more"):
        scale(embed, data, prompts(data), factors=(0.5,), open_at=open_at)


def test_coarser_images_are_cached_beside_the_others(tmp_path):
    data, encoder = open_data(write_folders(tmp_path / "x", 2)).split(), ColourEncoder()
    for _ in range(2):
        scale(Embedder(encoder, cache=tmp_path / "cache"), data, prompts(data), factors=(1, 2, 4), open_at=Embedder)
    assert encoder.images_seen == 3 * 6
