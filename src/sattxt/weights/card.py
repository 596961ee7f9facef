"""The model card: a ``README.md`` with the front matter that the hub reads."""

from __future__ import annotations

from sattxt.config import ModelConfig, ModelSource
from sattxt.weights.manifest import Metric, ModelEntry, find_model

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
    lines = ["---", "library_name: sattxt", f"license: {'apache-2.0' if apache else 'other'}"]
    if not apache and config.licence:
        lines += ["license_name: see-below", 'license_link: "README.md"']
    lines += ["pipeline_tag: zero-shot-image-classification", "language: en", "tags:"]
    lines += [f"- {tag}" for tag in ("remote-sensing", "satellite", "sentinel-2", "vision-language", "embeddings")]
    sources = [config.text.base, *config.text.adapters]
    hub = [source.location for source in sources if source is not None and source.revision is not None]
    if entry is not None:
        hub += [part.location for part in entry.components if part.source == "hub" and part.role == "backbone"]
    if hub:
        lines += ["base_model:", *(f"- {location}" for location in dict.fromkeys(hub))]
    lines += [f"embedding_dimension: {config.embed_dim}", "embedding_spatial_types:", "- chip", "- patch", "---", ""]
    return "\n".join(lines)


def _facts(config: ModelConfig) -> list[str]:
    image, text, head = config.image, config.text, config.vision.head
    encoder = "in this directory" if text.base is None else _source(text.base)
    if text.adapters:
        encoder += ", with " + ", then ".join(_source(item) for item in text.adapters)
    scaling = f"x * {image.rescale:.6g}, minus {list(image.mean)}, divided by {list(image.std)}"
    rows = [
        ("embedding", f"{config.embed_dim} dimensions, [class token; mean of patch tokens], cosine similarity"),
        ("image", f"RGB, short side to {image.size} ({image.resample}), centre crop, {scaling} (`{image.preset}`)"),
        ("backbone", f"{config.vision.backbone.model_type}; head of {head.depth} blocks, {head.dim} wide"),
        ("text encoder", f"{text.kind}, {text.hidden_size} wide, {encoder}; at most {text.max_length} tokens"),
        ("logit scale", f"{config.logit_scale:g} ({config.logit_scale_source})"),
    ]
    return ["| | |", "|-|-|", *(f"| {key} | {value} |" for key, value in rows)]


def _from_manifest(entry: ModelEntry) -> list[str]:
    measured = [f"| {m.task} | {m.data} | {m.metric} | {m.value:g} | {_origin(m)} |" for m in entry.metrics]
    header = ["| task | data | metric | value | how |", "|-|-|-|-|-|"] if measured else []
    data = [f"- {d.name}: {d.licence} ({d.url}){f'; {d.use}' if d.use else ''}" for d in entry.training_data]
    licences = [f"- {x.covers}: {x.says} ({x.where}){f'. {x.accept}' if x.accept else ''}" for x in entry.licences]
    return [
        *([f"Pixel scaling: {entry.preprocessing_note}\n"] if entry.preprocessing_note else []),
        *_section("Measured", header + measured),
        *_section("Training data", data),
        *_section("Limits", [f"- {limit}" for limit in entry.limits]),
        *_section("Licences", licences),
        *_section("Citations", [f"- {item.text} {item.url}" for item in entry.citations]),
    ]


def _origin(metric: Metric) -> str:
    """How a number was found: the command and its date, or where it was published."""
    if metric.command is None:
        return metric.source or ""
    return f"`{metric.command}`" + (f", {metric.date}" if metric.date else "")


def _source(source: ModelSource) -> str:
    return source.location if source.revision is None else f"{source.location} at {source.revision[:8]}"
