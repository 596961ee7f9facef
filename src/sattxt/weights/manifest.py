"""``weights_manifest.json``, every model this package knows, part by part; and the card written from it. No torch.

The file lies beside this module, so that it is in the wheel; the copy at the top of the repository is for readers and
is byte for byte the same. It is part of the package, so tests (not this module) check that its records are complete.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from sattxt.config import ModelConfig, ModelSource, build

MANIFEST_FILE = "weights_manifest.json"

#: The records that are only shown, and their keys; a key that a record lacks is read as None.
RECORDS = {
    "licences": ("covers", "says", "where", "accept"),  # who says that what is under which licence; what a user must do
    "training_data": ("name", "licence", "url", "use"),
    "metrics": ("task", "metric", "value", "data", "command", "date", "source"),  # published ones: source, no command
    "citations": ("key", "text", "url"),
}


_USAGE = """## Use

```python
from sattxt import SatTxt

model = SatTxt.from_pretrained("{name}")
print(model.zero_shot("tile.png", ["forest", "river", "city"]))
```
"""


@dataclass(frozen=True)
class Component:
    """A part of a model.

    role: ``backbone``, ``vision_head``, ``vision``, ``text_head``, ``llm``, ``adapter`` or ``text_encoder``.
    source: ``bundled`` (in this package) or ``hub`` (a repository).
    files: the ``name`` of each, or a pattern for several, with its ``bytes`` and ``sha256`` where these are published.
    location: folder in the package, or hub id. revision: commit; None is the ``main`` of the first use.
    size: in words, where the exact number of bytes is unknown. gated: a licence must be accepted before download.
    """

    role: str
    source: str
    location: str
    files: tuple[dict[str, Any], ...]
    format: str
    licence: str
    revision: str | None = None
    licence_url: str | None = None
    gated: bool = False
    size: str | None = None
    parameters: int | None = None
    note: str | None = None

    @property
    def bytes(self) -> int | None:
        """Of all files; None where one is unknown."""
        sizes = [item["bytes"] for item in self.files if "bytes" in item]
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


def find_model(name: str) -> ModelEntry | None:
    """The known model of exactly this name, or None."""
    return next((entry for entry in list_models() if entry.name == name), None)


@cache
def list_models() -> tuple[ModelEntry, ...]:
    """The known models, the default one first."""
    data = json.loads(resources.files("sattxt.weights").joinpath(MANIFEST_FILE).read_text(encoding="utf-8"))
    for model in data["models"]:
        for section, keys in RECORDS.items():
            model[section] = [{**dict.fromkeys(keys), **record} for record in model.get(section, ())]
    return tuple(build(ModelEntry, model, MANIFEST_FILE) for model in data["models"])


def model_card(config: ModelConfig) -> str:
    """The card's text, from a model's config and, for a model of the manifest, from its entry there."""
    entry = find_model(config.name)
    summary = entry.summary if entry else "RGB satellite tiles and text in one embedding space."
    parts = [_front_matter(config, entry), f"# {config.name}\n", f"{summary}\n", _USAGE.format(name=config.name)]
    parts += _section("What it is", _facts(config))
    parts += _from_manifest(entry) if entry else _section("Licence", [config.licence] if config.licence else [])
    return "\n".join(parts)


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}\n\n" + "\n".join(lines) + "\n"] if lines else []


def _front_matter(config: ModelConfig, entry: ModelEntry | None) -> str:
    apache = config.licence.strip().lower() == "apache-2.0"
    link = ["license_name: see-below", 'license_link: "README.md"'] if config.licence and not apache else []
    sources = (config.text.base, *config.text.adapters)
    bases = [source.location for source in sources if source is not None and source.revision is not None]
    parts = entry.components if entry else ()
    bases += [part.location for part in parts if part.source == "hub" and part.role == "backbone"]
    tags = ("remote-sensing", "satellite", "sentinel-2", "vision-language", "embeddings")
    lines = [
        *("---", "library_name: sattxt", f"license: {'apache-2.0' if apache else 'other'}", *link),
        *("pipeline_tag: zero-shot-image-classification", "language: en", "tags:", *(f"- {tag}" for tag in tags)),
        *(["base_model:"] if bases else []),
        *(f"- {location}" for location in dict.fromkeys(bases)),
        *(f"embedding_dimension: {config.embed_dim}", "embedding_spatial_types:", "- chip", "- patch", "---", ""),
    ]
    return "\n".join(lines)


def _facts(config: ModelConfig) -> list[str]:
    image, text, head = config.image, config.text, config.vision.head
    places = [
        source.location if source.revision is None else f"{source.location} at {source.revision[:8]}"
        for source in (text.base or ModelSource("in this directory"), *text.adapters)
    ]
    encoder = places[0] + (", with " + ", then ".join(places[1:]) if text.adapters else "")
    scaling = f"x * {image.rescale:.6g}, minus {list(image.mean)}, divided by {list(image.std)}"
    rows = {
        "embedding": f"{config.embed_dim} dimensions, [class token; mean of patch tokens], cosine similarity",
        "image": f"RGB, short side to {image.size} ({image.resample}), centre crop, {scaling} (`{image.preset}`)",
        "backbone": f"{config.vision.backbone.model_type}; head of {head.depth} blocks, {head.dim} wide",
        "text encoder": f"{text.kind}, {text.hidden_size} wide, {encoder}; at most {text.max_length} tokens",
        "logit scale": f"{config.logit_scale:g} ({config.logit_scale_source})",
    }
    return ["| | |", "|-|-|", *(f"| {key} | {value} |" for key, value in rows.items())]


def _from_manifest(entry: ModelEntry) -> list[str]:
    metrics = [f"| {m['task']} | {m['data']} | {m['metric']} | {m['value']:g} | {_origin(m)} |" for m in entry.metrics]
    header = ["| task | data | metric | value | how |", "|-|-|-|-|-|"] if metrics else []
    data = [f"- {d['name']}: {d['licence']} ({d['url']}){_after('; ', d['use'])}" for d in entry.training_data]
    licences = [f"- {x['covers']}: {x['says']} ({x['where']}){_after('. ', x['accept'])}" for x in entry.licences]
    return [
        *([f"Pixel scaling: {entry.preprocessing_note}\n"] if entry.preprocessing_note else []),
        *_section("Measured", header + metrics),
        *_section("Training data", data),
        *_section("Limits", [f"- {limit}" for limit in entry.limits]),
        *_section("Licences", licences),
        *_section("Citations", [f"- {item['text']} {item['url']}" for item in entry.citations]),
    ]


def _origin(metric: dict[str, Any]) -> str:
    """How a number was found: the command and its date, or where it was published."""
    return f"`{metric['command']}`, {metric['date']}" if metric["command"] else str(metric["source"])


def _after(mark: str, text: str | None) -> str:
    return mark + text if text else ""
