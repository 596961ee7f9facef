"""A component given as a local folder or a hub id: where it is, what is in it, and the hashes of its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import ChecksumError
from sattxt.io import read_json
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
    """Check that a language model's folders hold the files that the model was made with.

    A large file is hashed once, and again only when its size or modification time changes.

    Args:
        config: text side of the model; ``weights_sha256`` is what the files must add up to.
        base: folder of the language model, unmerged.
        adapters: folders of the adapters, in merge order.

    Raises:
        ChecksumError: weights, an adapter or the tokenizer differ from those recorded; the message names the file.
    """
    extras = [_hashes(folder, adapter_files) for folder in adapters]
    tokenizer = not any(TOKENIZER in files for files in extras)
    own = _hashes(base, partial(base_files, tokenizer=tokenizer))
    if encoder_digest(own, extras) == config.weights_sha256:
        return
    recorded = [source.files if source else {} for source in (config.base, *config.adapters)]
    for folder, found, expected in zip((base, *adapters), (own, *extras), recorded, strict=True):
        for name in sorted({*found, *expected} if expected else ()):
            if found.get(name) != expected.get(name):
                raise ChecksumError(
                    f"{folder / name}: is not the file this model was made with (its sha256 is "
                    f"{found.get(name, 'none: it is missing')}, recorded is {expected.get(name, 'none: it is new')}); "
                    "restore it, or convert the model again"
                )
    parts = zip((base, *adapters), (own, *extras), strict=True)
    files = ", ".join(str(folder / name) for folder, found in parts for name in found)
    raise ChecksumError(
        f"{files}: are not the files this model was made with (their digest is {encoder_digest(own, extras)}, recorded "
        f"is {config.weights_sha256}); restore them, or convert the model again"
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
        hashes = _hashes(folder, wanted)
        return Component(
            ModelSource(str(folder), files=hashes),
            hashes,
            lambda name: folder / name if (folder / name).is_file() else None,
        )
    listing = hub.listing(str(location), revision)
    hashes = {}
    for name in wanted(listing.files):
        stated = listing.files[name]
        hashes[name] = stated or hash_of(hub.file(listing.repo, name, listing.commit))

    def read(name: str) -> Path | None:
        return hub.file(listing.repo, name, listing.commit) if name in listing.files else None

    return Component(ModelSource(listing.repo, listing.commit, hashes), hashes, read)


def _hashes(folder: Path, wanted: Callable[[Iterable[str]], list[str]]) -> dict[str, str]:
    names = wanted(item.name for item in folder.iterdir() if item.is_file())
    return {name: hash_of(folder / name) for name in names}
