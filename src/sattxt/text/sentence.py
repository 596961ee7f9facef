"""`SentenceEncoder`: a small BERT-like text encoder, mean pooled, from a folder; its weights in float32 or 8 bits."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sattxt.config import TextEncoderConfig
from sattxt.errors import InputError, WeightsError
from sattxt.io import read_json
from sattxt.text.bert import build_bert
from sattxt.text.encoder import Row, TextEncoder, read_tokenizer
from sattxt.weights.checksums import digest_files, sha256_file
from sattxt.weights.tensors import read_safetensors

#: A packed matrix ``name`` is int8; its row scales are stored beside it as ``name + SCALE_SUFFIX``, float32.
SCALE_SUFFIX = ".row_scale"

_LEVELS = 127
_CLIPS = tuple(1.0 - 0.01 * step for step in range(41))  # of the row's largest magnitude: 1.00 down to 0.60

log = logging.getLogger(__name__)


class SentenceEncoder(TextEncoder):
    """A BERT encoder whose token vectors (``[CLS]`` and ``[SEP]`` included) are averaged; no L2 normalisation.

    Args:
        config: ``max_length``, ``template`` and ``instruction`` are used; ``hidden_size`` must be the model's.
        folder: holds config.json, tokenizer.json and model.safetensors (plain, or packed by ``pack_int8``).
        dtype: precision to run in; ``None`` takes the config's.

    Raises:
        WeightsError: a file is missing or damaged, a tensor is missing, or the width is not the config's.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(config, dtype)
        folder = Path(folder)
        model = build_bert(read_json(folder / "config.json"), _read_state(folder), str(folder))
        if model.sizes.hidden_size != config.hidden_size:
            raise WeightsError(
                f"{folder}: text encoder width is {model.sizes.hidden_size}, config.json says {config.hidden_size}"
            )
        if config.max_length > model.sizes.max_position_embeddings:
            raise WeightsError(
                f"{folder}: max_length {config.max_length} is more than the model's "
                f"{model.sizes.max_position_embeddings} positions"
            )
        self._device = torch.device(device)
        self._model = model.to(device=self._device, dtype=self.dtype)
        self.pad_id = model.sizes.pad_token_id
        self._tokenizer = read_tokenizer(folder)
        self._tokenizer.enable_truncation(max_length=config.max_length)

    def _rows(self, texts: list[str], instruction: str | None) -> list[Row]:
        lead = (self.config.instruction if instruction is None else instruction).strip()
        wrapped = [(self.config.template or "{text}").replace("{text}", text) for text in texts]
        start = len(lead) + 1 if lead else 0
        encodings = self._tokenizer.encode_batch([f"{lead} {text}" if lead else text for text in wrapped])
        cut = [text for text, encoding in zip(texts, encodings, strict=True) if encoding.overflowing]
        if cut:
            log.warning(
                "%d of %d texts are longer than the encoder's %d tokens; what comes after is not read, first %r",
                *(len(cut), len(texts), self.config.max_length, f"{cut[0][:40]}..."),
            )
        rows: list[Row] = []
        for text, encoding in zip(texts, encodings, strict=True):
            special = encoding.special_tokens_mask
            mask = [int(s == 1 or begin >= start) for s, (begin, _) in zip(special, encoding.offsets, strict=True)]
            if start and sum(mask) == sum(special):
                raise InputError(
                    f"the instruction fills all {self.config.max_length} tokens, none is left for {text[:40]!r}; "
                    "pass a shorter instruction"
                )
            rows.append((encoding.ids, mask))
        return rows

    def _forward(self, batch: dict[str, Tensor]) -> Tensor:
        mask = batch["attention_mask"]
        seen = None if bool(mask.all()) else mask.to(self._device)
        return self._model(batch["input_ids"].to(self._device), seen)


