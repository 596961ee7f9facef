"""Prompts to token ids, as the published text encoder reads them: shortened, wrapped in a template, masked for pooling.

The template comes from the config and never from a model's name, so a mirror or a local copy reads the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sattxt.config import TextEncoderConfig
from sattxt.errors import InputError, WeightsError
from sattxt.io import first_line, read_json
from sattxt.text.encoder import Row, check_texts, pad_rows


def read_tokenizer(folder: Path) -> Any:
    """The ``tokenizers.Tokenizer`` of a folder, which neither pads nor truncates.

    Raises:
        WeightsError: tokenizer.json is missing or damaged.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise WeightsError(f"{folder}: tokenizer.json is missing; pass a folder that holds the model's tokeniser")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises bare Exception
        raise WeightsError(f"{path}: cannot be read as a tokeniser ({first_line(error)})") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class PromptTokenizer:
    """Tokenises for a decoder LLM whose pooled vector is the mean over the text and what the template puts after it.

    Args:
        config: ``template``, ``max_length``, ``max_text_tokens``, ``padding_side``, ``instruction``.
        folder: holds tokenizer.json (which adds the BOS token) and tokenizer_config.json (which names the EOS token,
            used for padding).

    Raises:
        WeightsError: tokenizer.json is missing or damaged, or the template does not hold ``{text}`` exactly once.
    """

    def __init__(self, config: TextEncoderConfig, folder: Path) -> None:
        self._tokenizer = read_tokenizer(folder)
        template = "{text}" if config.template is None else config.template
        if template.count("{text}") != 1:
            raise WeightsError(f"text template {template!r}: it must hold {{text}} exactly once")
        self._before, self._after = template.split("{text}")
        self._config = config
        self.pad_id = _eos_id(self._tokenizer, folder)

    def rows(self, texts: Sequence[str], instruction: str | None = None) -> list[Row]:
        """Token ids of each text, and which of them are pooled: those from the text's first to the end.

        White space before a text is kept, after it is not. A text of more than ``max_text_tokens`` tokens is
        shortened to its first words; an instruction is put before it.

        Raises:
            InputError: nothing of a text is left after shortening it, or after the instruction.
        """
        lead = (self._config.instruction if instruction is None else instruction).strip()
        lead = f"{lead} " if lead else ""
        shortened = [self._shorten(text).rstrip() for text in texts]
        tails = self._tokenizer.encode_batch([text + self._after for text in shortened], add_special_tokens=False)
        wholes = self._tokenizer.encode_batch([self._before + lead + text + self._after for text in shortened])
        rows: list[Row] = []
        for text, tail, whole in zip(texts, tails, wholes, strict=True):
            start = len(whole.ids) - len(tail.ids)
            ids = list(whole.ids[: self._config.max_length])
            if start >= len(ids):
                raise InputError(
                    f"the instruction fills all {self._config.max_length} tokens, none is left for {text[:40]!r}; "
                    "pass a shorter instruction"
                )
            rows.append((ids, [0] * start + [1] * (len(ids) - start)))
        return rows

    def tokenize(self, texts: str | Sequence[str], instruction: str | None = None) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``embed_mask``: (N, L) int64, padded with EOS to the longest."""
        return pad_rows(self.rows(check_texts(texts), instruction), self.pad_id, self._config.padding_side)

    def _shorten(self, text: str) -> str:
        """While the text has n > limit tokens, keep its first int(words * limit / n) words.

        As in the reference, n counts at most ``max_length`` tokens.
        """
        limit = self._config.max_text_tokens
        if limit is None:
            return text
        shorter = text
        while True:
            count = len(self._tokenizer.encode(shorter, add_special_tokens=False).ids)
            count = min(count, self._config.max_length)
            if count <= limit:
                return shorter
            words = shorter.split()
            shorter = " ".join(words[: int(len(words) * (limit / count))])
            if not shorter:
                raise InputError(
                    f"{text[:40]!r}… has {count} tokens or more and no spaces to shorten it at; "
                    f"pass texts of at most {limit} tokens"
                )


def _eos_id(tokenizer: Any, folder: Path) -> int:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            token = read_json(folder / name).get("eos_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                found = tokenizer.token_to_id(token)
                if found is not None:
                    return int(found)
    raise WeightsError(f"{folder}: neither tokenizer_config.json nor special_tokens_map.json names a known eos_token")
