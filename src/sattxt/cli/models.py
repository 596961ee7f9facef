"""``sattxt models``: what exists, how large, under which licence, where on this machine, and whether it is whole."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sattxt.cli import exits, options, output
from sattxt.errors import SatTxtError

if TYPE_CHECKING:
    from sattxt.weights.manifest import Component, ModelEntry

app = typer.Typer(rich_markup_mode=None, add_completion=False)

#: A part's size in words, as the manifest states it.
_STATED_SIZE = re.compile(r"([\d.]+) (MB|GB)")
#: What is shown of one model, beside its parts.
_SHOWN = (
    "name",
    "summary",
    "path",
    "embed_dim",
    "image_size",
    "preprocessing",
    "preprocessing_note",
    "logit_scale_note",
    "size",
    "licence",
    "measured_here",
    "verified",
    "damage",
)


@app.command()
def models(
    name: Annotated[
        str | None, typer.Argument(show_default=False, help="A model's name, or a model directory, to see all of it.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash the files that are here against their checksums.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List models: size, licence, where cached; verify them.

    \b
    sattxt models
    sattxt models sattxt-vitl16
    sattxt models --verify

    With --json one document: a list of models, or one model.
    """
    from sattxt.weights.manifest import find_model, list_models

    entries = list_models() if name is None else [find_model(name)]
    found = [_describe_directory(str(name), verify) if each is None else _describe(each, verify) for each in entries]
    if name is not None and found[0]["path"] is not None:
        found[0]["images_per_second"] = _rates(Path(found[0]["path"]))
    if as_json:
        output.put_json(found if name is None else found[0])
    elif name is None:
        rows = [(facts["name"], _size(facts["bytes"]), _state(facts, verify), facts["licence"]) for facts in found]
        output.put_rows(rows, ("name", "size", "where", "licence"))
        output.put("".join(f"\n{facts['name']}: {facts['damage']}\n" for facts in found if facts.get("damage")))
    else:
        _put_model(found[0])
    if any(facts.get("damage") for facts in found):
        raise typer.Exit(exits.MODEL)


def _describe(entry: ModelEntry, verify: bool) -> dict[str, Any]:
    """What is known of a model of the manifest, JSON-ready."""
    from huggingface_hub.constants import HF_HUB_CACHE

    licences = dict.fromkeys(part.licence for part in entry.components)
    facts = {**asdict(entry), "licence": "; ".join(licences), "bundled": entry.bundled, "gated": list(entry.gated)}
    elsewhere = {"path": None, "bytes": sum(map(_bytes, entry.components)), "verified": None}
    path = _find_directory(entry)
    facts |= elsewhere if path is None else _check(path, verify)
    for part in facts["components"]:
        folder = Path(HF_HUB_CACHE, f"models--{part['location'].replace('/', '--')}")
        part["cached"] = str(folder) if folder.is_dir() else None
    return facts


def _describe_directory(name: str, verify: bool) -> dict[str, Any]:
    """What is known of a model directory, or of a hub id that is cached."""
    from sattxt.config import ModelConfig
    from sattxt.weights.directory import CONFIG_FILE
    from sattxt.weights.resolver import resolve

    path = resolve(name, local_files_only=True)
    config = ModelConfig.read(path / CONFIG_FILE)
    return {
        "name": config.name,
        "embed_dim": config.embed_dim,
        "image_size": config.image.size,
        "preprocessing": config.image.preset,
        "licence": config.licence,
        **_check(path, verify),
    }


def _check(path: Path, verify: bool) -> dict[str, Any]:
    """Place and size of a model directory; whether its files are those that were written, if that is asked."""
    from sattxt.weights.checksums import verify_sums

    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    facts: dict[str, Any] = {"path": str(path), "verified": verify or None, "bytes": size}
    try:
        if verify:
            verify_sums(path)
    except SatTxtError as error:
        facts |= {"verified": False, "damage": output.one_line(str(error))}
    return facts


def _rates(path: Path) -> dict[str, float]:
    """Images a second by backend and precision as they were measured on this machine, the fastest first."""
    import torch

    from sattxt.config import ModelConfig
    from sattxt.vision.backend import list_choices, recall_rates
    from sattxt.weights.directory import CONFIG_FILE

    config = ModelConfig.read(path / CONFIG_FILE)
    choices = list_choices(path, config, backend="auto", dtype="auto", device=torch.device("cpu"))
    rates = recall_rates(path, config, choices)
    return {" ".join(choice): rates[choice] for choice in sorted(rates, key=lambda choice: -rates[choice])}


def _find_directory(entry: ModelEntry) -> Path | None:
    """Where the model lies ready to open, if it does."""
    from sattxt.io import user_cache_dir
    from sattxt.weights.directory import is_model_dir
    from sattxt.weights.resolver import BUNDLED

    converted = sorted((user_cache_dir() / "converted").glob(f"{entry.name}-*"), reverse=True)
    return next(filter(is_model_dir, [BUNDLED / entry.name] if entry.bundled else converted), None)


def _bytes(part: Component) -> int:
    """Bytes, exact or as the manifest states them in words; 0 where it does not."""
    stated = _STATED_SIZE.search(part.size or "")
    return part.bytes or (int(float(stated[1]) * 10 ** (9 if stated[2] == "GB" else 6)) if stated else 0)


def _size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 10**9:.1f} GB" if count >= 10**9 else f"{count / 10**6:.1f} MB"


def _state(facts: dict[str, Any], verify: bool) -> str:
    if facts["path"] is not None:
        return "damaged" if facts.get("damage") else f"{facts['path']}{' (verified)' if verify else ''}"
    missing = "missing: install sattxt again" if facts["bundled"] else "fetched on first use"
    return f"{missing}; licences to accept: {len(facts['gated'])}" if facts["gated"] else missing


def _put_model(facts: dict[str, Any]) -> None:
    shown = facts | {"size": _size(facts["bytes"])}
    rates = [f"{name} {rate:.3g} images/s" for name, rate in (facts.get("images_per_second") or {}).items()]
    shown["measured_here"] = ", ".join(rates) or None
    output.put_facts({key: shown.get(key) for key in _SHOWN})
    for part in facts.get("components", ()):
        gate = ", licence to accept" if part["gated"] else ""
        where = part["cached"] or part["source"]
        output.put(f"\n{part['role']}: {part['location']} ({part['size'] or part['format']}{gate}; {where})\n")
        licence = ", ".join(filter(None, (part["licence"], part["licence_url"])))
        output.put("".join(f"  {line}\n" for line in (licence, part["note"]) if line))
    licences = [f"{x['covers']}: {x['says']}. {x['accept'] or ''}".rstrip() for x in facts.get("licences", ())]
    measured = [
        f"{x['task']}, {x['data']}: {x['value']} ({x['metric']}) [{x['source'] or x['command']}]"
        for x in facts.get("metrics", ())
    ]
    cite = [x["text"] for x in facts.get("citations", ())]
    sections = {"licences": licences, "measured": measured, "limits": facts.get("limits"), "cite": cite}
    for title, lines in sections.items():
        if lines:
            output.put(f"\n{title}\n" + "".join(f"  {line}\n" for line in lines))
