"""CROMA gives the published tokens of both sensors, at any size, and refuses what it cannot use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sattxt.errors import InputError, WeightsError
from sattxt.training.teachers.croma import Croma, CromaTeacher
from sattxt.vision.attention import distance_bias, head_slopes


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, Tensor]:
    return load_file(golden_dir / "croma" / "expected.safetensors")


@pytest.fixture(scope="module")
def croma(golden_dir: Path) -> Croma:
    return Croma.from_checkpoint(golden_dir / "croma" / "CROMA_tiny.pt")


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize(("inputs", "outputs"), [("in", "released"), ("in_other_size", "released_other_size")])
def test_croma_gives_the_published_features(croma: Croma, golden: dict[str, Tensor], inputs: str, outputs: str) -> None:
    optical, sar = (golden[f"{inputs}/{sensor}"].float() / 255 for sensor in ("optical", "sar"))
    found = croma.features(optical, sar)
    names = ("optical_encodings", "optical_GAP", "SAR_encodings", "SAR_GAP", "joint_encodings", "joint_GAP")
    for value, name in zip(found, names, strict=True):
        close(value, golden[f"{outputs}/{name}"])


def test_slopes_and_biases_are_the_published_ones(golden: dict[str, Tensor]) -> None:
    for name, expected in golden.items():
        if match := re.fullmatch(r"scale_slopes/(\d+)", name):
            torch.testing.assert_close(head_slopes(int(match[1])), expected.float(), rtol=0, atol=1e-6)
        if match := re.fullmatch(r"(?:scale_)?bias/heads(\d+)_patches(\d+)(?:_scale([\d.]+))?", name):
            heads, side = int(match[1]), round(int(match[2]) ** 0.5)
            places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
            found = distance_bias(places, places, heads, float(match[3] or 1))
            torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-6)


def test_biases_across_resolutions_are_those_of_the_ground(golden: dict[str, Tensor]) -> None:
    coarse = torch.cartesian_prod(torch.arange(4), torch.arange(4)).float()
    fine = (torch.cartesian_prod(torch.arange(8), torch.arange(8)).float() + 0.5) / 2 - 0.5
    expected = golden["scale_ours/cross_bias_lores_to_hires"]
    torch.testing.assert_close(distance_bias(coarse, fine, 4), expected.float(), rtol=0, atol=1e-5)


def test_the_teacher_takes_any_size_and_order_of_bands(croma: Croma) -> None:
    teacher = CromaTeacher(croma)
    values = 3000 * torch.rand(2, 12, 64, 64, generator=torch.Generator().manual_seed(1))
    seen = teacher.encode(values, teacher.bands)
    assert seen.shape == (2, 48, 8, 8)
    assert torch.equal(seen, teacher.encode(values.flip(1), teacher.bands[::-1]))
    torch.testing.assert_close(seen[:1], teacher.encode(values[:1], teacher.bands))  # whatever is beside it
    assert teacher.encode(values[..., :61, :61], teacher.bands).shape == (2, 48, 8, 8)
    with pytest.raises(InputError, match="B01, B09"):
        teacher.check(["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"], "s2")


def test_what_is_no_croma_release_is_refused(croma: Croma, golden_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no s1_encoder"):
        Croma.from_checkpoint(golden_dir / "spectralgpt" / "spectralgpt_tiny.pth")
    parts = torch.load(golden_dir / "croma" / "CROMA_tiny.pt", weights_only=True)
    del parts["s2_encoder"]["transformer.norm_out.bias"]
    torch.save(parts, tmp_path / "damaged.pt")
    with pytest.raises(WeightsError, match="norm_out"):
        Croma.from_checkpoint(tmp_path / "damaged.pt")
    with pytest.raises(InputError, match="multiples of 8"):
        croma.optical(torch.zeros(1, 12, 30, 32))
    with pytest.raises(InputError, match="12 numbers"):
        CromaTeacher(croma, mean=(1.0,))
