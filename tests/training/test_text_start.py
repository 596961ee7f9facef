"""The text encoder that a recipe names: sentence encoders, LLMs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from release_files import ADAPTERS, LLM

from sattxt.errors import InputError, OfflineError
from sattxt.text.llm2vec import LLM2VecEncoder
from sattxt.training.prompts import Prompt
from sattxt.training.recipe import Recipe, read_recipe
from sattxt.training.text_bank import build_bank
from sattxt.training.text_start import start_text


def llm_recipe(**overrides: Any) -> Recipe:
    published = {"text_encoder.base": str(LLM), "text_encoder.adapters": [str(a) for a in ADAPTERS]}
    return read_recipe("sattxt-vitl16", {**published, "text_encoder.dtype": "float32", **overrides})


def test_the_llm_reads_instructions_as_the_published_code_does(tmp_path: Path, golden_model_dir: Path) -> None:
    from sattxt.config import ModelConfig

    start = start_text(llm_recipe(), tmp_path, tmp_path / "run")
    published = ModelConfig.read(golden_model_dir / "config.json").text
    assert start.folder is None
    assert start.config.weights_sha256 == published.weights_sha256
    assert (start.config.base, start.config.adapters, start.config.template, start.config.max_text_tokens) == (
        published.base, published.adapters, published.template, published.max_text_tokens,
    )  # fmt: skip
    prompts = ["a river", Prompt("Name the scene:", "a river")]
    bank = build_bank(prompts, start.open("cpu"), tmp_path)
    reference = LLM2VecEncoder(start.config)
    for prompt, instruction in zip(prompts, (None, "Name the scene:"), strict=True):
        wanted = torch.from_numpy(reference.encode(["a river"], instruction=instruction))
        assert torch.allclose(bank.vectors(bank.rows([prompt])), wanted, atol=1e-5)
    assert not torch.allclose(bank.pooled[0], bank.pooled[1], atol=1e-2)


def test_a_sentence_encoder_reads_instructions_as_plain_text(tmp_path: Path, bert_source: Path) -> None:
    recipe = read_recipe("mini", {"text_encoder": {"kind": "sentence", "path": str(bert_source)}})
    start = start_text(recipe, tmp_path, tmp_path)
    assert start.config.max_length == 32  # what the encoder takes
    encoder = start.open("cpu")
    bank = build_bank([Prompt("describe the cover", "a river"), "a river"], encoder, tmp_path)
    wanted = torch.from_numpy(encoder.encode(["describe the cover a river", "a river"]))
    assert not torch.allclose(wanted[0], wanted[1], atol=1e-2)
    assert torch.allclose(bank.pooled[1], wanted[1], atol=1e-5)


@pytest.mark.parametrize(
    ("block", "error", "named"),
    [
        ({"kind": "sentence"}, InputError, "either path"),
        ({"kind": "sentence", "path": "nowhere"}, InputError, "nowhere"),
        ({"kind": "sentence", "package": "no_such_package"}, InputError, "pip install"),
        ({"kind": "llm2vec"}, InputError, "base"),
        ({"kind": "llm2vec", "base": "/no/where"}, InputError, "/no/where"),
        ({"kind": "llm2vec", "base": "meta/llama"}, OfflineError, "meta/llama"),
    ],
)
def test_a_text_encoder_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: dict[str, Any], error: type[Exception], named: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(error, match=named):
        start_text(read_recipe("mini", {"text_encoder": block}), tmp_path, tmp_path)
