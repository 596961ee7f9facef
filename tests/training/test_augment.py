"""Augmentation: geometry moves all bands alike, radiometry and air change colours, and seeds decide."""

from __future__ import annotations

import math
import re

import pytest
import torch

from sattxt.errors import InputError
from sattxt.training.augment import AugmentConfig, atmosphere, augment, random_geometry, resample


def test_augmentation_is_a_function_of_its_generator() -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    draws = [augment(images, 24, AugmentConfig(), torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert draws[0].shape == (4, 3, 24, 24)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert float(draws[0].min()) >= 0
    assert float(draws[0].max()) <= 1


def test_geometry_moves_every_band_alike() -> None:
    """RGB and multispectral stacks resampled by the same map stay aligned."""
    generator = torch.Generator().manual_seed(3)
    rgb = torch.rand(6, 3, 40, 40)
    theta = random_geometry(6, AugmentConfig(), generator)
    stacked = resample(torch.cat([rgb, rgb[:, :1]], dim=1), theta, 32)
    assert torch.allclose(stacked[:, 0], stacked[:, 3])
    assert torch.allclose(stacked[:, :3], resample(rgb, theta, 32))


def test_whole_crops_are_flips_and_quarter_turns() -> None:
    image = torch.rand(1, 1, 8, 8)
    symmetries = [torch.rot90(f, k, (-2, -1)) for f in (image, image.flip(-1)) for k in range(4)]
    config = AugmentConfig(min_area=1.0, aspect=1.0)
    seen = set()
    for seed in range(60):
        moved = resample(image, random_geometry(1, config, torch.Generator().manual_seed(seed)), 8)
        matches = [i for i, s in enumerate(symmetries) if torch.allclose(moved, s, atol=1e-5)]
        assert len(matches) == 1
        seen.update(matches)
    assert seen == set(range(8))


def test_the_atmosphere_adds_light_and_most_of_it_blue() -> None:
    images = torch.rand(200, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0, 1
    before = images.clone()
    config = AugmentConfig(atmosphere_probability=1.0)
    draws = [atmosphere(images, config, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(images, before), "what is given stays as it is"
    assert float(draws[0].min()) >= 0
    assert float(draws[0].max()) <= 1
    red, green, blue = (draws[0][2:] - images[2:]).mean((2, 3)).unbind(1)
    assert bool((blue > green).all())
    assert bool((green > red).all())
    assert bool((red > 0).all())
    darkest = atmosphere(torch.zeros(1000, 3, 1, 1), config, torch.Generator().manual_seed(0)).flatten(1)
    assert 0.29 < float(darkest[:, 2].max()) <= 0.3
    assert 0.294 < float((darkest[:, 0] / darkest[:, 2]).min()) < 0.31, "clear air: (490 / 665) ** 4 = 0.295"


def test_without_a_probability_there_is_no_atmosphere() -> None:
    images = torch.rand(4, 3, 8, 8)
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(atmosphere(images, AugmentConfig(), generator), images)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state()), "nothing is drawn"
    some = atmosphere(torch.zeros(1000, 3, 1, 1), AugmentConfig(atmosphere_probability=0.3), generator)
    assert 250 < int((some.amax((1, 2, 3)) > 0).sum()) < 350


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"min_area": 3.0}, "min_area=3.0"), ({"aspect": 0.5}, "aspect=0.5"), ({"grey_probability": math.nan}, "nan")],
)
def test_augmentation_out_of_range_is_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        AugmentConfig(**settings)
