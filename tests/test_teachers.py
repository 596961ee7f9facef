"""Teachers give the published models' tokens, mask what is missing, stay frozen, and refuse what they cannot use."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sattxt.errors import InputError, UnsafePickleError, WeightsError
from sattxt.images.bands import EUROSAT_MS
from sattxt.training.teachers.base import CallableTeacher, Teacher, band_stack
from sattxt.training.teachers.galileo import GalileoTeacher
from sattxt.training.teachers.spectralgpt import SpectralGPTTeacher

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
    seen = nano(data_dir).encode(tiles, EUROSAT_MS)
    expected = galileo_golden["ms_month5_patch8"].float()
    torch.testing.assert_close(seen.tokens, expected.flatten(1, 3), rtol=0, atol=6e-4)
    torch.testing.assert_close(seen.pooled, expected.mean(dim=(1, 2, 3)), rtol=0, atol=2e-4)
    torch.testing.assert_close(seen.patches, expected.mean(dim=3).permute(0, 3, 1, 2), rtol=0, atol=6e-4)


@pytest.mark.tiles
def test_galileo_takes_another_patch_size_and_month(data_dir, tiles, galileo_golden):
    tokens = nano(data_dir, patch_size=4, month=0).tokens(tiles[:1, :, :32, :32], EUROSAT_MS)
    torch.testing.assert_close(tokens, galileo_golden["ms_crop32_month0_patch4"].flatten(1, 3), rtol=0, atol=1e-5)


@pytest.mark.tiles
def test_galileo_takes_the_rgb_group_alone(data_dir, tiles, galileo_golden):
    positions = [EUROSAT_MS.index(band) for band in RGB]
    tokens = nano(data_dir).tokens(tiles[:, positions], RGB)
    expected = galileo_golden["rgb_only_month5_patch8"].float()
    torch.testing.assert_close(tokens, expected.flatten(1, 2), rtol=0, atol=6e-4)


def test_galileo_masks_a_group_that_is_incomplete(small_galileo):
    both = {**dict(zip(RGB, reflectance(3).unbind(1), strict=True)), "B11": reflectance(1)[:, 0]}
    with_half_of_swir = small_galileo.tokens(both)
    without = small_galileo.tokens({band: both[band] for band in RGB})
    assert with_half_of_swir.shape == (2, 4, 16)
    assert torch.equal(with_half_of_swir, without)


def test_galileo_counts_tokens_by_group(small_galileo):
    seen = small_galileo.encode(reflectance(10, size=24), GALILEO_BANDS)
    assert seen.tokens.shape == (2, 3 * 3 * 6, 16)
    assert seen.patches is not None
    assert seen.patches.shape == (2, 16, 3, 3)


def test_galileo_sees_where_what_lies(small_galileo):
    wide = reflectance(3, size=16).repeat(1, 1, 1, 2)  # 2 x 4 patches
    seen = small_galileo.encode(wide, RGB)
    assert seen.patches is not None
    assert seen.patches.shape == (2, 16, 2, 4)
    left, right = seen.patches[..., :2], seen.patches[..., 2:]
    assert (left - right).abs().max() > 1e-4  # same pixels, another place


@pytest.mark.parametrize(
    ("options", "said"), [({"patch_size": 9}, "patch_size=9: pass 1 to 8"), ({"month": 12}, "month=12: pass 0")]
)
def test_galileo_refuses_options_out_of_range(options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        GalileoTeacher(**options)


def test_galileo_says_what_it_lacks(small_galileo):
    with pytest.raises(InputError, match=r"scenes: has B01, B02, none of galileo's groups is complete \(S2_RGB: B02"):
        small_galileo.check(("B1", "B2"), "scenes")
    with pytest.raises(InputError, match="20 x 20 pixels do not divide into patches of 8"):
        small_galileo.tokens(reflectance(3, size=20), RGB)


def test_galileo_folder_without_its_weights_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"config.json: cannot be read as a Galileo config"):
        GalileoTeacher.from_folder(tmp_path)


def test_galileo_weights_of_another_size_are_refused(tmp_path, small_galileo):
    sizes = {"embedding_size": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "max_patch_size": 8}
    config = {"model": {"encoder": {**sizes, "max_sequence_length": 24}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(small_galileo.state_dict(), tmp_path / "encoder.pt")
    with pytest.raises(WeightsError, match=r"encoder.pt: lacks tensor 'blocks.1.attn.k.bias'"):
        GalileoTeacher.from_folder(tmp_path)


@pytest.fixture(scope="module")
def spectralgpt(golden_dir: Path) -> SpectralGPTTeacher:
    return SpectralGPTTeacher.from_checkpoint(golden_dir / "spectralgpt" / "spectralgpt_tiny.pth", heads=4)


def test_spectralgpt_gives_the_published_tokens(golden_dir, spectralgpt):
    golden = load_file(golden_dir / "spectralgpt" / "expected.safetensors")
    tokens = spectralgpt.features(golden["input"])
    torch.testing.assert_close(tokens, golden["tokens_before_norm"], rtol=0, atol=1e-5)
    torch.testing.assert_close(spectralgpt.norm(tokens), golden["tokens_after_norm"], rtol=0, atol=1e-5)


def test_spectralgpt_normalises_as_in_pretraining(spectralgpt):
    values = torch.tensor([1184.3824625, 1184.3824625 + 650.2842772, -5000.0, 9000.0])
    stack = {band: torch.zeros(1, 1, 4) for band in spectralgpt.bands} | {"B02": values.view(1, 1, 4)}
    out = spectralgpt.normalise(stack)[0, 1, 0]
    assert (255 * out).round().tolist() == [127, 191, 0, 255]  # the mean, mean + std, below and above the clip


def test_spectralgpt_takes_other_sizes_and_orders(spectralgpt):
    image = reflectance(12, size=16)
    seen = spectralgpt.encode(image, spectralgpt.bands)
    assert seen.tokens.shape == (2, 64, 48)
    assert seen.patches is not None
    assert seen.patches.shape == (2, 48, 4, 4)
    reverse = spectralgpt.encode(image.flip(1), spectralgpt.bands[::-1])
    assert torch.equal(seen.tokens, reverse.tokens)


def test_spectralgpt_names_the_bands_it_misses(golden_dir, spectralgpt):
    with pytest.raises(InputError, match="s2: spectralgpt needs the bands B01, B09, which it lacks"):
        spectralgpt.check(GALILEO_BANDS, "s2")
    forgiving = SpectralGPTTeacher.from_checkpoint(
        golden_dir / "spectralgpt" / "spectralgpt_tiny.pth", heads=4, missing="mean"
    )
    forgiving.check(GALILEO_BANDS, "s2")
    pixels = forgiving.normalise(reflectance(10), GALILEO_BANDS)
    assert torch.equal(pixels[:, 0], torch.full((2, 16, 16), 127 / 255))


def test_spectralgpt_asks_for_heads_where_no_tensor_tells(golden_dir):
    with pytest.raises(InputError, match=r"width 48 is no multiple of 64; pass heads="):
        SpectralGPTTeacher.from_checkpoint(golden_dir / "spectralgpt" / "spectralgpt_tiny.pth")


def test_spectralgpt_refuses_another_models_checkpoint(tmp_path):
    torch.save({"model": {"conv1.weight": torch.zeros(3)}}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match=r"resnet.pth: lacks tensor 'patch_embed.proj.weight'"):
        SpectralGPTTeacher.from_checkpoint(tmp_path / "resnet.pth")


class Payload:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_spectralgpt_never_runs_code_in_a_pickle(tmp_path, capsys):
    buffer = io.BytesIO()
    torch.save({"model": {"patch_embed.proj.weight": Payload()}}, buffer)
    (tmp_path / "trap.pth").write_bytes(buffer.getvalue())
    with pytest.raises(UnsafePickleError):
        SpectralGPTTeacher.from_checkpoint(tmp_path / "trap.pth")
    assert "never" not in capsys.readouterr().out


def test_teachers_stay_frozen_inside_a_model_that_trains(small_galileo):
    model = nn.ModuleDict({"teacher": small_galileo, "student": nn.Linear(2, 2)})
    model.train()
    assert model["student"].training
    assert not any(module.training for module in small_galileo.modules())
    image = reflectance(3).requires_grad_()
    assert not small_galileo.tokens(image, RGB).requires_grad
    assert not any(parameter.requires_grad for parameter in small_galileo.parameters())


def test_any_function_is_a_teacher():
    teacher = CallableTeacher(
        lambda x: x.flatten(2).transpose(1, 2), ("red", "nir"), width=2, mean=(1000, 1000), std=(500, 500), grid=(2, 3)
    )
    assert isinstance(teacher, Teacher)
    assert teacher.bands == ("B04", "B08")
    nir = torch.full((1, 2, 3), 2000.0)
    seen = teacher.encode({"B08": nir, "B04": torch.full((1, 2, 3), 500.0)})
    assert seen.pooled.tolist() == [[-1.0, 2.0]]
    assert seen.patches is not None
    assert torch.equal(seen.patches[0, 1], torch.full((2, 3), 2.0))


@pytest.mark.parametrize("shape", [(2, 5), (1, 4), (2, 5, 4, 4), (2, 3, 5), (2,)])
def test_a_function_that_returns_another_shape_is_named(shape):
    teacher = CallableTeacher(lambda _: torch.zeros(shape), ("B04",), width=4, name="mine")
    with pytest.raises(InputError, match=r"mine: returned .* for 2 tiles; return \(N, 4\)"):
        teacher.tokens(reflectance(1), ("B04",))


def test_coarse_bands_come_up_to_the_finest():
    stack = band_stack({"B02": torch.zeros(1, 8, 8), "B11": torch.full((1, 4, 4), 7.0)})
    assert torch.equal(stack["B11"], torch.full((1, 8, 8), 7.0))


@pytest.mark.parametrize(
    ("bands", "names", "said"),
    [
        (torch.zeros(1, 2, 4, 4), None, "no names for 2 bands"),
        (torch.zeros(1, 2, 4, 4), ("B02",), "1 names for 2 bands"),
        (torch.zeros(2, 4, 4), ("B02", "B03"), "pass (N, bands, height, width)"),
        ({"B2": torch.zeros(1, 4, 4), "blue": torch.zeros(1, 4, 4)}, None, "band B02 is given twice"),
        ({"B02": torch.full((1, 4, 4), float("nan"))}, None, "band B02 holds NaN"),
        ({"B02": torch.zeros(1, 4, 4), "B03": torch.zeros(2, 4, 4)}, None, "band B03 has shape (2, 4, 4)"),
        ({}, None, "bands is empty"),
    ],
)
def test_bands_that_cannot_be_told_apart_are_refused(bands, names, said):
    with pytest.raises(InputError, match=re.escape(said)):
        band_stack(bands, names)
