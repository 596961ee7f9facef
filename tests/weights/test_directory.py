"""Model directories: written whole or not at all, and refused when anything in them is not as it should be."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from release_files import convert_golden
from safetensors.torch import load_file, save_file

from sattxt import SatTxt
from sattxt.config import (
    BackboneConfig,
    HeadConfig,
    ImageConfig,
    ModelConfig,
    TextEncoderConfig,
    VisionConfig,
    image_config,
)
from sattxt.errors import ChecksumError, DiskFullError, InputError, WeightsError
from sattxt.vision.tower import VisionTower
from sattxt.weights import checksums
from sattxt.weights.directory import copy_model, read_model, write_model


@pytest.fixture(scope="module")
def golden_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_golden(tmp_path_factory.mktemp("golden") / "model")


@pytest.fixture
def model(golden_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden_model, tmp_path / "model"))


def edit(path: Path, **changes: torch.Tensor | None) -> None:
    """Replace (None: drop) tensors of a safetensors file."""
    state = {**load_file(path), **changes}
    save_file({key: value for key, value in state.items() if value is not None}, path)


def test_what_is_written_is_read_back(model: Path, tmp_path: Path) -> None:
    stored = read_model(model)
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "tokenizer.json").write_text("{}")
    path = write_model(tmp_path / "new" / "copy", stored.config, stored.vision, stored.text_head, encoder)
    again = read_model(path)
    assert again.config == stored.config
    assert all(torch.equal(again.vision[key], stored.vision[key]) for key in stored.vision)
    assert again.text_encoder_dir == path / "text_encoder"
    assert (path / "README.md").read_text().startswith("---\nlibrary_name: sattxt")
    assert sorted(item.name for item in path.parent.iterdir()) == ["copy"]


def test_a_convolutional_backbone_and_its_counters_are_kept(tmp_path: Path) -> None:
    vision = VisionConfig(
        BackboneConfig("mobilenet_v1", {"depth_multiplier": 0.25}, output_stride=16), HeadConfig(256, 32, 1, 4, 64)
    )
    text = TextEncoderConfig(kind="sentence", hidden_size=8, weights_sha256="0" * 64)
    config = ModelConfig("tiny", 64, ImageConfig(), vision, text, logit_scale=10.0)
    head = {"ln.weight": torch.ones(8), "ln.bias": torch.zeros(8), "proj.weight": torch.ones(64, 8)}
    state = VisionTower(vision).state_dict()
    again = read_model(write_model(tmp_path / "tiny", config, state, head))
    assert again.text_encoder_dir is None
    assert {key: value.dtype for key, value in again.vision.items()} == {k: v.dtype for k, v in state.items()}
    VisionTower(vision).load_state_dict(again.vision)


def test_half_precision_files_are_read_as_float32(model: Path, tmp_path: Path) -> None:
    stored = read_model(model)
    halves = {key: value.half() for key, value in stored.vision.items()}
    again = read_model(write_model(tmp_path / "half", stored.config, halves, stored.text_head))
    key = "head.ln_final.weight"
    assert again.vision[key].dtype == torch.float32
    assert torch.equal(again.vision[key], halves[key].float())


def test_a_copy_keeps_the_files_and_takes_the_changed_config(model: Path, tmp_path: Path) -> None:
    stored = read_model(model)
    changed = replace(stored, config=replace(stored.config, image=image_config("unit", stored.config.image)))
    path = copy_model(changed, tmp_path / "copy")
    assert (path / "vision.safetensors").read_bytes() == (model / "vision.safetensors").read_bytes()
    assert read_model(path).config.image.preset == "unit"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("vision.safetensors", {"head.ln_final.bias": None}, r"'head.ln_final.bias' is missing.*\(64,\)"),
        (
            "vision.safetensors",
            {"head.ln_final.bias": torch.zeros(65)},
            r"'head.ln_final.bias' has shape \(65,\).*\(64,\)",
        ),
        ("vision.safetensors", {"head.more": torch.zeros(2)}, r"'head.more' of shape \(2,\) has no place"),
        ("vision.safetensors", {"head.ln_final.bias": torch.full((64,), torch.nan)}, "'head.ln_final.bias'.*NaN"),
        (
            "text_head.safetensors",
            {"proj.weight": torch.zeros(48, 128)},
            r"'proj.weight' has shape \(48, 128\).*\(128, 48\)",
        ),
        ("text_head.safetensors", {"ln.weight": torch.full((48,), torch.inf)}, "'ln.weight'.*infinite"),
        ("text_head.safetensors", {"proj.weight": None}, "'proj.weight' is missing"),
        ("text_head.safetensors", {"more": torch.ones(5)}, r"'more' of shape \(5,\) has no place"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    model: Path, file: str, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    edit(model / file, **changes)
    checksums.write_sums(model)
    with pytest.raises(WeightsError, match=f"{file}.*{message}"):
        SatTxt.from_pretrained(model)


def test_writing_checks_the_tensors_too(model: Path, tmp_path: Path) -> None:
    stored = read_model(model)
    with pytest.raises(WeightsError, match=r"text_head\.safetensors: .*ln\.bias"):
        write_model(tmp_path / "new", stored.config, stored.vision, {"ln.weight": stored.text_head["ln.weight"]})
    stored.vision["head.ln_final.bias"][0] = torch.nan
    with pytest.raises(WeightsError, match=r"head.ln_final.bias.*NaN"):
        write_model(tmp_path / "new", stored.config, stored.vision, stored.text_head)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("file", ["vision.safetensors", "text_head.safetensors", "config.json", "README.md"])
def test_a_changed_file_is_a_checksum_error(model: Path, file: str) -> None:
    data = bytearray((model / file).read_bytes())
    data[len(data) // 2] ^= 1
    (model / file).write_bytes(bytes(data))
    with pytest.raises((ChecksumError, WeightsError), match=file):
        read_model(model)


def test_one_flipped_bit_in_a_tensor_is_a_checksum_error(model: Path) -> None:
    path = model / "vision.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ChecksumError, match=r"vision.safetensors: its sha256 is [0-9a-f]{64}, recorded is"):
        read_model(model)


def test_a_large_file_is_hashed_again_only_when_it_changed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    real = checksums.sha256_file

    def counted(path: Path) -> str:
        hashed.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(checksums, "LARGE", 1_000_000)
    monkeypatch.setattr(checksums, "sha256_file", counted)
    read_model(model)
    read_model(model)
    assert hashed.count("vision.safetensors") == 1
    assert hashed.count("config.json") == 2
    path = model / "vision.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(1, 1))
    with pytest.raises(ChecksumError):
        read_model(model)


@pytest.mark.parametrize(
    "file", ["vision.safetensors", "text_head.safetensors", "config.json", "SHA256SUMS", "README.md"]
)
def test_a_missing_file_is_named(model: Path, file: str) -> None:
    (model / file).unlink()
    with pytest.raises(WeightsError, match=file):
        read_model(model)


def test_a_truncated_file_is_an_error_even_where_its_sum_is_right(model: Path) -> None:
    path = model / "vision.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ChecksumError, match=r"vision.safetensors"):
        read_model(model)
    checksums.write_sums(model)
    with pytest.raises(WeightsError, match=r"vision.safetensors: damaged"):
        read_model(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format_version"),
        ({"surprise": 1}, "surprise"),
        ({"embed_dim": 100}, "embed_dim is 100.*128"),
    ],
)
def test_a_config_that_is_not_understood_or_contradicts_itself(
    model: Path, change: dict[str, object], message: str
) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(WeightsError, match=message):
        read_model(model)


def test_checksum_lines_cannot_point_outside(model: Path) -> None:
    (model / "SHA256SUMS").write_text(f"{'0' * 64}  ../../etc/passwd\n")
    with pytest.raises(WeightsError, match="line 1"):
        read_model(model)


def test_an_existing_folder_is_not_overwritten_unasked(model: Path, tmp_path: Path) -> None:
    stored = read_model(model)
    arguments = (stored.config, stored.vision, stored.text_head)
    with pytest.raises(InputError, match="not empty"):
        write_model(model, *arguments)
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match="holds no sattxt model"):
        write_model(mine, *arguments, overwrite=True)
    assert (mine / "a.png").read_bytes() == b"x"
    write_model(model, replace(stored.config, logit_scale=7.0), stored.vision, stored.text_head, overwrite=True)
    assert read_model(model).config.logit_scale == 7.0


def test_a_full_disk_leaves_nothing_new_and_the_old_model_whole(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = read_model(model)
    monkeypatch.setattr("safetensors.torch.save_file", _disk_full)
    arguments = (stored.config, stored.vision, stored.text_head)
    with pytest.raises(DiskFullError, match="new: no space left"):
        write_model(tmp_path / "new", *arguments)
    with pytest.raises(DiskFullError):
        write_model(model, *arguments, overwrite=True)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model"]
    assert read_model(model).config == stored.config


def _disk_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
