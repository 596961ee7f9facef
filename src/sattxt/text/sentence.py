"""`SentenceEncoder`: a small BERT-like text encoder, read from a folder (float32 or int8 weights), mean pooled."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sattxt.config import TextEncoderConfig
from sattxt.errors import InputError, WeightsError
from sattxt.io import read_json
from sattxt.text.bert import Bert, build_bert
from sattxt.text.encoder import (
    FloatArray,
    OnBatch,
    check_texts,
    encode_sorted,
    fingerprint,
    mean_pool,
    pad,
)
from sattxt.text.quantize import pack_int8, unpack_int8
from sattxt.weights.checksums import digest_files, sha256_file

_FILES = ("config.json", "tokenizer.json", "model.safetensors")
_BATCH = 64

log = logging.getLogger(__name__)


class SentenceEncoder:
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
        from tokenizers import Tokenizer

        folder = Path(folder)
        _require_files(folder)
        self.config = config
        self._dtype = dtype or getattr(torch, config.dtype)
        self._device = torch.device(device)
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
        self._model = model.to(device=self._device, dtype=self._dtype)
        self._pad_id = model.sizes.pad_token_id
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the Rust library raises bare Exception
            raise WeightsError(f"{folder / 'tokenizer.json'}: cannot be read as a tokeniser ({error})") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=config.max_length)

    @property
    def hidden_size(self) -> int:
        """Width of the pooled vectors."""
        return self.config.hidden_size

    def fingerprint(self, instruction: str | None = None) -> str:
        """What the vectors depend on besides the text, precision included."""
        return fingerprint(self.config, instruction, str(self._dtype).removeprefix("torch."))

    def tokenize(self, texts: str | Sequence[str], instruction: str | None = None) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``embed_mask`` (pooled tokens): (N, L) int64, padded on the right."""
        rows = self._token_rows(check_texts(texts), instruction)
        return self._batch(rows)

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        instruction: str | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        on_batch: OnBatch | None = None,
    ) -> FloatArray:
        """(N, hidden) float32 means over a text's tokens, in the order of ``texts``.

        Texts of like length share a batch (64 unless ``batch_size`` says otherwise); which ones do changes a value
        by less than 1e-5. An instruction steers the encoder through attention; its own tokens are not pooled.
        """
        listed = check_texts(texts)
        rows = self._token_rows(listed, instruction)

        def forward(indices: list[int]) -> Tensor:
            batch = self._batch([rows[i] for i in indices])
            mask = batch["attention_mask"]
            hidden = self._model(
                batch["input_ids"].to(self._device), None if bool(mask.all()) else mask.to(self._device)
            )
            return mean_pool(hidden, batch["embed_mask"])

        lengths = [len(ids) for ids, _ in rows]
        return encode_sorted(
            listed,
            lengths,
            self.hidden_size,
            forward,
            batch_size=_BATCH if batch_size is None else batch_size,
            progress=progress,
            on_batch=on_batch,
        )

    def _token_rows(self, texts: list[str], instruction: str | None) -> list[tuple[list[int], list[int]]]:
        """Each text's token ids and its pooling mask."""
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
        rows = []
        for text, encoding in zip(texts, encodings, strict=True):
            special = encoding.special_tokens_mask
            if not start:
                rows.append((encoding.ids, [1] * len(encoding.ids)))
                continue
            mask = [int(s == 1 or begin >= start) for s, (begin, _) in zip(special, encoding.offsets, strict=True)]
            if sum(mask) == sum(special):
                raise InputError(
                    f"the instruction fills all {self.config.max_length} tokens, none is left for {text[:40]!r}; "
                    "pass a shorter instruction"
                )
            rows.append((encoding.ids, mask))
        return rows

    def _batch(self, rows: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
        return {
            "input_ids": pad([ids for ids, _ in rows], self._pad_id, "right"),
            "attention_mask": pad([[1] * len(ids) for ids, _ in rows], 0, "right"),
            "embed_mask": pad([mask for _, mask in rows], 0, "right"),
        }


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
    _require_files(source)
    state = _read_state(source)
    config = read_json(source / "config.json")
    for key in ("_name_or_path", "transformers_version", "gradient_checkpointing"):
        config.pop(key, None)
    tokenizer = read_json(source / "tokenizer.json")
    tokenizer.update(truncation=None, padding=None)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (out / "tokenizer.json").write_text(
        json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
    )
    settings = source / "tokenizer_config.json"
    if settings.is_file():
        kept = {k: v for k, v in read_json(settings).items() if k not in ("name_or_path", "special_tokens_map_file")}
        (out / settings.name).write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = out / "model.safetensors"
    save_file(pack_int8(state) if int8 else state, weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    _open_bert(out)  # proves that the folder is complete
    return digest_sentence_encoder(out)


def digest_sentence_encoder(folder: str | Path) -> str:
    """sha256 over weights, tokeniser and config of a sentence encoder's folder."""
    folder = Path(folder)
    _require_files(folder)
    return digest_files((name, sha256_file(folder / name)) for name in _FILES)


def _require_files(folder: Path) -> None:
    for name in _FILES:
        if not (folder / name).is_file():
            raise WeightsError(f"{folder}: {name} is missing; a text encoder's folder holds {', '.join(_FILES)}")


def _read_state(folder: Path) -> dict[str, Tensor]:
    """The encoder's float32 tensors, without pooler, buffers and a ``bert.`` prefix."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    try:
        state = unpack_int8(load_file(path))
    except (OSError, SafetensorError, WeightsError) as error:
        raise WeightsError(f"{path}: {error}") from error
    named = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
    return {k: v for k, v in named.items() if not k.startswith(("pooler.", "cls.")) and not k.endswith("position_ids")}


def _open_bert(folder: Path) -> Bert:
    return build_bert(read_json(folder / "config.json"), _read_state(folder), str(folder))
