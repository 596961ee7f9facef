"""``weights_manifest.json``: every model this package knows, part by part, without importing torch.

The file lies beside this module, so that it is in the wheel; the copy at the top of the repository is for readers and
is byte for byte the same. It is part of the package, so tests (not this module) check that its records are complete.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from sattxt.config import build

MANIFEST_FILE = "weights_manifest.json"

#: The records that are only shown, and their keys; a key that a record lacks is read as None.
RECORDS = {
    "licences": ("covers", "says", "where", "accept"),  # who says that what is under which licence; what a user must do
    "training_data": ("name", "licence", "url", "use"),
    "metrics": ("task", "metric", "value", "data", "command", "date", "source"),  # published ones: source, no command
    "citations": ("key", "text", "url"),
}


@dataclass(frozen=True)
class FileEntry:
    """One file, or a pattern for several (``*.safetensors``).

    bytes, sha256: None where nobody published them. sha256_prefix: where only its start is known.
    """

    name: str
    bytes: int | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None


@dataclass(frozen=True)
class Component:
    """A part of a model.

    role: ``backbone``, ``vision_head``, ``vision``, ``text_head``, ``llm``, ``adapter`` or ``text_encoder``.
    source: ``bundled`` (in this package), ``hub`` (a repository), ``file`` (published at an address), ``local``.
    location: folder in the package, hub id, or address. revision: commit; None is the ``main`` of the first use.
    size: in words, where the exact number of bytes is unknown. gated: a licence must be accepted before download.
    """

    role: str
    source: str
    location: str
    files: tuple[FileEntry, ...]
    format: str
    licence: str
    revision: str | None = None
    licence_url: str | None = None
    gated: bool = False
    size: str | None = None
    parameters: int | None = None
    note: str | None = None

    def known_hashes(self) -> dict[str, str]:
        """File name to the sha256 (or the start of it) that the manifest states."""
        hashes = {item.name: item.sha256 or item.sha256_prefix for item in self.files}
        return {name: value for name, value in hashes.items() if value is not None}

    @property
    def bytes(self) -> int | None:
        """Of all files; None where one is unknown."""
        sizes = [item.bytes for item in self.files if item.bytes is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None


@dataclass(frozen=True)
class ModelEntry:
    """All that the manifest says about a model.

    preprocessing: the pixel scaling that its weights ship with (``IMAGE_PRESETS``, or ``custom``).
    licences, training_data, metrics, citations: records with the keys of ``RECORDS``.
    """

    name: str
    summary: str
    embed_dim: int | None
    image_size: int
    preprocessing: str
    components: tuple[Component, ...]
    preprocessing_note: str | None = None
    logit_scale_note: str | None = None
    licences: tuple[dict[str, Any], ...] = ()
    training_data: tuple[dict[str, Any], ...] = ()
    metrics: tuple[dict[str, Any], ...] = ()
    limits: tuple[str, ...] = ()
    citations: tuple[dict[str, Any], ...] = ()

    @property
    def bundled(self) -> bool:
        """Whether every part is in this package."""
        return all(part.source == "bundled" for part in self.components)

    @property
    def gated(self) -> tuple[str, ...]:
        """Locations whose licence must be accepted before download."""
        return tuple(part.location for part in self.components if part.gated)


def list_models() -> list[ModelEntry]:
    """The known models, the default one first."""
    return list(_load())


def find_model(name: str) -> ModelEntry | None:
    """The known model of exactly this name, or None."""
    return next((entry for entry in _load() if entry.name == name), None)


@cache
def _load() -> tuple[ModelEntry, ...]:
    data = json.loads(resources.files("sattxt.weights").joinpath(MANIFEST_FILE).read_text(encoding="utf-8"))
    for model in data["models"]:
        for section, keys in RECORDS.items():
            model[section] = [{**dict.fromkeys(keys), **record} for record in model.get(section, ())]
    return tuple(build(ModelEntry, model, MANIFEST_FILE) for model in data["models"])
