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
from sattxt.text.encoder import Row, TextEncoder
from sattxt.text.llama import bidirectional_mask, load_merged, tokenizer_folder
from sattxt.text.tokenizer import PromptTokenizer
from sattxt.weights.components import check_encoder, component_dir

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
        attention: ``"sdpa"`` or ``"eager"``.

    Raises:
        ChecksumError: a file of the config's own model or adapters is not the one recorded.
        WeightsError: weights are missing, pickled, damaged, or not of the config's width.
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
        attention: str = "sdpa",
    ) -> None:
        super().__init__(config, dtype)
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
        self._prompts = PromptTokenizer(config, tokenizer_folder(folder, extras))
        self.pad_id, self.padding_side = self._prompts.pad_id, config.padding_side
        self._model = load_merged(
            folder, extras, dtype=self.dtype, device=torch.device(device), device_map=device_map, attention=attention
        )
        width = self._model.config.hidden_size
        if width != config.hidden_size:
            raise WeightsError(
                f"{folder}: the language model's width is {width}, config.json says {config.hidden_size}"
            )

    def _rows(self, texts: list[str], instruction: str | None) -> list[Row]:
        return self._prompts.rows(texts, instruction)

    def _forward(self, batch: dict[str, Tensor]) -> Tensor:
        device = self._model.embed_tokens.weight.device
        mask = batch["attention_mask"].to(device)
        return self._model(
            input_ids=batch["input_ids"].to(device),
            attention_mask=bidirectional_mask(mask, self.dtype),
            position_ids=(mask.cumsum(dim=-1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state


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
