"""Frozen text vectors of a run: every prompt goes through the language model once, then is a row of one matrix.

What is computed goes into the run's text cache batch by batch, so a build that is killed goes on where it stopped, and
the next run starts with nothing to compute. Above a size limit the matrix is float16 in a memory-mapped file: a million
captions of width 4096 are 8.2 GB that every process on a machine shares and none holds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from sattxt.errors import DiskFullError, InputError, WeightsError
from sattxt.io import atomic_write
from sattxt.text.cache import TextCache
from sattxt.text.encoder import FloatArray, TextEncoder, check_texts
from sattxt.text.sentence import SentenceEncoder
from sattxt.training.prompts import AnyPrompt, Prompt

log = logging.getLogger(__name__)

#: Bytes of float32 vectors up to which a bank is kept in memory.
MEMORY_LIMIT = 2 << 30
_CHUNK = 8192  # texts read, tokenised and encoded at a time


@dataclass
class TextBank:
    """Frozen text vectors.

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


def build_bank(
    prompts: Iterable[AnyPrompt],
    encoder: TextEncoder,
    folder: Path,
    *,
    memory_limit: int = MEMORY_LIMIT,
    progress: bool = False,
) -> TextBank:
    """The bank of ``prompts``, each computed once, in their order (repeats dropped).

    A plain text is encoded with the instruction of the encoder's config, as a user's prompt will be. Sentence encoders
    read a prompt's own instruction as plain text before it; LLM2Vec does not pool over it.

    Args:
        folder: for ``texts.sqlite3``, the cache of vectors, and the file of a bank above the limit. Several processes
            may build the same one; one does the work.
        memory_limit: in bytes of float32, above which the bank lies in a file.
        progress: show bars on stderr.

    Raises:
        InputError: there is no prompt, or one is empty.
        DiskFullError: the file does not fit on the disk; known before anything is computed.
        CacheError: the cache is damaged, or holds vectors of another width.
        WeightsError: the encoder gives NaN or infinity.
    """
    row = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    if not row:
        raise InputError("the run has no prompt: give classes, captions, or both")
    check_texts([prompt.text if isinstance(prompt, Prompt) else prompt for prompt in row])
    places: dict[str | None, dict[str, list[int]]] = {}  # instruction to text to rows
    for prompt, number in row.items():
        instruction, text = (prompt.instruction, prompt.text) if isinstance(prompt, Prompt) else (None, prompt)
        if instruction is not None and isinstance(encoder, SentenceEncoder):
            text, instruction = f"{instruction.strip()} {text}", None
        places.setdefault(instruction, {}).setdefault(text, []).append(number)
    shape = (len(row), encoder.hidden_size)
    in_file = 4 * shape[0] * shape[1] > memory_limit
    cache = TextCache(folder / "texts.sqlite3", precision="float16" if in_file else "float32")

    def fill(pooled: NDArray[Any]) -> None:
        computed = sum(_fill(pooled, *place, encoder, cache, progress) for place in places.items())
        log.info("text bank: %d texts of width %d, %d of them computed now", *shape, computed)

    if not in_file:
        matrix = np.empty(shape, dtype=np.float32)
        fill(matrix)
        return TextBank(torch.from_numpy(matrix), row)
    facts = json.dumps([shape[1], [[encoder.fingerprint(key), texts] for key, texts in places.items()]])
    path = folder / f"texts-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.float16"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            with atomic_write(path) as file:
                _reserve(file, 2 * shape[0] * shape[1])
                mapped = np.memmap(file.name, dtype=np.float16, mode="r+", shape=shape)
                fill(mapped)
                mapped.flush()
                del mapped
    flat = torch.from_file(str(path), shared=False, size=shape[0] * shape[1], dtype=torch.float16)
    return TextBank(flat.view(shape), row)


def _fill(
    pooled: NDArray[Any],
    instruction: str | None,
    rows: dict[str, list[int]],
    encoder: TextEncoder,
    cache: TextCache,
    progress: bool,
) -> int:
    """Fill the rows of one instruction's texts from the cache, else from the encoder; returns how many it computed."""
    space, texts, computed = encoder.fingerprint(instruction), list(rows), 0
    limit = np.finfo(pooled.dtype).max

    def keep(batch: list[str], vectors: FloatArray) -> None:
        bad = ~(np.abs(vectors) <= limit).all(axis=1)
        if bad.any():
            raise WeightsError(
                f"the text encoder gives NaN, infinity or more than {limit:.3g} for "
                f"{batch[int(bad.argmax())][:60]!r}; check its weights, and the precision it runs in"
            )
        cache.put_many(space, batch, vectors)
        for text, vector in zip(batch, vectors, strict=True):
            pooled[rows[text]] = vector

    for start in range(0, len(texts), _CHUNK):
        missing = dict.fromkeys(texts[start : start + _CHUNK])
        for text, vector in cache.get_many(space, missing, width=pooled.shape[1]).items():
            pooled[rows[text]] = vector
            del missing[text]
        if missing:
            encoder.encode(list(missing), instruction=instruction, progress=progress, on_batch=keep)
        computed += len(missing)
    return computed


def _reserve(file: BinaryIO, size: int) -> None:
    """Take ``size`` bytes of the disk for ``file``: a mapping that finds it full later kills the process."""
    free = shutil.disk_usage(Path(file.name).parent).free
    if free < size:
        raise DiskFullError(
            f"text bank: {size / 1e9:.2f} GB of float16 in {Path(file.name).parent}, which has {free / 1e9:.2f} GB "
            "free; make room, or put the run elsewhere"
        )
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    file.truncate(size)
