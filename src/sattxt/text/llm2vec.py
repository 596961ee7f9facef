"""`LLM2VecEncoder`: the published text encoder, a Llama with bidirectional attention and LoRA adapters merged in.

It runs on current transformers and peft; the ``llm2vec`` package, whose classes the adapters' configs name, is not
needed. Attention is made bidirectional by an explicit 4-D mask, which transformers uses as it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import TextEncoderUnavailableError, WeightsError
from sattxt.text.encoder import FloatArray, OnBatch, check_texts, encode_sorted, fingerprint, mean_pool
from sattxt.text.llama import bidirectional_mask, load_merged, save_merged, tokenizer_folder, write_model
from sattxt.text.tokenizer import PromptTokenizer
from sattxt.weights.components import check_encoder, component_dir

_BATCH = 16

__all__ = ["LLM2VecEncoder", "open_prompt_tokenizer", "save_merged"]

Location = str | os.PathLike[str] | ModelSource


class LLM2VecEncoder:
    """Mean of the last hidden states over a text's tokens; instruction, header and BOS are not pooled.

    Args:
        config: template, lengths, pooling, width.
        base: the Llama: a local folder or a hub id; ``None`` takes the config's.
        adapters: peft LoRA folders or hub ids, merged in this order, each on the result of the one before;
            ``None`` takes the config's.
        dtype: precision of weights and computation; ``None`` takes the config's.
        device: where it runs. device_map: ``"auto"`` spreads it over the devices there are (accelerate).
        token, local_files_only, cache_dir: as in ``huggingface_hub``.
        attention: ``"sdpa"`` or ``"eager"``.

    Raises:
        ChecksumError: a file of the config's own model or adapters is not the one recorded.
        WeightsError: weights are missing, pickled, damaged, or not of the config's width.
        HubError: a component cannot be fetched.
        NotEnoughMemoryError: the weights do not fit in the device's free memory.
        MissingExtraError: ``peft`` (or, for a device map, ``accelerate``) is not installed.
    """

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
        attention: str = "sdpa",
    ) -> None:
        recorded = base is None and adapters is None
        base = config.base if base is None else base
        if base is None:
            raise TextEncoderUnavailableError("the model's config names no language model; pass base=")
        chosen = config.adapters if adapters is None else adapters

        def locate(location: Location) -> Path:
            return component_dir(location, token=token, local_files_only=local_files_only, cache_dir=cache_dir)

        extras = [locate(adapter) for adapter in chosen]
        folder = locate(base)
        if recorded:
            check_encoder(config, folder, extras)
        self.config = config
        self._dtype = dtype or getattr(torch, config.dtype)
        self._prompts = PromptTokenizer(config, tokenizer_folder(folder, extras))
        self._model = load_merged(
            folder, extras, dtype=self._dtype, device=torch.device(device), device_map=device_map, attention=attention
        )
        width = self._model.config.hidden_size
        if width != config.hidden_size:
            raise WeightsError(
                f"{folder}: the language model's width is {width}, config.json says {config.hidden_size}"
            )

    @property
    def hidden_size(self) -> int:
        """Width of the pooled vectors."""
        return self.config.hidden_size

    def fingerprint(self, instruction: str | None = None) -> str:
        """What the vectors depend on besides the text, precision included."""
        return fingerprint(self.config, instruction, str(self._dtype).removeprefix("torch."))

    def tokenize(self, texts: str | Sequence[str], instruction: str | None = None) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``embed_mask`` (pooled tokens): (N, L) int64, padded on the left."""
        return self._prompts.batch(self._prompts.rows(check_texts(texts), instruction))

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        instruction: str | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        on_batch: OnBatch | None = None,
    ) -> FloatArray:
        """(N, hidden) float32 pooled vectors, in the order of ``texts``; batches of 16 of like length by default."""
        listed = check_texts(texts)
        rows = self._prompts.rows(listed, instruction)
        device = self._model.embed_tokens.weight.device

        def forward(indices: list[int]) -> Tensor:
            batch = {k: v.to(device) for k, v in self._prompts.batch([rows[i] for i in indices]).items()}
            mask = batch["attention_mask"]
            hidden = self._model(
                input_ids=batch["input_ids"],
                attention_mask=bidirectional_mask(mask, self._dtype),
                position_ids=(mask.cumsum(dim=-1) - 1).clamp(min=0),
                use_cache=False,
            ).last_hidden_state
            return mean_pool(hidden, batch["embed_mask"])

        return encode_sorted(
            listed,
            [len(ids) for ids, _ in rows],
            self.hidden_size,
            forward,
            batch_size=_BATCH if batch_size is None else batch_size,
            progress=progress,
            on_batch=on_batch,
        )

    def save_merged(self, folder: str | os.PathLike[str]) -> Path:
        """Write the merged model (safetensors), its config and its tokeniser; it opens with no adapters and no peft."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        write_model(self._model, target)
        self._prompts.save(target)
        return target


def open_prompt_tokenizer(config: TextEncoderConfig, folder: str | Path | None, **access: Any) -> PromptTokenizer:
    """The encoder's tokeniser alone, without its weights where an adapter brings one.

    Args:
        folder: a merged model's folder; ``None``: the config's adapters, then its base.
        access: ``token``, ``local_files_only``, ``cache_dir``, as in ``huggingface_hub``.
    """
    if folder is not None:
        return PromptTokenizer(config, Path(folder))
    for location in (*config.adapters, config.base):
        if location is not None:
            found = component_dir(location, **access)
            if (found / "tokenizer.json").is_file():
                return PromptTokenizer(config, found)
    raise WeightsError("neither the adapters nor the language model bring a tokenizer.json; convert the model again")
