"""`SentenceEncoder`: a small BERT-like text encoder, read from a folder (float32 or int8 weights), mean pooled."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from torch import Tensor

from sattxt.config import TextEncoderConfig
from sattxt.errors import InputError, WeightsError
from sattxt.io import read_json
from sattxt.text.bert import Bert, build_bert
from sattxt.text.encoder import Row, TextEncoder, read_tokenizer
from sattxt.text.quantize import pack_int8, unpack_int8
from sattxt.weights.checksums import digest_files, sha256_file
from sattxt.weights.tensors import read_safetensors

_FILES = ("config.json", "tokenizer.json", "model.safetensors")

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
        model = _open_bert(folder)
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
        template = self.config.template
        wrapped = [text if template is None else template.replace("{text}", text) for text in texts]
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
        The folder's :func:`digest_sentence_encoder`, for ``TextEncoderConfig.weights_sha256``.
    """
    from safetensors.torch import save_file

    source, out = Path(source), Path(out)
    state = _read_state(source)
    dropped = ("_name_or_path", "transformers_version", "gradient_checkpointing")
    config = {key: value for key, value in read_json(source / "config.json").items() if key not in dropped}
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
    _open_bert(out)  # proves that the folder is complete
    return digest_sentence_encoder(out)


def digest_sentence_encoder(folder: str | Path) -> str:
    """sha256 over weights, tokeniser and config of a sentence encoder's folder."""
    return digest_files((name, sha256_file(Path(folder, name))) for name in _FILES)


def _read_state(folder: Path) -> dict[str, Tensor]:
    """The encoder's float32 tensors, without pooler, buffers and a ``bert.`` prefix."""
    missing = next((name for name in _FILES if not (folder / name).is_file()), None)
    if missing is not None:
        raise WeightsError(f"{folder}: {missing} is missing; a text encoder's folder holds {', '.join(_FILES)}")
    path = folder / "model.safetensors"
    stored = read_safetensors(path)
    try:
        state = unpack_int8(stored)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    named = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
    return {k: v for k, v in named.items() if not k.startswith(("pooler.", "cls.")) and not k.endswith("position_ids")}


def _open_bert(folder: Path) -> Bert:
    state = _read_state(folder)
    return build_bert(read_json(folder / "config.json"), state, str(folder))
