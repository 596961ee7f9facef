"""The frozen text encoder: input checks, fingerprints, and encoding in batches of like length.

Importing this module does not import torch: the text cache and label banks use its checks.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from sattxt.config import TextEncoderConfig
from sattxt.errors import InputError, WeightsError
from sattxt.io import first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FloatArray = npt.NDArray[np.float32]
#: Token ids of a text, and 1 for each of them that is pooled, else 0.
Row = tuple[list[int], list[int]]


class TextEncoder(ABC):
    """A frozen language model that turns a text into one vector: the mean over its pooled tokens, not normalised.

    Attributes:
        config: of the encoder. hidden_size: width of the pooled vectors.
        dtype: precision of weights and computation.
        pad_id, padding_side: the token that batches are padded with, on ``"left"`` or ``"right"``.
        batch_size: texts encoded together.
    """

    pad_id: int
    padding_side: Literal["left", "right"] = "right"

    batch_size = 64

    def __init__(self, config: TextEncoderConfig, dtype: torch.dtype | None) -> None:
        import torch

        self.config = config
        self.hidden_size = config.hidden_size
        self.dtype: torch.dtype = dtype or getattr(torch, config.dtype)

    @abstractmethod
    def _rows(self, texts: list[str], instruction: str | None) -> list[Row]:
        """Each text's tokens."""

    @abstractmethod
    def _forward(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, L, hidden) token vectors of a batch, on any device."""

    def fingerprint(self, instruction: str | None = None) -> str:
        """What pooled vectors depend on besides the text, as a hash followed by the precision."""
        return fingerprint(self.config, instruction, str(self.dtype).removeprefix("torch."))

    def tokenize(self, texts: str | Sequence[str], instruction: str | None = None) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``embed_mask`` (the pooled tokens): (N, L) int64."""
        return pad_rows(self._rows(check_texts(texts), instruction), self.pad_id, self.padding_side)

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        instruction: str | None = None,
        progress: bool = False,
        on_batch: Callable[[list[str], FloatArray], None] | None = None,
    ) -> FloatArray:
        """(N, hidden) float32 pooled vectors, in the order of ``texts``.

        Texts of like length share a batch, the longest first: what does not fit in memory fails at once, and the
        bar's estimate errs on the safe side. Which ones share a batch changes a value by less than 1e-5 in float32.

        Args:
            instruction: put before every text; it steers the encoder and is not pooled. ``None`` takes the config's.
            progress: show a bar on stderr after one second.
            on_batch: called after each batch with its texts and their (B, hidden) float32 vectors.

        Raises:
            InputError: a text is empty or no string, or the instruction leaves no room for it.
        """
        import torch
        from tqdm import tqdm

        listed = check_texts(texts)
        rows = self._rows(listed, instruction)
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
        result = np.empty((len(rows), self.hidden_size), dtype=np.float32)
        with tqdm(total=len(rows), unit=" prompts", desc="encoding text", delay=1.0, disable=not progress) as bar:
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                batch = pad_rows([rows[i] for i in chosen], self.pad_id, self.padding_side)
                with torch.inference_mode():
                    vectors = mean_pool(self._forward(batch), batch["embed_mask"]).cpu().numpy()
                result[chosen] = vectors
                if on_batch is not None:
                    on_batch([listed[i] for i in chosen], vectors)
                bar.update(len(chosen))
        return result


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


def check_texts(texts: Iterable[str], *, blank: bool = False) -> list[str]:
    """``texts`` as a list; one string counts as a list of one.

    Args:
        blank: let empty strings and those of white space pass.

    Raises:
        InputError: something in it is no string, is not valid Unicode, or is empty (white space alone included).
    """
    if isinstance(texts, (bytes, bytearray)) or not hasattr(texts, "__iter__"):
        raise InputError(f"texts is {type(texts).__name__}; pass a string or a list of strings")
    listed = [texts] if isinstance(texts, str) else list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise InputError(f"texts[{index}] is {type(text).__name__}; pass strings only")
        if not blank and not text.strip():
            raise InputError(f"texts[{index}] is empty; pass a prompt with at least one visible character")
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise InputError(f"texts[{index}] is not valid Unicode ({error.reason}); pass clean text") from error
    return listed


def read_tokenizer(folder: Path) -> Any:
    """The ``tokenizers.Tokenizer`` of a folder, which neither pads nor truncates.

    Raises:
        WeightsError: tokenizer.json is missing or damaged.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises bare Exception
        raise WeightsError(
            f"{path}: is missing, or cannot be read as a tokeniser ({first_line(error)}); pass a folder that holds the "
            "model's tokeniser"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def pad_rows(rows: Sequence[Row], pad_id: int, side: Literal["left", "right"]) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``embed_mask``, each (N, L) int64, padded on ``side`` to the longest."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    def pad(values: list[list[int]], fill: int) -> Tensor:
        return pad_sequence([torch.tensor(v) for v in values], batch_first=True, padding_value=fill, padding_side=side)

    return {
        "input_ids": pad([ids for ids, _ in rows], pad_id),
        "attention_mask": pad([[1] * len(ids) for ids, _ in rows], 0),
        "embed_mask": pad([mask for _, mask in rows], 0),
    }


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """(B, L, D) token vectors to their (B, D) float32 mean over the tokens where ``mask`` is 1."""
    weights = mask.to(hidden.device)[..., None].float()
    return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
