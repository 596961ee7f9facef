"""The model card: a ``README.md`` with the front matter that the hub reads."""

from __future__ import annotations

from typing import Any

from sattxt.config import ModelConfig, ModelSource
from sattxt.weights.manifest import ModelEntry, find_model

_USAGE = """## Use

```python
from sattxt import SatTxt

model = SatTxt.from_pretrained("{name}")
print(model.zero_shot("tile.png", ["forest", "river", "city"]))
```
"""


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
