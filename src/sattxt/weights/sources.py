"""A component given as a local folder or a hub id: where it is, what is in it, and the hashes of its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import ChecksumError
from sattxt.json_file import read_json
from sattxt.weights.checksums import hash_of
from sattxt.weights.digest import TOKENIZER, adapter_files, base_files, encoder_digest
from sattxt.weights.hub import HubAccess


@dataclass(frozen=True)
class Component:
    """A folder's or a repository's small files at hand, its large ones by hash only.

    source: as it is stored in a model's config: an absolute folder, or a hub id with the exact commit.
    hashes: file name to sha256, of the files asked for.
    """

    source: ModelSource
    hashes: Mapping[str, str]
    _read: Callable[[str], Path | None]

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON file's content; None where the component has no such file."""
        path = self._read(name)
        return None if path is None else read_json(path)


def check_encoder(config: TextEncoderConfig, base: Path, adapters: Sequence[Path]) -> None:
    """Make sure that a language model's folders are those the model was made for. Large files are hashed once.

    Args:
        config: of the model's text side, which refers to them.
        base: folder of the language model, unmerged.
        adapters: folders of the adapters, in merge order.

    Raises:
        ChecksumError: weights, adapters or tokenizer are others than those recorded.
    """
    extras = [_hashes(folder, adapter_files) for folder in adapters]
    tokenizer = not any(TOKENIZER in files for files in extras)
    digest = encoder_digest(_hashes(base, partial(base_files, tokenizer=tokenizer)), extras)
    if digest != config.weights_sha256:
        raise ChecksumError(
            f"{base}: this language model with its {len(adapters)} adapters is not the one this model was made for "
            f"(digest {digest[:12]}, recorded {config.weights_sha256[:12]}); restore its files, or "
            "convert the model again"
        )


def open_component(
    location: str | Path, wanted: Callable[[Iterable[str]], list[str]], hub: HubAccess, revision: str | None = None
) -> Component:
    """Look at a component without reading (or downloading) its weights, other than to hash local ones.

    Args:
        location: an existing folder, else a hub id ``org/repo``.
        wanted: of the component's file names, those whose hashes are wanted.
        hub: how the hub is reached.
        revision: of the hub repository.

    Raises:
        InputError: neither a folder nor a hub id. HubError: the repository cannot be reached.
    """
    folder = Path(location).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        return Component(
            ModelSource(str(folder)),
            _hashes(folder, wanted),
            lambda name: folder / name if (folder / name).is_file() else None,
        )
    listing = hub.listing(str(location), revision)
    hashes = {}
    for name in wanted(listing.files):
        stated = listing.files[name]
        hashes[name] = stated or hash_of(hub.file(listing.repo, name, listing.commit))

    def read(name: str) -> Path | None:
        return hub.file(listing.repo, name, listing.commit) if name in listing.files else None

    return Component(ModelSource(listing.repo, listing.commit), hashes, read)


def _hashes(folder: Path, wanted: Callable[[Iterable[str]], list[str]]) -> dict[str, str]:
    names = wanted(item.name for item in folder.iterdir() if item.is_file())
    return {name: hash_of(folder / name) for name in names}
