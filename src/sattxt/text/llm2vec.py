"""`LLM2VecEncoder`: the published text encoder, a Llama with bidirectional attention and LoRA adapters merged in.

It runs on current transformers and peft; the ``llm2vec`` package, whose classes the adapters' configs name, is not
needed. Attention is made bidirectional by an explicit 4-D mask, which transformers uses as it is. The template comes
from the config and never from a model's name, so a mirror or a local copy reads the same text.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import InputError, TextEncoderUnavailableError, WeightsError
from sattxt.io import read_json
from sattxt.text.encoder import Row, TextEncoder, read_tokenizer
from sattxt.text.llama import bidirectional_mask, load_merged, tokenizer_folder
from sattxt.weights.components import check_encoder
from sattxt.weights.hub import HubAccess

Location = str | os.PathLike[str] | ModelSource


class LLM2VecEncoder(TextEncoder):
    """Mean of the last hidden states over a text's tokens; instruction, header and BOS are not pooled.

    Args:
        config: template, lengths, pooling, width.
        base: the Llama: a local folder or a hub id; ``None`` takes the config's.
        adapters: peft LoRA folders or hub ids, merged in this order, each on the result of the one before;
            ``None`` takes the config's.
        dtype: precision of weights and computation; ``None`` takes the config's.
        device: where it runs. device_map: ``"auto"`` spreads it over the devices there are (accelerate).
        token, local_files_only, cache_dir: as in ``huggingface_hub``.

    Raises:
        ChecksumError: a file of the config's own model or adapters is not the one recorded.
        WeightsError: weights are missing, pickled, damaged, or not of the config's width; tokenizer.json is missing or
            damaged; the config's template does not hold ``{text}`` exactly once.
        HubError: a component cannot be fetched.
        NotEnoughMemoryError: the weights do not fit in the device's free memory.
        MissingExtraError: ``peft`` (or, for a device map, ``accelerate``) is not installed.
    """

    batch_size = 16

    def __init__(
        self,
        config: TextEncoderConfig,
        *,
        base: Location | None = None,
        adapters: Sequence[Location] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        device_map: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(config, dtype)
        recorded = base is None and adapters is None
        base = config.base if base is None else base
        if base is None:
            raise TextEncoderUnavailableError("the model's config names no language model; pass base=")
        chosen = config.adapters if adapters is None else adapters
        hub = HubAccess(token, cache_dir, local_files_only)
        parts = [part if isinstance(part, ModelSource) else ModelSource(os.fspath(part)) for part in (*chosen, base)]
        *extras, folder = (hub.folder(part.location, part.revision) for part in parts)
        if recorded:
            check_encoder(config, [folder, *extras])
        self._tokenizer = read_tokenizer(tokenizer_folder(folder, extras))
        self.pad_id = _eos_id(self._tokenizer, tokenizer_folder(folder, extras))
        self.padding_side = config.padding_side
        template = config.template or "{text}"
        if template.count("{text}") != 1:
            raise WeightsError(f"text template {template!r}: it must hold {{text}} exactly once")
        self._before, self._after = template.split("{text}")
        self._model = load_merged(folder, extras, dtype=self.dtype, device=torch.device(device), device_map=device_map)
        width = self._model.config.hidden_size
        if width != config.hidden_size:
            raise WeightsError(
                f"{folder}: the language model's width is {width}, config.json says {config.hidden_size}"
            )

    def _rows(self, texts: list[str], instruction: str | None) -> list[Row]:
        """Token ids of each text, and which of them are pooled: those from the text's first to the end.

        White space before a text is kept, after it is not. A text of more than ``max_text_tokens`` tokens is
        shortened to its first words; an instruction is put before it.

        Raises:
            InputError: nothing of a text is left after shortening it, or after the instruction.
        """
        lead = (self.config.instruction if instruction is None else instruction).strip()
        lead = f"{lead} " if lead else ""
        shortened = [self._shorten(text).rstrip() for text in texts]
        tails = self._tokenizer.encode_batch([text + self._after for text in shortened], add_special_tokens=False)
        wholes = self._tokenizer.encode_batch([self._before + lead + text + self._after for text in shortened])
        rows: list[Row] = []
        for text, tail, whole in zip(texts, tails, wholes, strict=True):
            start = len(whole.ids) - len(tail.ids)
            ids = list(whole.ids[: self.config.max_length])
            if start >= len(ids):
                raise InputError(
                    f"the instruction fills all {self.config.max_length} tokens, none is left for {text[:40]!r}; "
                    "pass a shorter instruction"
                )
            rows.append((ids, [0] * start + [1] * (len(ids) - start)))
        return rows

    def _shorten(self, text: str) -> str:
        """While the text has n > limit tokens, keep its first int(words * limit / n) words.

        As in the reference, n counts at most ``max_length`` tokens.
        """
        limit = self.config.max_text_tokens
        shorter = text
        while limit is not None:
            tokens = self._tokenizer.encode(shorter, add_special_tokens=False).ids
            count = min(len(tokens), self.config.max_length)
            if count <= limit:
                break
            words = shorter.split()
            shorter = " ".join(words[: int(len(words) * (limit / count))])
            if not shorter:
                raise InputError(
                    f"{text[:40]!r}… has {count} tokens or more and no spaces to shorten it at; "
                    f"pass texts of at most {limit} tokens"
                )
        return shorter

    def _forward(self, batch: dict[str, Tensor]) -> Tensor:
        device = self._model.embed_tokens.weight.device
        mask = batch["attention_mask"].to(device)
        return self._model(
            input_ids=batch["input_ids"].to(device),
            attention_mask=bidirectional_mask(mask, self.dtype),
            position_ids=(mask.cumsum(dim=-1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state


def _eos_id(tokenizer: Any, folder: Path) -> int:
    """The id of the EOS token, which tokenizer_config.json names: batches are padded with it."""
    token = read_json(folder / "tokenizer_config.json").get("eos_token")
    name = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(name) if isinstance(name, str) else None
    if found is None:
        raise WeightsError(f"{folder}: tokenizer_config.json names no eos_token that tokenizer.json knows")
    return int(found)
