"""The text bank: every prompt is encoded once, whatever stops the build, and large banks lie in a shared file."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sattxt.errors import CacheError, DiskFullError, InputError, WeightsError
from sattxt.training.prompts import Prompt
from sattxt.training.text_bank import build_bank


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


PROMPTS = [*(f"text {i}" for i in range(10)), *(Prompt("Say:", f"text {i}") for i in range(10)), "text 3"]


def test_each_prompt_is_encoded_once_and_found_afterwards(tmp_path: Path) -> None:
    encoder, again = Counting(), Counting()
    bank = build_bank(PROMPTS, encoder, tmp_path)
    assert len(bank) == 20
    assert sorted(encoder.asked, key=str) == sorted(
        [(i, f"text {n}") for i in (None, "Say:") for n in range(10)], key=str
    )
    wanted = np.stack([encoder.vector("text 4", None), encoder.vector("text 4", "Say:")])
    assert np.array_equal(bank.vectors(bank.rows(["text 4", Prompt("Say:", "text 4")])).numpy(), wanted)
    assert torch.equal(build_bank(PROMPTS, again, tmp_path).pooled, bank.pooled)
    assert again.asked == []
    with pytest.raises(InputError, match="the text bank lacks 'text 99'"):
        bank.rows(["text 99"])


def test_a_build_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    killed, second = Counting(break_after=8), Counting()
    with pytest.raises(KeyboardInterrupt):
        build_bank(PROMPTS, killed, tmp_path)
    bank = build_bank(PROMPTS, second, tmp_path)
    assert len(killed.asked) == 8
    assert sorted(map(str, [*killed.asked, *second.asked])) == sorted(map(str, {*killed.asked, *second.asked}))
    assert torch.equal(bank.pooled, build_bank(PROMPTS, Counting(), tmp_path / "other").pooled)


def test_a_large_bank_lies_in_a_file(tmp_path: Path) -> None:
    exact = build_bank(PROMPTS, Counting(), tmp_path / "small")
    mapped = build_bank(PROMPTS, Counting(), tmp_path / "large", memory_limit=479)  # 20 x 6 x 4 bytes are 480
    assert exact.pooled.dtype == torch.float32
    assert mapped.pooled.dtype == torch.float16
    assert torch.equal(mapped.vectors(torch.arange(20)), exact.pooled.half().float())
    (file,) = (tmp_path / "large").glob("*.float16")
    assert file.stat().st_size == 240
    written = file.stat().st_mtime_ns
    again, fewer = Counting(), Counting()
    assert torch.equal(build_bank(PROMPTS, again, tmp_path / "large", memory_limit=100).pooled, mapped.pooled)
    assert (again.asked, file.stat().st_mtime_ns) == ([], written)
    other = build_bank(PROMPTS[1:-2], fewer, tmp_path / "large", memory_limit=100)
    assert fewer.asked == []  # the cache has them
    assert torch.equal(other.pooled, mapped.pooled[1:19])  # and another run's file is not taken for this one's


def test_a_build_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_bank(PROMPTS, Counting(break_after=4), tmp_path, memory_limit=100)
    assert not [*tmp_path.glob("*.float16"), *tmp_path.glob("*.tmp")]


def test_a_bank_that_does_not_fit_on_the_disk_is_known_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    encoder = Counting()
    with pytest.raises(DiskFullError, match=r"text bank: 0\.00 GB of float16 in .* has 0\.00 GB free; make room"):
        build_bank(PROMPTS, encoder, tmp_path, memory_limit=100)
    assert encoder.asked == []


def test_processes_that_build_the_same_bank_share_the_work(tmp_path: Path) -> None:
    encoders = [Counting() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        banks = list(pool.map(lambda e: build_bank(PROMPTS, e, tmp_path, memory_limit=100), encoders))
    assert sorted(len(encoder.asked) for encoder in encoders) == [0, 0, 0, 20]
    assert all(torch.equal(bank.pooled, banks[0].pooled) for bank in banks)


def test_vectors_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    encoder = Counting()
    encoder.vector = lambda text, _: np.full(6, np.nan if text == "text 3" else 1.0, np.float32)  # type: ignore[method-assign]
    with pytest.raises(WeightsError, match="text 3"):
        build_bank(PROMPTS, encoder, tmp_path)
    with pytest.raises(InputError, match="no prompt"):
        build_bank([], Counting(), tmp_path)
    build_bank(["x"], Counting(width=4), tmp_path / "other")
    with pytest.raises(CacheError, match="width 6"):
        build_bank(["x"], Counting(), tmp_path / "other")
