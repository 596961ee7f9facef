"""``weights_manifest.json``: every model this package knows, part by part, without importing torch.

The file lies beside this module, so that it is in the wheel; the copy at the top of the repository is for readers and
is byte for byte the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from sattxt.config import build
from sattxt.errors import WeightsError

MANIFEST_FILE = "weights_manifest.json"
MANIFEST_VERSION = 1

Role = Literal["backbone", "vision_head", "vision", "text_head", "llm", "adapter", "text_encoder", "config"]


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

    source: ``bundled`` (in this package), ``hub`` (a repository), ``file`` (published at an address), ``local``.
    location: folder in the package, hub id, or address. revision: commit; None is the ``main`` of the first use.
    size: in words, where the exact number of bytes is unknown. gated: a licence must be accepted before download.
    """

    role: Role
    source: Literal["bundled", "hub", "file", "local"]
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
class LicenceStatement:
    """Who says that what is under which licence, and what a user must do."""

    covers: str
    says: str
    where: str
    accept: str | None = None


@dataclass(frozen=True)
class DataSource:
    """Data a model was trained on."""

    name: str
    licence: str
    url: str
    use: str | None = None


@dataclass(frozen=True)
class Metric:
    """A measured number, or a published one (then ``command`` is None and ``source`` says where)."""

    task: str
    metric: str
    value: float
    data: str
    command: str | None = None
    date: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Citation:
    """A work to cite, as plain text."""

    key: str
    text: str
    url: str


@dataclass(frozen=True)
class ModelEntry:
    """All that the manifest says about a model.

    preprocessing: the pixel scaling that its weights ship with (``IMAGE_PRESETS``, or ``custom``).
    """

    name: str
    summary: str
    embed_dim: int | None
    image_size: int
    preprocessing: str
    components: tuple[Component, ...]
    preprocessing_note: str | None = None
    logit_scale_note: str | None = None
    licences: tuple[LicenceStatement, ...] = ()
    training_data: tuple[DataSource, ...] = ()
    metrics: tuple[Metric, ...] = ()
    limits: tuple[str, ...] = ()
    citations: tuple[Citation, ...] = ()

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


def parse_manifest(text: str) -> tuple[ModelEntry, ...]:
    """The entries of a manifest's JSON text.

    Raises:
        WeightsError: it is not a manifest of this version, or an entry has a missing or unknown key.
    """
    try:
        data = json.loads(text)
        if data["manifest_version"] != MANIFEST_VERSION:
            raise WeightsError(f"{MANIFEST_FILE}: version {data['manifest_version']!r}, {MANIFEST_VERSION} is needed")
        return tuple(build(ModelEntry, item, MANIFEST_FILE) for item in data["models"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{MANIFEST_FILE}: not a manifest ({type(error).__name__}: {error})") from error


@cache
def _load() -> tuple[ModelEntry, ...]:
    return parse_manifest(resources.files("sattxt.weights").joinpath(MANIFEST_FILE).read_text(encoding="utf-8"))
