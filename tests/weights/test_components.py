"""A language model whose files are not those recorded is refused before it gives, caches or exports one vector."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_standin import HubStandIn
from release_files import ADAPTERS, LLM, convert_golden, write_heads, write_transformers_checkpoint
from safetensors.torch import load_file, save_file

from sattxt import SatTxt
from sattxt.config import ModelSource
from sattxt.errors import ChecksumError
from sattxt.weights.checksums import digest_files, sha256_file, write_sums
from sattxt.weights.components import check_encoder, digest_parts
from sattxt.weights.directory import read_model


def swap(path: Path) -> None:
    """Other weights of the same names, shapes and precision."""
    state = {name: torch.randn_like(value.float()).to(value.dtype) for name, value in load_file(path).items()}
    save_file(state, str(path), metadata={"format": "pt"})


def assert_refused(directory: Path, tmp_path: Path, name: str) -> None:
    """Encoding, exporting and classifying stop at the file, in every call and in the next process."""
    for _ in range(2):
        model = SatTxt.from_pretrained(directory, text_cache=tmp_path / "texts.sqlite")
        for _ in range(2):
            with pytest.raises(ChecksumError, match=name):
                model.encode_text("a river")
            with pytest.raises(ChecksumError, match=name):
                model.export_labels(tmp_path / "bank.safetensors", ["river", "city"])
            with pytest.raises(ChecksumError, match=name):
                model.zero_shot(torch.zeros(3, 32, 32, dtype=torch.uint8), ["river", "city"])
    assert not (tmp_path / "bank.safetensors").exists()


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Copies of the golden language model and its adapters."""
    folders = tuple(tmp_path / name for name in ("llama", "mntp", "simcse"))
    for source, folder in zip((LLM, *ADAPTERS), folders, strict=True):
        shutil.copytree(source, folder)
    return folders  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("part", "name"), [(0, "llama/model.safetensors"), (1, "mntp/adapter_model"), (2, "simcse/adapter_model")]
)
def test_swapped_weights_beside_the_model_are_refused_by_name(
    parts: tuple[Path, Path, Path], tmp_path: Path, part: int, name: str
) -> None:
    directory = convert_golden(tmp_path / "model", llm=parts[0], adapters=parts[1:])
    good = SatTxt.from_pretrained(directory, text_cache=False).encode_text("a river")
    weights = next(parts[part].glob("*model.safetensors"))
    right = weights.read_bytes()
    swap(weights)
    assert_refused(directory, tmp_path, name)
    weights.write_bytes(right)
    restored = SatTxt.from_pretrained(directory, text_cache=tmp_path / "texts.sqlite").encode_text("a river")
    np.testing.assert_array_equal(restored, good)  # nothing of the other weights was cached


def test_a_new_weight_file_is_refused_too(parts: tuple[Path, Path, Path], tmp_path: Path) -> None:
    directory = convert_golden(tmp_path / "model", llm=parts[0], adapters=parts[1:])
    shutil.copyfile(parts[0] / "model.safetensors", parts[0] / "other.safetensors")
    assert_refused(directory, tmp_path, "llama/other.safetensors.*is new")


def test_a_model_converted_before_files_were_recorded_is_checked_by_its_digest(
    parts: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    directory = convert_golden(tmp_path / "model", llm=parts[0], adapters=parts[1:])
    config = json.loads((directory / "config.json").read_text())
    for source in (config["text"]["base"], *config["text"]["adapters"]):
        del source["files"]
    (directory / "config.json").write_text(json.dumps(config))
    write_sums(directory)
    assert SatTxt.from_pretrained(directory, text_cache=False).encode_text("a river").ndim == 1
    swap(parts[1] / "adapter_model.safetensors")
    assert_refused(directory, tmp_path, "adapter_model.safetensors")


def test_swapped_weights_of_a_merged_copy_are_refused(tmp_path: Path) -> None:
    directory = convert_golden(tmp_path / "model", copy_llm=True)
    swap(directory / "text_encoder" / "model.safetensors")
    with pytest.raises(ChecksumError, match=r"text_encoder/model.safetensors"):
        SatTxt.from_pretrained(directory)


def test_weights_swapped_on_the_hub_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine converted the model and pushed it; here the repository serves other files at that commit."""
    with HubStandIn() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add_folder("org/llama", LLM)
        hub.add_folder("org/dinov3", write_transformers_checkpoint(tmp_path / "dinov3"))
        hub.add_folder("org/heads", write_heads(tmp_path / "heads"))
        directory = convert_golden(tmp_path / "model", llm="org/llama", cache_dir=tmp_path / "hf")
        shutil.rmtree(os.environ["SATTXT_CACHE"])
        shutil.rmtree(tmp_path / "hf", ignore_errors=True)
        path = tmp_path / "other" / "model.safetensors"
        path.parent.mkdir()
        path.write_bytes(hub.repos["org/llama"].files["model.safetensors"])
        swap(path)
        repo, commit = hub.repos["org/llama"], hub.repos["org/llama"].commit
        repo.files["model.safetensors"] = path.read_bytes()
        monkeypatch.setattr(type(repo), "commit", property(lambda self: commit))
        model = SatTxt.from_pretrained(directory, cache_dir=tmp_path / "hf", text_cache=False)
        with pytest.raises(ChecksumError, match=r"model.safetensors"):
            model.encode_text("a river")


def test_large_files_are_hashed_once(
    parts: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sattxt.weights.checksums.LARGE", 1)
    directory = convert_golden(tmp_path / "model", llm=parts[0], adapters=parts[1:])
    SatTxt.from_pretrained(directory, text_cache=False).encode_text("a river")
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return sha256_file(path)

    monkeypatch.setattr("sattxt.weights.checksums.sha256_file", counted)
    SatTxt.from_pretrained(directory, text_cache=False).encode_text("a river")
    assert not [path for path in read if path.parent == parts[0]]
    swap(parts[0] / "model.safetensors")
    with pytest.raises(ChecksumError, match=r"llama/model\.safetensors"):
        SatTxt.from_pretrained(directory, text_cache=False).encode_text("a river")


def test_files_changed_after_the_conversion_are_noticed(tmp_path: Path) -> None:
    copied = Path(shutil.copytree(LLM, tmp_path / "llama"))
    text = read_model(convert_golden(tmp_path / "model", llm=copied)).config.text
    check_encoder(text, [copied, *ADAPTERS])
    with pytest.raises(ChecksumError, match=r"adapter_model\.safetensors: is not the file"):
        check_encoder(text, [copied, *ADAPTERS[::-1]])
    data = bytearray((copied / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copied / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(ChecksumError, match="llama"):
        check_encoder(text, [copied, *ADAPTERS])


def test_the_digest_is_of_names_and_hashes_in_any_order() -> None:
    pairs = [("b.safetensors", "1" * 64), ("a.safetensors", "2" * 64)]
    text = f"{'1' * 64}  b.safetensors\n{'2' * 64}  a.safetensors\n"
    assert digest_files(pairs) == digest_files(pairs[::-1]) == hashlib.sha256(text.encode()).hexdigest()
    base = {"model.safetensors": "1" * 64, "tokenizer.json": "2" * 64}
    other = {**base, "tokenizer.json": "6" * 64}
    adapter = {"adapter_model.safetensors": "3" * 64, "adapter_config.json": "4" * 64}
    own = {**adapter, "tokenizer.json": "5" * 64}

    def digest(*parts: dict[str, str]) -> str:
        return digest_parts([ModelSource("org/x", files=files) for files in parts])

    assert digest(base, own) == digest(other, own)
    assert digest(base, adapter) != digest(other, adapter)
