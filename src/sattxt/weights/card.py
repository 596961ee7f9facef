"""The model card: a ``README.md`` with the front matter that the hub reads."""

from __future__ import annotations

import json

from sattxt.config import ModelConfig, ModelSource
from sattxt.weights.manifest import Metric, ModelEntry, find_model


def model_card(config: ModelConfig, *, repo_id: str | None = None) -> str:
    """The card's text, from the config and, for a model of the manifest, from its entry there.

    Args:
        config: of the model.
        repo_id: the hub id it will have, for the example; default: a placeholder path.
    """
    entry = find_model(config.name)
    parts = [_front_matter(config, entry), f"# {config.name}\n"]
    parts.append((entry.summary if entry else "RGB satellite tiles and text in one embedding space.") + "\n")
    parts.append(_usage(repo_id or config.name))
    parts.append(_facts(config))
    if entry is not None:
        parts += _from_manifest(entry)
    elif config.licence:
        parts.append(f"## Licence\n\n{config.licence}\n")
    return "\n".join(parts)


def _front_matter(config: ModelConfig, entry: ModelEntry | None) -> str:
    apache = config.licence.strip().lower() == "apache-2.0"
    lines = ["---", "library_name: sattxt", f"license: {'apache-2.0' if apache else 'other'}"]
    if not apache and config.licence:
        lines += ["license_name: see-below", f"license_link: {json.dumps('README.md')}"]
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


def _usage(name: str) -> str:
    return f"""## Use

```python
from sattxt import SatTxt

model = SatTxt.from_pretrained("{name}")
print(model.zero_shot("tile.png", ["forest", "river", "city"]))
```
"""


def _facts(config: ModelConfig) -> str:
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
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    return f"## What it is\n\n| | |\n|-|-|\n{table}\n"


def _from_manifest(entry: ModelEntry) -> list[str]:
    parts = []
    if entry.preprocessing_note:
        parts.append(f"Pixel scaling: {entry.preprocessing_note}\n")
    if entry.metrics:
        rows = "\n".join(f"| {m.task} | {m.data} | {m.metric} | {m.value:g} | {_origin(m)} |" for m in entry.metrics)
        parts.append(f"## Measured\n\n| task | data | metric | value | how |\n|-|-|-|-|-|\n{rows}\n")
    if entry.training_data:
        rows = "\n".join(f"- {d.name}: {d.licence} ({d.url}){_use(d.use)}" for d in entry.training_data)
        parts.append(f"## Training data\n\n{rows}\n")
    if entry.limits:
        parts.append("## Limits\n\n" + "\n".join(f"- {limit}" for limit in entry.limits) + "\n")
    rows = "\n".join(
        f"- {item.covers}: {item.says} ({item.where}){'. ' + item.accept if item.accept else ''}"
        for item in entry.licences
    )
    parts.append(f"## Licences\n\n{rows}\n")
    parts.append("## Citations\n\n" + "\n".join(f"- {item.text} {item.url}" for item in entry.citations) + "\n")
    return parts


def _origin(metric: Metric) -> str:
    if metric.command:
        return f"`{metric.command}`" + (f", {metric.date}" if metric.date else "")
    return metric.source or ""


def _use(use: str | None) -> str:
    return f"; {use}" if use else ""


def _source(source: ModelSource) -> str:
    return source.location if source.revision is None else f"{source.location} at {source.revision[:8]}"
