"""The frozen language model of a model, and its adapters: where they are, and the hashes of the files that matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import ChecksumError, WeightsError
from sattxt.io import read_json
from sattxt.weights.checksums import digest_files, hash_of
from sattxt.weights.hub import HubAccess

TOKENIZER = "tokenizer.json"
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class LanguageModelFiles:
    """Where a language model and its adapters (in merge order) are, with the hashes of the files that decide its
    vectors: weights, adapters and tokenizer.
    """

    base: ModelSource
    adapters: tuple[ModelSource, ...]

    @property
    def sha256(self) -> str:
        """The ``weights_sha256`` of a :class:`TextEncoderConfig`: what decides the vectors, apart from the template.

        The tokenizer is the first adapter's that has one, else the model's. Names of repositories and folders do not
        enter, so a mirror or a local copy has the same digest.
        """
        base, adapters = self.base.files, [source.files for source in self.adapters]
        pairs = [(f"base/{name}", base[name]) for name in base if _is_weights(name)]
        for number, files in enumerate(adapters):
            pairs += [(f"adapter-{number}/{name}", files[name]) for name in _ADAPTER if name in files]
        tokenizers = [files[TOKENIZER] for files in (*adapters, base) if TOKENIZER in files]
        return digest_files([*pairs, *((TOKENIZER, sha256) for sha256 in tokenizers[:1])])


def find_language_model(
    base: ModelSource, adapters: Sequence[ModelSource] = (), hub: HubAccess | None = None
) -> LanguageModelFiles:
    """Look at a language model without reading (or downloading) its weights, other than to hash local ones.

    Args:
        base: an existing folder, else a hub id, with its revision.
        adapters: the same for each adapter, in merge order.
        hub: how the hub is reached.

    Returns:
        The same places as they are stored in a model's config: absolute folders, and hub ids with the exact commit.

    Raises:
        InputError: neither a folder nor a hub id. HubError: the repository cannot be reached.
    """
    hub = hub or HubAccess()
    extras = tuple(_find(source, (*_ADAPTER, TOKENIZER), hub) for source in adapters)
    own_tokenizer = not any(TOKENIZER in source.files for source in extras)
    return LanguageModelFiles(_find(base, (TOKENIZER,) if own_tokenizer else (), hub, weights=True), extras)


def read_hidden_size(files: LanguageModelFiles, hub: HubAccess | None = None) -> int:
    """The language model's width, from its ``config.json``.

    An adapter's own copy comes first: it may be had without the language model's licence.

    Raises:
        WeightsError: a part lacks its weights or config.
    """
    hub = hub or HubAccess()
    if not any(name.endswith(".safetensors") for name in files.base.files):
        raise WeightsError(f"{files.base.location}: holds no .safetensors weights; pass a folder or hub id that does")
    for source in files.adapters:
        missing = [name for name in reversed(_ADAPTER) if name not in source.files]
        if missing:
            raise WeightsError(f"{source.location}: {missing[0]} is missing; pass a peft adapter's folder or hub id")
    for source in (*files.adapters, files.base):
        if "config.json" in hub.listing(source.location, source.revision).files:
            stated = read_json(hub.folder(source.location, source.revision, ("config.json",)) / "config.json")
            if isinstance(stated.get("hidden_size"), int):
                return int(stated["hidden_size"])
    raise WeightsError(f"{files.base.location}: has no config.json with a hidden_size; pass a transformers checkpoint")


def check_encoder(config: TextEncoderConfig, base: Path, adapters: Sequence[Path]) -> None:
    """Check that a language model's folders hold the files that the model was made with.

    A large file is hashed once, and again only when its size or modification time changes.

    Args:
        config: text side of the model; ``weights_sha256`` is what the files must add up to.
        base: folder of the language model, unmerged.
        adapters: folders of the adapters, in merge order.

    Raises:
        ChecksumError: weights, an adapter or the tokenizer differ from those recorded; the message names the file.
    """
    found = find_language_model(ModelSource(str(base)), [ModelSource(str(folder)) for folder in adapters])
    if found.sha256 == config.weights_sha256:
        return
    places = list(zip((base, *adapters), (found.base, *found.adapters), strict=True))
    for (folder, source), recorded in zip(places, (config.base, *config.adapters), strict=True):
        expected = recorded.files if recorded else {}
        for name in sorted({*source.files, *expected} if expected else ()):
            if source.files.get(name) != expected.get(name):
                raise ChecksumError(
                    f"{folder / name}: is not the file this model was made with (its sha256 is "
                    f"{source.files.get(name, 'none: it is missing')}, recorded is "
                    f"{expected.get(name, 'none: it is new')}); restore it, or convert the model again"
                )
    names = ", ".join(str(folder / name) for folder, source in places for name in source.files)
    raise ChecksumError(
        f"{names}: are not the files this model was made with (their digest is {found.sha256}, recorded is "
        f"{config.weights_sha256}); restore them, or convert the model again"
    )


def _is_weights(name: str) -> bool:
    return "/" not in name and name.endswith(".safetensors")


def _find(source: ModelSource, names: Sequence[str], hub: HubAccess, *, weights: bool = False) -> ModelSource:
    """A part with the hashes of those files that are called ``names`` and, if asked, of its weights."""
    listing = hub.listing(source.location, source.revision)
    files = {
        name: sha256 or hash_of(hub.folder(listing.repo, listing.commit, (name,)) / name)
        for name, sha256 in sorted(listing.files.items())
        if name in names or (weights and _is_weights(name))
    }
    return ModelSource(listing.repo, listing.commit, files)