def export_sentence_encoder(source: str | Path, out: str | Path, *, int8: bool = True) -> str:
    """Write a BERT sentence encoder as a folder that :class:`SentenceEncoder` reads, as small as it goes.

    The pooler and the position-id buffers, which mean pooling does not use, are left out.

    Args:
        source: folder with config.json, tokenizer.json and model.safetensors, as sentence-transformers writes it.
        out: folder to write; made if it does not exist.
        int8: pack matrices as int8 with a scale per row (a quarter of the bytes); ``False`` keeps float32.

    Returns:
        sha256 over the folder's weights, tokeniser and config, for ``TextEncoderConfig.weights_sha256``.
    """
    from safetensors.torch import save_file

    source, out = Path(source), Path(out)
    state = _read_state(source)
    dropped = ("_name_or_path", "transformers_version", "gradient_checkpointing")
    config = {key: value for key, value in read_json(source / "config.json").items() if key not in dropped}
    build_bert(config, state, str(source))  # proves that nothing is missing
    tokenizer = {**read_json(source / "tokenizer.json"), "truncation": None, "padding": None}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("config.json", json.dumps(config, indent=2, sort_keys=True)),
        ("tokenizer.json", json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))),
    ):
        (out / name).write_text(text + "\n", encoding="utf-8")
    weights = out / "model.safetensors"
    save_file(pack_int8(state) if int8 else state, weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    return digest_files((name, sha256_file(out / name)) for name in ("config.json", "tokenizer.json", weights.name))


def _read_state(folder: Path) -> dict[str, Tensor]:
    """The encoder's float32 tensors, without pooler, buffers and a ``bert.`` prefix."""
    path = folder / "model.safetensors"
    state = unpack_int8(read_safetensors(path), where=path)
    named = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
    return {k: v for k, v in named.items() if not k.startswith(("pooler.", "cls.")) and not k.endswith("position_ids")}


def pack_int8(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Quantise every float32 matrix symmetrically, one scale per row (output channel); other tensors stay.

    A row ``w`` is stored as ``round(w / s)`` clamped to [-127, 127]; ``s`` is the one of 41 clipping points (60 % to
    100 % of the row's largest magnitude) with the least squared error. The same input gives the same bytes.

    Raises:
        WeightsError: a tensor has NaN or infinite values.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise WeightsError(f"{name}: NaN or infinite weights cannot be packed")
        if tensor.is_floating_point() and tensor.ndim == 2:
            packed[name], packed[name + SCALE_SUFFIX] = _quantise(tensor)
        else:
            packed[name] = tensor
    return packed


def unpack_int8(packed: Mapping[str, Tensor], where: object = "packed weights") -> dict[str, Tensor]:
    """Undo :func:`pack_int8`: all floating tensors float32. A state without int8 matrices passes, cast to float32.

    Args:
        where: the file, for errors.

    Raises:
        WeightsError: an int8 matrix lacks its scales, or scales lack their matrix or do not fit it.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        scale = packed.get(name + SCALE_SUFFIX)
        if name.endswith(SCALE_SUFFIX):
            if name.removesuffix(SCALE_SUFFIX) not in packed:
                raise WeightsError(f"{where}: {name}: the matrix that these scales belong to is missing")
        elif scale is not None:
            if tensor.dtype != torch.int8 or tensor.ndim != 2 or scale.shape != tensor.shape[:1]:
                raise WeightsError(f"{where}: {name}: {tuple(tensor.shape)} {tensor.dtype} does not fit its row scales")
            state[name] = tensor.float() * scale.float()[:, None]
        elif tensor.dtype == torch.int8:
            raise WeightsError(f"{where}: {name}: int8 matrix without {name + SCALE_SUFFIX}")
        else:
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def _quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """(R, C) float32 to (R, C) int8 and (R,) float32 scales."""
    largest = values.abs().amax(dim=1)
    # A row of zeros, or of values too small to divide, is stored with scale 1 (as zeros).
    usable = largest / _LEVELS >= torch.finfo(torch.float32).tiny
    best_scale = torch.where(usable, largest / _LEVELS, torch.ones_like(largest))
    best_error = torch.full_like(largest, torch.inf)
    for clip in _CLIPS:
        scale = torch.where(usable, largest * clip / _LEVELS, torch.ones_like(largest))
        codes = (values / scale[:, None]).round_().clamp_(-_LEVELS, _LEVELS)
        error = (codes.mul_(scale[:, None]).sub_(values)).square_().sum(dim=1)
        better = error < best_error
        best_scale = torch.where(better, scale, best_scale)
        best_error = torch.where(better, error, best_error)
    codes = (values / best_scale[:, None]).round_().clamp_(-_LEVELS, _LEVELS)
    return codes.to(torch.int8), best_scale
