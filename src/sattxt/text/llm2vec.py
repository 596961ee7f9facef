"""`LLM2VecEncoder`: the published text encoder, a Llama with bidirectional attention and LoRA adapters merged in.

It runs on current transformers and peft; the ``llm2vec`` package, whose classes the adapters' configs name, is not
needed. Attention is made bidirectional by an explicit 4-D mask, which transformers uses as it is. The template comes
from the config and never from a model's name, so a mirror or a local copy reads the same text.

Only safetensors are opened. Whether the weights fit into memory is asked before they are loaded, so that the answer is
an error and not a killed process.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import (
    InputError,
    NotEnoughMemoryError,
    TextEncoderUnavailableError,
    WeightsError,
    import_extra,
)
from sattxt.io import first_line, read_json
from sattxt.text.encoder import Row, TextEncoder, read_tokenizer
from sattxt.vision.device import available_bytes
from sattxt.weights.components import check_encoder
from sattxt.weights.hub import HubAccess
from sattxt.weights.tensors import weights_bytes

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
        tokenizer_folder = _tokenizer_folder(folder, extras)
        self._tokenizer = read_tokenizer(tokenizer_folder)
        self.pad_id = _eos_id(self._tokenizer, tokenizer_folder)
        self.padding_side = config.padding_side
        template = config.template or "{text}"
        if template.count("{text}") != 1:
            raise WeightsError(f"text template {template!r}: it must hold {{text}} exactly once")
        self._before, self._after = template.split("{text}")
        self._model = _load_merged(folder, extras, dtype=self.dtype, device=torch.device(device), device_map=device_map)
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
            count = min(len(self._tokenizer.encode(shorter, add_special_tokens=False)), self.config.max_length)
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
        # (B, 1, L, L), added to the scores: every token sees every token, and none the padding.
        unseen = torch.zeros(mask.shape, dtype=self.dtype, device=device)
        unseen.masked_fill_(mask == 0, torch.finfo(self.dtype).min)
        return self._model(
            input_ids=batch["input_ids"].to(device),
            attention_mask=unseen[:, None, None, :].expand(-1, 1, mask.shape[1], -1),
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


def _load_merged(
    base: Path, adapters: Sequence[Path], *, dtype: torch.dtype, device: torch.device, device_map: str | None = None
) -> Any:
    """A transformers ``LlamaModel`` with adapters merged in order; errors as the class's.

    It is causal unless it is given a 4-D mask.
    """
    from safetensors import SafetensorError
    from transformers import LlamaModel

    _check_folder(base, ("config.json", "*.safetensors"), "model_type", "llama", "a Llama checkpoint")
    for adapter in adapters:
        files = ("adapter_config.json", "adapter_model.safetensors")
        _check_folder(adapter, files, "peft_type", "LORA", "a peft LoRA adapter")
    if adapters:
        import_extra("peft", "llm", "peft", "merging the text encoder's adapters")
    if device_map is not None:
        import_extra("accelerate", "llm", "accelerate", f"device_map={device_map!r}")
    placement: Any = device_map
    if device_map is None and device.type != "cpu" and find_spec("accelerate") is not None:
        placement = {"": device}  # straight to the device, not through the CPU's memory
    needed = 1.05 * weights_bytes(sorted(base.glob("*.safetensors")), dtype, skip=("lm_head.",))  # 5 % for activations
    free = available_bytes(device, spread=device_map is not None)
    if needed > free:
        where = f"{device} has" if device_map is None else "all devices together have"
        raise NotEnoughMemoryError(
            f"the text encoder needs {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, {where} "
            f"{free / 1e9:.1f} GB free; encode the labels on a larger machine with `sattxt labels build` and load that "
            "file here with `import_labels`"
        )
    try:
        loaded: Any = LlamaModel.from_pretrained(
            base,
            dtype=dtype,
            attn_implementation="sdpa",
            device_map=placement,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{base}: the language model cannot be loaded ({first_line(error)})") from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(f"{base}: tensor {missing[0]} ({len(missing)} in all) is missing from its safetensors files")
    if placement is None:
        model = model.to(device)
    for adapter in adapters:
        model = _merge(model, adapter)
    return model.eval().requires_grad_(False)


def save_merged(base: Path, adapters: Sequence[Path], folder: Path) -> None:
    """Merge adapters into a language model and write it as one folder, in the base's own precision.

    Args:
        base, adapters: local folders. folder: is made if it does not exist.

    Raises:
        WeightsError, NotEnoughMemoryError, MissingExtraError: as of :class:`LLM2VecEncoder`.
    """
    from safetensors import safe_open

    with safe_open(min(base.glob("*.safetensors")), "pt") as stored:
        dtype: torch.dtype = stored.get_tensor(next(iter(stored.keys()))).dtype
    _load_merged(base, adapters, dtype=dtype, device=torch.device("cpu")).save_pretrained(folder)
    for path in _tokenizer_folder(base, adapters).glob("tokenizer*.json"):
        shutil.copyfile(path, folder / path.name)


def _tokenizer_folder(base: Path, adapters: Sequence[Path]) -> Path:
    """The first adapter that brings a tokeniser, else the base model."""
    return next((folder for folder in adapters if (folder / "tokenizer.json").is_file()), base)


def _merge(model: Any, adapter: Path) -> Any:
    """One LoRA merged into the weights; all of its tensors must have a place in the model."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a renamed property
            wrapped = PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(  # the first line names no tensor
            f"{adapter}: the adapter does not fit the language model ({' '.join(str(error).split())[:300]})"
        ) from error
    with safe_open(adapter / "adapter_model.safetensors", "pt") as stored:
        different = sorted(set(stored.keys()) ^ set(get_peft_model_state_dict(wrapped, save_embedding_layers=False)))
    if different:
        raise WeightsError(f"{adapter}: the adapter does not fit the language model (tensor {different[0]})")
    return wrapped.merge_and_unload()


def _check_folder(folder: Path, names: Sequence[str], key: str, needed: str, kind: str) -> None:
    """Refuse a folder that lacks a file or holds pickles in its place, or whose config (the first file) differs."""
    missing = [name for name in names if not any(folder.glob(name))]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if missing and pickles:
        raise WeightsError(
            f"{folder}: {pickles[0]} is a pickle, which can hold code, and was not opened; save the weights as "
            "safetensors (save_pretrained of current transformers or peft does)"
        )
    if missing:
        raise WeightsError(f"{folder}: {missing[0]} is missing; pass the folder of {kind}")
    found = read_json(folder / names[0]).get(key)
    if found != needed:
        raise WeightsError(f"{folder}: {key} is {found!r}; {needed!r} is needed")
