"""Pixel values equal the released code's, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from sattxt.config import ImageConfig, image_config
from sattxt.errors import ImageError, InputError
from sattxt.images.preprocess import Preprocessor
from sattxt.images.read import to_rgb


def prepared(image: np.ndarray, config: ImageConfig) -> torch.Tensor:
    """(3, size, size) of one image."""
    return Preprocessor(config).batch([image])[0]


def tile(height: int, width: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(dtype)


@pytest.mark.parametrize("preset", ["official", "unit"])
def test_golden_pixel_values(golden_dir, preset: str) -> None:
    expected = load_file(golden_dir / "sattxt" / "expected.safetensors")
    images = [to_rgb(path) for path in sorted((golden_dir / "sattxt" / "images").glob("*.png"))]
    pixels = Preprocessor(image_config(preset, ImageConfig(size=224))).batch(images)
    assert pixels.shape == (8, 3, 224, 224)
    crop = pixels[..., 100:108, 100:108]  # the part of each image that the golden file holds
    torch.testing.assert_close(crop, expected[f"pixel_values_{preset}_crop"], rtol=0, atol=1e-5)
    # "official" means reach 950, where float32 itself is 6e-5 apart: summed in another order they may differ by that.
    means = expected[f"pixel_values_{preset}_mean"]
    torch.testing.assert_close(pixels.mean(dim=(2, 3)), means, rtol=2e-7, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 96), (64, 96), (200, 517), (97, 96), (96, 99), (300, 41)])
def test_against_the_definition(height: int, width: int) -> None:
    config = ImageConfig(size=96, rescale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    image = tile(height, width)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()[None]
    short, long = min(height, width), max(height, width)
    if short != 96:
        longer = int(96 * long / short)
        size = (longer, 96) if height > width else (96, longer)
        pixels = torch.nn.functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)
    top, left = round((pixels.shape[2] - 96) / 2.0), round((pixels.shape[3] - 96) / 2.0)
    pixels = pixels[..., top : top + 96, left : left + 96] / 255
    for channel in range(3):
        pixels[:, channel] = (pixels[:, channel] - config.mean[channel]) / config.std[channel]
    result = prepared(image, config)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, pixels[0], rtol=0, atol=1e-5)


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    config = ImageConfig(size=32, rescale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    image = tile(32, 32)
    np.testing.assert_array_equal(prepared(image, config).permute(1, 2, 0).numpy(), image)


def test_resizing_does_not_round_or_clip() -> None:
    config = ImageConfig(size=48, rescale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 255
    pixels = prepared(image, config)
    assert pixels.min() < 0
    assert pixels.max() > 255
    assert (pixels != pixels.round()).any()


def test_uint8_and_the_same_values_as_floats_are_alike() -> None:
    of_bytes, of_floats = Preprocessor(ImageConfig(size=40)).batch([tile(30, 50), tile(30, 50, "float32")])
    torch.testing.assert_close(of_bytes, of_floats, rtol=0, atol=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(5, 40), st.integers(5, 40), st.sampled_from(["uint8", "float32"])), max_size=7))
def test_an_image_does_not_depend_on_its_batch(kinds: list[tuple[int, int, str]]) -> None:
    preprocess = Preprocessor(ImageConfig(size=24))
    images = [tile(height, width, dtype, seed) for seed, (height, width, dtype) in enumerate(kinds)]
    batch = preprocess.batch(images)
    assert batch.shape == (len(images), 3, 24, 24)
    for pixels, image in zip(batch, images, strict=True):
        torch.testing.assert_close(pixels, preprocess.batch([image])[0], rtol=0, atol=0)


def test_large_groups_are_cut_into_chunks_in_order() -> None:
    preprocess = Preprocessor(ImageConfig(size=8))
    images = [np.full((1200, 1200, 3), value, np.uint8) for value in range(4)]
    means = preprocess.batch(images).mean(dim=(1, 2, 3))
    assert (means.diff() > 0).all()


def test_the_images_are_left_alone() -> None:
    image = tile(24, 24, "float32")
    before = image.copy()
    prepared(image, ImageConfig(size=24))
    Preprocessor(ImageConfig(size=24)).batch([image, image])
    np.testing.assert_array_equal(image, before)


def test_read_only_and_strided_images() -> None:
    image = tile(20, 30)
    expected = prepared(image[::-1].copy(), ImageConfig(size=24))
    image.setflags(write=False)
    torch.testing.assert_close(prepared(image[::-1], ImageConfig(size=24)), expected, rtol=0, atol=0)


def test_bilinear_is_another_filter() -> None:
    bicubic, bilinear = (prepared(tile(20, 20), ImageConfig(size=48, resample=r)) for r in ("bicubic", "bilinear"))
    assert (bicubic - bilinear).abs().max() > 0.01


@pytest.mark.parametrize(
    "bad", [np.zeros((20, 20)), np.zeros((3, 20, 20)), np.zeros((0, 20, 3)), torch.zeros(20, 20, 3)]
)
def test_other_shapes_are_refused(bad: object) -> None:
    with pytest.raises(ImageError, match=r"image 1: has shape .*\(H, W, 3\)"):
        Preprocessor(ImageConfig(size=8)).batch([tile(9, 9), bad])


def test_a_strip_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(ImageError, match="50 times"):
        prepared(np.zeros((1, 50_000, 3), np.uint8), ImageConfig(size=224))


@pytest.mark.parametrize("bad", [{"size": 0}, {"std": (1.0, 0.0, 1.0)}, {"window": 7}])
def test_a_config_that_cannot_work_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        Preprocessor(ImageConfig(**bad))
