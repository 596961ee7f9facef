"""What every frozen text encoder offers, and what both kinds share: input checks, fingerprints, sorted batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sattxt.config import TextEncoderConfig
from sattxt.errors import InputError

FloatArray = npt.NDArray[np.float32]
#: Called after each batch with its texts and their (B, hidden) float32 vectors.
OnBatch = Callable[[list[str], FloatArray], None]


class TextEncoder(Protocol):
    """A frozen language model that turns a text into one pooled vector."""

    @property
    def hidden_size(self) -> int:
        """Width of the pooled vectors."""
        ...

    def fingerprint(self, instruction: str | None = None) -> str:
        """What pooled vectors depend on besides the text, as a hash followed by the precision."""
        ...

    def encode(
        self,
        texts: Sequence[str],
        *,
        instruction: str | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        on_batch: OnBatch | None = None,
    ) -> FloatArray:
        """(N, hidden) float32 pooled vectors, in the order of ``texts``."""
        ...

    def tokenize(self, texts: Sequence[str], instruction: str | None = None) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``embed_mask`` (the pooled tokens): (N, L) int64."""
        ...


def fingerprint(config: TextEncoderConfig, instruction: str | None = None, dtype: str | None = None) -> str:
    """A stable hash of all that a pooled vector depends on besides the text.

    Args:
        instruction: ``None`` takes the config's.
        dtype: the precision the encoder runs in (``"float32"``, ``"bfloat16"``), joined as ``hash:dtype``. Without
            it, the hash alone: label banks match by that, whatever the precision they were made in.
    """
    facts = {
        "weights_sha256": config.weights_sha256,
        "pooling": config.pooling,
        "template": config.template,
        "max_length": config.max_length,
        "max_text_tokens": config.max_text_tokens,
        "instruction": config.instruction if instruction is None else instruction,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return digest if dtype is None else f"{digest}:{dtype}"


def check_texts(texts: str | Sequence[str]) -> list[str]:
    """``texts`` as a list; one string counts as a list of one.

    Raises:
        InputError: something in it is no string, or is empty (white space alone included).
    """
    if isinstance(texts, (bytes, bytearray)) or not hasattr(texts, "__iter__"):
        raise InputError(f"texts is {type(texts).__name__}; pass a string or a list of strings")
    listed = [texts] if isinstance(texts, str) else list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise InputError(f"texts[{index}] is {type(text).__name__}; pass strings only")
        if not text.strip():
            raise InputError(f"texts[{index}] is empty; pass a prompt with at least one visible character")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"texts[{index}] is not valid Unicode ({error.reason}); pass clean text") from error
    return listed


def encode_sorted(
    texts: list[str],
    lengths: Sequence[int],
    width: int,
    forward: Callable[[list[int]], Tensor],
    *,
    batch_size: int,
    progress: bool,
    on_batch: OnBatch | None,
) -> FloatArray:
    """Run ``forward`` on batches of indices of like length, longest first; results come in the order of ``texts``.

    ``forward`` gets the indices of a batch and returns its (B, width) vectors. Longest first: what does not fit in
    memory fails at once, and the bar's estimate errs on the safe side. The bar appears after one second.
    """
    from tqdm import tqdm

    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: pass 1 or more")
    result = np.empty((len(texts), width), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda i: (-lengths[i], i))
    with tqdm(total=len(texts), unit=" prompts", desc="encoding text", delay=1.0, disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            with torch.inference_mode():
                vectors = forward(chosen).float().cpu().numpy()
            result[chosen] = vectors
            if on_batch is not None:
                on_batch([texts[i] for i in chosen], vectors)
            bar.update(len(chosen))
    return result


def pad(rows: Sequence[Sequence[int]], value: int, side: str, length: int | None = None) -> Tensor:
    """(N, L) int64: rows padded with ``value`` on ``side`` to the longest (or to ``length``)."""
    width = max((len(row) for row in rows), default=0) if length is None else length
    padded = torch.full((len(rows), width), value, dtype=torch.int64)
    for i, row in enumerate(rows):
        start = width - len(row) if side == "left" else 0
        padded[i, start : start + len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """(B, L, D) token vectors to their (B, D) float32 mean over the tokens where ``mask`` is 1."""
    weights = mask.to(hidden.device, torch.float32)[..., None]
    return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
