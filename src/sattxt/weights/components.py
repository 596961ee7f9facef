"""The frozen language model of a model, and its adapters: where they are, and the hashes of the files that matter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import ChecksumError, WeightsError
from sattxt.io import read_json
from sattxt.weights.checksums import digest_files, hash_of
from sattxt.weights.hub import HubAccess, matches

TOKENIZER = "tokenizer.json"
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def describe_language_model(parts: Sequence[ModelSource], hub: HubAccess, **options: Any) -> TextEncoderConfig:
    """The config of a language model, without reading (or downloading) its weights, other than to hash local ones.

    Args:
        parts: the model, then its adapters in merge order: existing folders, else hub ids with their revisions.
        hub: how the hub is reached.
        options: the config's other fields.

    Returns:
        The config, with absolute folders, and hub ids with the exact commit. Its width is that of an adapter's
        ``config.json``, which may be had without the language model's licence, else of the model's own.

    Raises:
        InputError: neither a folder nor a hub id. HubError: the repository cannot be reached.
        WeightsError: a part lacks its weights or config.
    """
    base, *adapters = found = _find_parts(parts, hub)
    if not any(name.endswith(".safetensors") for name in base.files):
        raise WeightsError(f"{base.location}: holds no .safetensors weights; pass a folder or hub id that does")
    for source in adapters:
        missing = [name for name in reversed(_ADAPTER) if name not in source.files]
        if missing:
            raise WeightsError(f"{source.location}: {missing[0]} is missing; pass a peft adapter's folder or hub id")
    for source in (*adapters, base):
        if "config.json" in hub.listing(source.location, source.revision).files:
            stated = read_json(hub.folder(source.location, source.revision, ("config.json",)) / "config.json")
            width = stated.get("hidden_size")
            if isinstance(width, int):
                return TextEncoderConfig("llm2vec", width, digest_parts(found), base, tuple(adapters), **options)
    raise WeightsError(f"{base.location}: has no config.json with a hidden_size; pass a transformers checkpoint")


def check_encoder(config: TextEncoderConfig, folders: Sequence[Path]) -> None:
    """Check that a language model's folders hold the files that the model was made with.

    A large file is hashed once, and again only when its size or modification time changes.

    Args:
        config: text side of the model; ``weights_sha256`` is what the files must add up to.
        folders: of the language model, unmerged, and of the adapters, in merge order.

    Raises:
        ChecksumError: weights, an adapter or the tokenizer differ from those recorded; the message names the file.
    """
    found = _find_parts([ModelSource(str(folder)) for folder in folders], HubAccess())
    digest = digest_parts(found)
    if digest == config.weights_sha256:
        return
    for folder, source, recorded in zip(folders, found, (config.base, *config.adapters), strict=True):
        expected = recorded.files if recorded else {}
        for name in sorted({*source.files, *expected} if expected else ()):
            if source.files.get(name) != expected.get(name):
                raise ChecksumError(
                    f"{folder / name}: is not the file this model was made with (its sha256 is "
                    f"{source.files.get(name, 'none: it is missing')}, recorded is "
                    f"{expected.get(name, 'none: it is new')}); restore it, or convert the model again"
                )
    names = ", ".join(
        str(folder / name) for folder, source in zip(folders, found, strict=True) for name in source.files
    )
    raise ChecksumError(
        f"{names}: are not the files this model was made with (their digest is {digest}, recorded is "
        f"{config.weights_sha256}); restore them, or convert the model again"
    )


def digest_parts(parts: Sequence[ModelSource]) -> str:
    """The ``weights_sha256`` of a :class:`TextEncoderConfig`: what decides the vectors, apart from the template.

    The tokenizer is the first adapter's that has one, else the model's. Names of repositories and folders do not
    enter, so a mirror or a local copy has the same digest.
    """
    base, *adapters = (part.files for part in parts)
    folders = {"base": base, **{f"adapter-{number}": files for number, files in enumerate(adapters)}}
    pairs = [(f"{name}/{file}", files[file]) for name, files in folders.items() for file in files if file != TOKENIZER]
    tokenizers = [(TOKENIZER, files[TOKENIZER]) for files in (*adapters, base) if TOKENIZER in files]
    return digest_files([*pairs, *tokenizers[:1]])


def _find_parts(parts: Sequence[ModelSource], hub: HubAccess) -> list[ModelSource]:
    """A language model and its adapters, each with the hashes of the files that decide the vectors."""
    base, *adapters = parts
    extras = [_find_files(source, (*_ADAPTER, TOKENIZER), hub) for source in adapters]
    own = () if any(TOKENIZER in source.files for source in extras) else (TOKENIZER,)
    return [_find_files(base, ("*.safetensors", *own), hub), *extras]


def _find_files(source: ModelSource, patterns: Sequence[str], hub: HubAccess) -> ModelSource:
    listing = hub.listing(source.location, source.revision)
    files = {
        name: sha256 or hash_of(hub.folder(listing.repo, listing.commit, (name,)) / name)
        for name, sha256 in sorted(listing.files.items())
        if matches(name, patterns)
    }
    return ModelSource(listing.repo, listing.commit, files)
