"""``sattxt models``: what exists, how large, under which licence, where on this machine, and whether it is whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sattxt.cli import exits, options, output
from sattxt.errors import SatTxtError

if TYPE_CHECKING:
    from sattxt.weights.manifest import Component, ModelEntry

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_STATED_SIZE = re.compile(r"([\d.]+) (MB|GB)")
_UNITS = {"MB": 10**6, "GB": 10**9}


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
    from sattxt.weights.manifest import list_models

    if name is not None:
        facts = _facts_of(name, verify=verify)
        output.put_json(facts) if as_json else _put_model(facts)
        damaged = bool(facts.get("damage"))
    else:
        found = [_entry_facts(entry, verify=verify) for entry in list_models()]
        output.put_json(found) if as_json else _put_list(found, verify=verify)
        damaged = any(facts.get("damage") for facts in found)
    if damaged:
        raise typer.Exit(exits.MODEL)


def _facts_of(name: str, *, verify: bool) -> dict[str, Any]:
    """What is known of a model by name, else of a directory or of a hub id that is cached."""
    from sattxt.weights.manifest import find_model
    from sattxt.weights.resolver import resolve

    entry = find_model(name)
    if entry is not None:
        return _entry_facts(entry, verify=verify)

    from sattxt.config import ModelConfig
    from sattxt.weights.directory import CONFIG_FILE

    path = resolve(name, local_files_only=True)
    config = ModelConfig.read(path / CONFIG_FILE)
    facts = {
        "name": config.name,
        "embed_dim": config.embed_dim,
        "image_size": config.image.size,
        "preprocessing": config.image.preset,
        "licence": config.licence,
    }
    return facts | _local_facts(path, verify=verify)


def _entry_facts(entry: ModelEntry, *, verify: bool) -> dict[str, Any]:
    licences = dict.fromkeys(part.licence for part in entry.components)
    facts = {**entry.to_dict(), "licence": "; ".join(licences), "bundled": entry.bundled, "gated": list(entry.gated)}
    path = _directory(entry)
    if path is None:
        facts |= {"path": None, "bytes": sum(_size(part) for part in entry.components), "verified": None}
    else:
        facts |= _local_facts(path, verify=verify)
    repositories = {} if entry.bundled else _cached_repositories()
    for part in facts["components"]:
        part["cached"] = repositories.get(part["location"])
    return facts


def _local_facts(path: Path, *, verify: bool) -> dict[str, Any]:
    """Size and place of a model directory; whether its files are those that were written, if that is asked."""
    from sattxt.weights.checksums import verify_sums

    facts: dict[str, Any] = {"path": str(path), "verified": None}
    facts["bytes"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if verify:
        try:
            verify_sums(path)
            facts["verified"] = True
        except SatTxtError as error:
            facts |= {"verified": False, "damage": exits.describe(error)}
    return facts


def _directory(entry: ModelEntry) -> Path | None:
    """Where the model lies ready to open, if it does."""
    from sattxt.io import user_cache_dir
    from sattxt.weights.directory import is_model_dir
    from sattxt.weights.resolver import BUNDLED

    if entry.bundled:
        candidates = [BUNDLED / entry.name]
    else:
        candidates = sorted((user_cache_dir() / "converted").glob(f"{entry.name}-*"))
    return next((path for path in reversed(candidates) if is_model_dir(path)), None)


def _cached_repositories() -> dict[str, str]:
    """Hub id to folder, of the repositories in the hub's cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return {repo.repo_id: str(repo.repo_path) for repo in scan_cache_dir().repos if repo.repo_type == "model"}
    except CacheNotFound:
        return {}


def _size(part: Component) -> int:
    """Bytes, exact or as the manifest states them in words; 0 where it does not."""
    stated = _STATED_SIZE.search(part.size or "")
    return part.bytes or (int(float(stated[1]) * _UNITS[stated[2]]) if stated else 0)


def _state(facts: dict[str, Any], *, verify: bool) -> str:
    if facts["path"] is None:
        missing = "missing: install sattxt again" if facts["bundled"] else "fetched on first use"
        return f"{missing}; licences to accept: {len(facts['gated'])}" if facts["gated"] else missing
    if facts.get("damage"):
        return "damaged"
    return f"{facts['path']}{' (verified)' if verify else ''}"


def _put_list(found: list[dict[str, Any]], *, verify: bool) -> None:
    rows = [(f["name"], output.size(f["bytes"]), _state(f, verify=verify), f["licence"]) for f in found]
    output.put_rows(rows, ("name", "size", "where", "licence"))
    for facts in found:
        if facts.get("damage"):
            output.put(f"\n{facts['name']}: {facts['damage']}\n")


def _put_model(facts: dict[str, Any]) -> None:
    rows = [("name", str(facts["name"]))]
    for key in (
        "summary",
        "path",
        "embed_dim",
        "image_size",
        "preprocessing",
        "preprocessing_note",
        "logit_scale_note",
    ):
        if facts.get(key) is not None:
            rows.append((key.replace("_", " "), str(facts[key])))
    rows.append(("size", output.size(facts["bytes"])))
    rows.append(("licence", facts["licence"]))
    if facts["verified"] is not None:
        rows.append(("verified", "yes" if facts["verified"] else f"NO: {facts['damage']}"))
    width = max(len(key) for key, _ in rows)
    for key, value in rows:
        output.put(f"{key:<{width}}  {value}\n")

    for part in facts.get("components", ()):
        gate = ", licence to accept" if part["gated"] else ""
        where = part["cached"] or part["source"]
        output.put(f"\n{part['role']}: {part['location']} ({part['size'] or part['format']}{gate}; {where})\n")
        output.put(f"  {part['licence']}, {part['licence_url']}\n" if part["licence_url"] else f"  {part['licence']}\n")
        if part["note"]:
            output.put(f"  {part['note']}\n")
    for title, lines in (
        ("licences", [f"{x['covers']}: {x['says']}. {x['accept'] or ''}".rstrip() for x in facts.get("licences", ())]),
        ("measured", [_metric(x) for x in facts.get("metrics", ())]),
        ("limits", facts.get("limits", ())),
        ("cite", [x["text"] for x in facts.get("citations", ())]),
    ):
        if lines:
            output.put(f"\n{title}\n" + "".join(f"  {line}\n" for line in lines))


def _metric(metric: dict[str, Any]) -> str:
    source = metric["source"] or metric["command"]
    told = f"{metric['task']}, {metric['data']}: {metric['value']} ({metric['metric']})"
    return f"{told} [{source}]" if source else told
