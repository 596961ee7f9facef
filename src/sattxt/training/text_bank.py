"""Frozen text embeddings of a run: every prompt through the language model once, then rows of one matrix.

What is computed goes into the text cache batch by batch, so a build that is killed goes on where it stopped, and the
next run starts with nothing to compute. Above a size limit the matrix is float16 in a memory-mapped file: a million
captions of width 4096 are 8.2 GB that every process on a machine shares and none holds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sattxt.errors import CacheError, DiskFullError, InputError, WeightsError
from sattxt.io import disk_errors
from sattxt.text.cache import TextCache
from sattxt.text.encoder import FloatArray, TextEncoder, check_texts
from sattxt.training.prompts import AnyPrompt, Prompt

log = logging.getLogger(__name__)

#: Bytes of float32 vectors up to which a bank is kept in memory.
MEMORY_LIMIT = 2 << 30
_CHUNK = 8192  # texts read, tokenised and encoded at a time


@dataclass
class TextBank:
    """Frozen text embeddings.

    pooled: (T, hidden), float32 in memory, or float16 in a memory-mapped file. row: of every prompt, its row.
    """

    pooled: Tensor
    row: dict[AnyPrompt, int]

    def __len__(self) -> int:
        return len(self.pooled)

    @property
    def hidden_size(self) -> int:
        """Width of the vectors."""
        return self.pooled.shape[1]

    def rows(self, prompts: Iterable[AnyPrompt]) -> Tensor:
        """(N,) int64 rows of ``prompts``.

        Raises:
            InputError: one is not in the bank.
        """
        listed = list(prompts)
        lacking = next((prompt for prompt in listed if prompt not in self.row), None)
        if lacking is not None:
            raise InputError(f"the text bank lacks {str(lacking)[:80]!r}; build it with all prompts of the run")
        return torch.tensor([self.row[prompt] for prompt in listed], dtype=torch.int64)

    def vectors(self, rows: Tensor) -> Tensor:
        """(N, hidden) float32 at ``rows``, int64 (N,), wherever the bank lies."""
        return self.pooled[rows].float()

    def unit(self, rows: Tensor) -> Tensor:
        """:meth:`vectors`, L2-normalised: their products are cosine similarities."""
        return F.normalize(self.vectors(rows), dim=-1)


class BankSize(NamedTuple):
    """What a bank takes: ``bytes`` as ``dtype``, in memory or (``mapped``) in a file."""

    texts: int
    width: int
    dtype: str
    bytes: int
    mapped: bool

    def __str__(self) -> str:
        where = "in a memory-mapped file" if self.mapped else "in memory"
        return f"{self.texts:,} texts x {self.width}: {self.bytes / 1e9:.2f} GB of {self.dtype} {where}"


def bank_size(texts: int, width: int, memory_limit: int = MEMORY_LIMIT) -> BankSize:
    """What a bank of ``texts`` vectors takes. Up to ``memory_limit`` bytes it is float32, in memory."""
    exact = texts * width * 4
    if exact <= memory_limit:
        return BankSize(texts, width, "float32", exact, mapped=False)
    return BankSize(texts, width, "float16", exact // 2, mapped=True)


def build_bank(
    prompts: Iterable[AnyPrompt],
    encoder: TextEncoder,
    cache: TextCache | None,
    *,
    folder: Path | None = None,
    memory_limit: int = MEMORY_LIMIT,
    prefix: bool | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> TextBank:
    """The bank of ``prompts``, each computed once, in their order (repeats dropped).

    A plain text is encoded with the instruction of the encoder's config, as a user's prompt will be.

    Args:
        encoder: a frozen text encoder.
        cache: holds what was computed before and gets what is computed now; ``None``: nothing is kept.
        folder: for the file of a bank above the limit; several processes may build the same one, one does the work.
        memory_limit: in bytes of float32, above which the bank lies in a file.
        prefix: put a prompt's instruction before the text as plain text, pooled with it; ``False`` gives it to the
            encoder as an instruction, over which it does not pool. By default, a prefix for sentence encoders alone.
        batch_size: of the encoder. progress: show bars on stderr.

    Raises:
        InputError: there is no prompt, one is empty, or a file is needed and ``folder`` is ``None``.
        DiskFullError: the file does not fit on the disk; known before anything is computed.
        CacheError: the cache is damaged, or holds vectors of another width.
        WeightsError: the encoder gives NaN or infinity.
    """
    row: dict[AnyPrompt, int] = {}
    for prompt in prompts:
        row.setdefault(prompt, len(row))
    if not row:
        raise InputError("the run has no prompt: give classes, captions, or both")
    check_texts([prompt.text if isinstance(prompt, Prompt) else prompt for prompt in row])
    size = bank_size(len(row), encoder.hidden_size, memory_limit)
    log.info("text bank: %s", size)
    jobs = _jobs(row, _is_sentence(encoder) if prefix is None else prefix)
    fill = _Fill(encoder, cache, batch_size, progress)
    if not size.mapped:
        pooled = np.empty((size.texts, size.width), dtype=np.float32)
        fill(pooled, jobs)
        return TextBank(torch.from_numpy(pooled), row)
    if folder is None:
        raise InputError(f"text bank: {size}; pass folder= for the file")
    return TextBank(_mapped(folder, size, jobs, fill), row)


#: For each instruction given to the encoder, texts and the rows they fill.
_Jobs = dict[str | None, dict[str, list[int]]]


def _jobs(row: dict[AnyPrompt, int], prefix: bool) -> _Jobs:
    jobs: _Jobs = {}
    for prompt, number in row.items():
        instruction, text = (prompt.instruction, prompt.text) if isinstance(prompt, Prompt) else (None, prompt)
        if prefix and instruction is not None:
            text, instruction = f"{instruction.strip()} {text}", None
        jobs.setdefault(instruction, {}).setdefault(text, []).append(number)
    return jobs


def _is_sentence(encoder: TextEncoder) -> bool:
    from sattxt.text.sentence import SentenceEncoder

    return isinstance(encoder, SentenceEncoder)


class _Fill:
    """Fills a matrix from the cache, and from the encoder where the cache has nothing."""

    def __init__(self, encoder: TextEncoder, cache: TextCache | None, batch_size: int | None, progress: bool) -> None:
        self.encoder, self.cache, self.batch_size, self.progress = encoder, cache, batch_size, progress

    def spaces(self, jobs: _Jobs) -> dict[str, dict[str, list[int]]]:
        """The jobs by what their vectors depend on besides the text."""
        return {self.encoder.fingerprint(instruction): texts for instruction, texts in jobs.items()}

    def __call__(self, pooled: NDArray[Any], jobs: _Jobs) -> None:
        computed = 0
        for instruction, texts in jobs.items():
            space = self.encoder.fingerprint(instruction)
            for chunk in _chunks(list(texts)):
                missing = self._from_cache(pooled, space, chunk, texts)
                computed += len(missing)
                if missing:
                    self._encode(pooled, space, instruction, missing, texts)
        log.info("text bank: %d vectors computed, %d found in the cache", computed, len(pooled) - computed)

    def _from_cache(self, pooled: NDArray[Any], space: str, chunk: list[str], rows: dict[str, list[int]]) -> list[str]:
        """Fill what the cache has of ``chunk``; returns what it lacks."""
        if self.cache is None:
            return chunk
        found = set()
        for text, vector in self.cache.iter_many(space, chunk):
            if vector.shape != pooled.shape[1:]:
                raise CacheError(
                    f"the text cache holds a vector of shape {vector.shape} for {text[:40]!r}, this encoder's have "
                    f"width {pooled.shape[1]}; delete {self.cache.path}"
                )
            pooled[rows[text]] = vector
            found.add(text)
        return [text for text in chunk if text not in found]

    def _encode(
        self, pooled: NDArray[Any], space: str, instruction: str | None, texts: list[str], rows: dict[str, list[int]]
    ) -> None:
        limit = np.finfo(pooled.dtype).max

        def keep(batch: list[str], vectors: FloatArray) -> None:
            bad = ~(np.abs(vectors) <= limit).all(axis=1)
            if bad.any():
                raise WeightsError(
                    f"the text encoder gives NaN, infinity or more than {limit:.3g} for "
                    f"{batch[int(bad.argmax())][:60]!r}; check its weights, and the precision it runs in"
                )
            if self.cache is not None:
                self.cache.put_many(space, batch, vectors)
            for text, vector in zip(batch, vectors, strict=True):
                pooled[rows[text]] = vector

        self.encoder.encode(
            texts, instruction=instruction, batch_size=self.batch_size, progress=self.progress, on_batch=keep
        )


def _mapped(folder: Path, size: BankSize, jobs: _Jobs, fill: _Fill) -> Tensor:
    """The matrix in a file named by all that it depends on; written whole or not at all."""
    from filelock import FileLock

    facts = json.dumps([size.dtype, size.width, fill.spaces(jobs)])
    path = folder / f"texts-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.{size.dtype}"
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.is_file() or path.stat().st_size != size.bytes:
            free = shutil.disk_usage(folder).free
            if free < size.bytes:
                raise DiskFullError(
                    f"text bank: {size}, but {folder} has {free / 1e9:.2f} GB free; make room, or put the run elsewhere"
                )
            temporary = path.with_name(path.name + ".tmp")
            try:
                with disk_errors(path):
                    _reserve(temporary, size.bytes)
                    pooled = np.memmap(temporary, dtype=size.dtype, mode="r+", shape=(size.texts, size.width))
                    fill(pooled, jobs)
                    pooled.flush()
                    del pooled
                    os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
    flat = torch.from_file(str(path), shared=False, size=size.texts * size.width, dtype=getattr(torch, size.dtype))
    return flat.view(size.texts, size.width)


def _reserve(path: Path, size: int) -> None:
    """A file of ``size`` bytes, on the disk and not only promised: a mapping that finds it full kills the process."""
    with path.open("wb") as handle:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)
        handle.truncate(size)


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _CHUNK):
        yield list(texts[start : start + _CHUNK])
