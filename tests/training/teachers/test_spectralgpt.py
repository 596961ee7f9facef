"""SpectralGPT gives the published tokens, and refuses what it cannot use."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sattxt.errors import InputError, UnsafePickleError, WeightsError
from sattxt.training.teachers.spectralgpt import SpectralGPTTeacher

S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def reflectance(bands: int, size: int = 16, count: int = 2) -> Tensor:
    return 3000 * torch.rand(count, bands, size, size, generator=torch.Generator().manual_seed(1))


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
    pixels = torch.zeros(1, 12, 1, 4)
    pixels[0, 1, 0] = values
    out = spectralgpt.normalise(pixels, spectralgpt.bands)[0, 1, 0]
    assert (255 * out).round().tolist() == [127, 191, 0, 255]  # the mean, mean + std, below and above the clip


def test_spectralgpt_takes_other_sizes_and_orders(spectralgpt):
    image = reflectance(12, size=16)
    seen = spectralgpt.encode(image, spectralgpt.bands)
    assert seen.shape == (2, 48, 4, 4)
    reverse = spectralgpt.encode(image.flip(1), spectralgpt.bands[::-1])
    assert torch.equal(seen, reverse)


def test_spectralgpt_names_the_bands_it_misses(spectralgpt):
    with pytest.raises(InputError, match="s2: spectralgpt needs the bands B01, B09, which it lacks"):
        spectralgpt.check(S2_BANDS, "s2")


def test_spectralgpt_asks_for_heads_where_no_tensor_tells(golden_dir):
    with pytest.raises(InputError, match=r"width 48 is no multiple of 64; pass heads="):
        SpectralGPTTeacher.from_checkpoint(golden_dir / "spectralgpt" / "spectralgpt_tiny.pth")


def test_spectralgpt_refuses_another_models_checkpoint(tmp_path):
    torch.save({"model": {"conv1.weight": torch.zeros(3)}}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match=r"resnet.pth: tensor 'patch_embed.proj.weight' of 5 dimensions is needed"):
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
