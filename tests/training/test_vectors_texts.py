"""The text encoder that a recipe names, and the vectors of a run's prompts, each of which it reads once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from release_files import ADAPTERS, LLM

from sattxt.errors import CacheError, DiskFullError, InputError, OfflineError, WeightsError
from sattxt.text.llm2vec import LLM2VecEncoder
from sattxt.training.prompts import Prompt
from sattxt.training.recipe import Recipe, read_recipe
from sattxt.training.vectors import encode_prompts, open_text_encoder


def llm_recipe(**overrides: Any) -> Recipe:
    published = {"text_encoder.base": str(LLM), "text_encoder.adapters": [str(a) for a in ADAPTERS]}
    return read_recipe("sattxt-vitl16", {**published, "text_encoder.dtype": "float32", **overrides})


def test_the_llm_reads_instructions_as_the_published_code_does(tmp_path: Path, golden_model_dir: Path) -> None:
    from sattxt.config import ModelConfig

    encoder, config, folder = open_text_encoder(llm_recipe().text_encoder, tmp_path, tmp_path / "run", "cpu")
    published = ModelConfig.read(golden_model_dir / "config.json").text
    assert folder is None
    assert config.weights_sha256 == published.weights_sha256
    assert (config.base, config.adapters, config.template, config.max_text_tokens) == (
        published.base, published.adapters, published.template, published.max_text_tokens,
    )  # fmt: skip
    prompts = ["a river", Prompt("Name the scene:", "a river")]
    pooled = encode_prompts(prompts, encoder, tmp_path)
    reference = LLM2VecEncoder(config)
    for row, instruction in enumerate((None, "Name the scene:")):
        wanted = torch.from_numpy(reference.encode(["a river"], instruction=instruction))
        assert torch.allclose(pooled[row : row + 1], wanted, atol=1e-5)
    assert not torch.allclose(pooled[0], pooled[1], atol=1e-2)


def test_a_sentence_encoder_reads_instructions_as_plain_text(tmp_path: Path, bert_source: Path) -> None:
    recipe = read_recipe("mini", {"text_encoder": {"kind": "sentence", "path": str(bert_source)}})
    encoder, config, _ = open_text_encoder(recipe.text_encoder, tmp_path, tmp_path, "cpu")
    assert config.max_length == 32  # what the encoder takes
    pooled = encode_prompts([Prompt("describe the cover", "a river"), "a river"], encoder, tmp_path)
    wanted = torch.from_numpy(encoder.encode(["describe the cover a river", "a river"]))
    assert not torch.allclose(wanted[0], wanted[1], atol=1e-2)
    assert torch.allclose(pooled, wanted, atol=1e-5)


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
        open_text_encoder(read_recipe("mini", {"text_encoder": block}).text_encoder, tmp_path, tmp_path, "cpu")


class Counting:
    """An encoder that remembers what it was asked, and may break off."""

    def __init__(self, width: int = 6, break_after: int | None = None) -> None:
        self.hidden_size, self.asked, self.break_after = width, [], break_after  # type: ignore[var-annotated]

    def fingerprint(self, instruction: str | None = None) -> str:
        return f"counting:{instruction}"

    def encode(
        self, texts: Sequence[str], *, instruction: str | None = None, batch_size: int | None = None,
        progress: bool = False, on_batch: Any = None,
    ) -> np.ndarray:  # fmt: skip
        vectors = np.stack([self.vector(text, instruction) for text in texts])
        for start in range(0, len(texts), 4):
            if self.break_after is not None and len(self.asked) >= self.break_after:
                raise KeyboardInterrupt
            batch = list(texts[start : start + 4])
            self.asked += [(instruction, text) for text in batch]
            on_batch(batch, vectors[start : start + 4])
        return vectors

    def tokenize(self, texts: Sequence[str], instruction: str | None = None) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def vector(self, text: str, instruction: str | None) -> np.ndarray:
        seed = sum((i + 1) * ord(c) for i, c in enumerate(f"{instruction}/{text}"))
        return np.random.default_rng(seed).standard_normal(self.hidden_size).astype(np.float32)


PROMPTS = [*(f"text {i}" for i in range(10)), *(Prompt("Say:", f"text {i}") for i in range(10))]


def test_each_prompt_is_encoded_once_and_found_afterwards(tmp_path: Path) -> None:
    encoder, again = Counting(), Counting()
    pooled = encode_prompts(PROMPTS, encoder, tmp_path)
    assert (pooled.shape, pooled.dtype) == ((20, 6), torch.float32)
    assert sorted(encoder.asked, key=str) == sorted(
        [(i, f"text {n}") for i in (None, "Say:") for n in range(10)], key=str
    )
    wanted = np.stack([encoder.vector("text 4", None), encoder.vector("text 4", "Say:")])
    assert np.array_equal(pooled[[4, 14]].numpy(), wanted)
    assert torch.equal(encode_prompts(PROMPTS, again, tmp_path), pooled)
    assert again.asked == []
    assert torch.equal(encode_prompts(PROMPTS[1:-2], again, tmp_path), pooled[1:-2])
    assert again.asked == []


def test_a_build_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    killed, second = Counting(break_after=8), Counting()
    with pytest.raises(KeyboardInterrupt):
        encode_prompts(PROMPTS, killed, tmp_path)
    pooled = encode_prompts(PROMPTS, second, tmp_path)
    assert len(killed.asked) == 8
    assert sorted(map(str, [*killed.asked, *second.asked])) == sorted(map(str, {*killed.asked, *second.asked}))
    assert torch.equal(pooled, encode_prompts(PROMPTS, Counting(), tmp_path / "other"))


def test_vectors_that_do_not_fit_on_the_disk_are_known_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    encoder = Counting()
    with pytest.raises(DiskFullError, match=r"text vectors: 0\.00 GB in .* has 0\.00 GB free; make room"):
        encode_prompts(PROMPTS, encoder, tmp_path)
    assert encoder.asked == []


def test_builds_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda encoder: encode_prompts(PROMPTS, encoder, tmp_path), [Counting() for _ in "1234"]))
    assert all(torch.equal(pooled, found[0]) for pooled in found)


def test_vectors_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    encoder = Counting()
    encoder.vector = lambda text, _: np.full(6, np.nan if text == "text 3" else 1.0, np.float32)  # type: ignore[method-assign]
    with pytest.raises(WeightsError, match="text 3"):
        encode_prompts(PROMPTS, encoder, tmp_path)
    with pytest.raises(InputError, match="no prompt"):
        encode_prompts([], Counting(), tmp_path)
    encode_prompts(["x"], Counting(width=4), tmp_path / "other")
    with pytest.raises(CacheError, match="width 6"):
        encode_prompts(["x"], Counting(), tmp_path / "other")
