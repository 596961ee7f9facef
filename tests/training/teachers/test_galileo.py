"""Galileo gives the published tokens, masks what is missing, and refuses what it cannot use."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sattxt.errors import InputError, WeightsError
from sattxt.images.bands import EUROSAT_MS
from sattxt.training.teachers.galileo import GalileoTeacher

RGB = ("B02", "B03", "B04")
GALILEO_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


@pytest.fixture(scope="module")
def galileo_golden(golden_dir: Path) -> dict[str, Tensor]:
    return load_file(golden_dir / "galileo" / "expected.safetensors")


@pytest.fixture(scope="module")
def tiles(data_dir: Path, golden_dir: Path) -> Tensor:
    rasterio = pytest.importorskip("rasterio")
    meta = json.loads((golden_dir / "galileo" / "meta.json").read_text())
    arrays = []
    with zipfile.ZipFile(data_dir / meta["tile_zip"]) as archive:
        for name in meta["tiles"]:
            with rasterio.MemoryFile(archive.read(name)) as memory, memory.open() as tile:
                arrays.append(tile.read())
    return torch.from_numpy(np.stack(arrays).astype(np.float32))


def nano(data_dir: Path, **options) -> GalileoTeacher:
    return GalileoTeacher.from_folder(data_dir / "teachers" / "galileo-nano", **options)


@pytest.fixture
def small_galileo() -> GalileoTeacher:
    torch.manual_seed(0)
    teacher = GalileoTeacher(width=16, depth=1, heads=2, hidden=32)
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=0.2)
    return teacher


def reflectance(bands: int, size: int = 16, count: int = 2) -> Tensor:
    return 3000 * torch.rand(count, bands, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.tiles
def test_galileo_normalises_as_published(data_dir, tiles, galileo_golden):
    pixels = nano(data_dir).normalise(tiles, EUROSAT_MS)
    expected = galileo_golden["normalized_input_first_pixels"][..., 2:].permute(0, 3, 1, 2)  # without Sentinel-1
    torch.testing.assert_close(pixels[:, :, :4, :4], expected, rtol=0, atol=1e-6)


@pytest.mark.tiles
def test_galileo_gives_the_published_tokens(data_dir, tiles, galileo_golden):
    tokens, seen = nano(data_dir).tokens(tiles, EUROSAT_MS), nano(data_dir).encode(tiles, EUROSAT_MS)
    expected = galileo_golden["ms_month5_patch8"].float()
    torch.testing.assert_close(tokens, expected, rtol=0, atol=6e-4)
    torch.testing.assert_close(seen.mean((2, 3)), expected.mean(dim=(1, 2, 3)), rtol=0, atol=2e-4)
    torch.testing.assert_close(seen, expected.mean(dim=3).permute(0, 3, 1, 2), rtol=0, atol=6e-4)


@pytest.mark.tiles
def test_galileo_takes_another_patch_size_and_month(data_dir, tiles, galileo_golden):
    tokens = nano(data_dir, patch_size=4, month=0).tokens(tiles[:1, :, :32, :32], EUROSAT_MS)
    torch.testing.assert_close(tokens, galileo_golden["ms_crop32_month0_patch4"], rtol=0, atol=1e-5)


@pytest.mark.tiles
def test_galileo_takes_the_rgb_group_alone(data_dir, tiles, galileo_golden):
    positions = [EUROSAT_MS.index(band) for band in RGB]
    tokens = nano(data_dir).tokens(tiles[:, positions], RGB)
    expected = galileo_golden["rgb_only_month5_patch8"].float()
    torch.testing.assert_close(tokens, expected.view(tokens.shape), rtol=0, atol=6e-4)


def test_galileo_masks_a_group_that_is_incomplete(small_galileo):
    values = reflectance(4)
    with_half_of_swir = small_galileo.tokens(values, (*RGB, "B11"))
    without = small_galileo.tokens(values[:, :3], RGB)
    assert with_half_of_swir.shape == (2, 2, 2, 1, 16)
    assert torch.equal(with_half_of_swir, without)


def test_galileo_counts_tokens_by_group(small_galileo):
    values = reflectance(10, size=24)
    assert small_galileo.tokens(values, GALILEO_BANDS).shape == (2, 3, 3, 6, 16)
    assert small_galileo.encode(values, GALILEO_BANDS).shape == (2, 16, 3, 3)


def test_galileo_sees_where_what_lies(small_galileo):
    wide = reflectance(3, size=16).repeat(1, 1, 1, 2)  # 2 x 4 patches
    seen = small_galileo.encode(wide, RGB)
    assert seen.shape == (2, 16, 2, 4)
    left, right = seen[..., :2], seen[..., 2:]
    assert (left - right).abs().max() > 1e-4  # same pixels, another place


def test_galileo_refuses_patches_larger_than_its_kernels():
    with pytest.raises(InputError, match="patch_size=9: pass 1 to 8"):
        GalileoTeacher(patch_size=9)


def test_galileo_says_what_it_lacks(small_galileo):
    with pytest.raises(InputError, match=r"scenes: has B01, B02, none of galileo's groups is complete \(S2_RGB: B02"):
        small_galileo.check(("B1", "B2"), "scenes")
    with pytest.raises(InputError, match="20 x 20 pixels do not divide into patches of 8"):
        small_galileo.encode(reflectance(3, size=20), RGB)


def test_galileo_folder_without_its_weights_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"config.json: cannot be read as JSON"):
        GalileoTeacher.from_folder(tmp_path)


def test_galileo_weights_of_another_size_are_refused(tmp_path, small_galileo):
    sizes = {"embedding_size": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "max_patch_size": 8}
    config = {"model": {"encoder": {**sizes, "max_sequence_length": 24}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(small_galileo.state_dict(), tmp_path / "encoder.pt")
    with pytest.raises(WeightsError, match=r"encoder.pt: tensor 'blocks.1.norm1.weight' is missing"):
        GalileoTeacher.from_folder(tmp_path)


def test_galileo_stays_frozen_inside_a_model_that_trains(small_galileo):
    model = nn.ModuleDict({"teacher": small_galileo, "student": nn.Linear(2, 2)})
    model.train()
    assert model["student"].training
    assert not any(module.training for module in small_galileo.modules())
    image = reflectance(3).requires_grad_()
    assert not small_galileo.encode(image, RGB).requires_grad
    assert not any(parameter.requires_grad for parameter in small_galileo.parameters())
