"""``sattxt labels``: label banks (text vectors for machines without the text encoder), and the built-in label sets."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sattxt.cli import inputs, options, output, runtime
from sattxt.errors import InputError

if TYPE_CHECKING:
    from sattxt.text.label_bank import LabelBank

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Build and inspect label banks; list the label sets.",
)


class Stored(str, Enum):
    """The precision of a label bank's vectors."""

    float32 = "float32"
    float16 = "float16"


BankFile = Annotated[Path, typer.Argument(show_default=False, help="Label bank (.safetensors).")]
Out = Annotated[Path, typer.Option("--output", "--out", "-o", help="Label bank to write (.safetensors).")]


@app.command(no_args_is_help=True)
def build(
    out: Out,
    labels: options.Labels = None,
    label_set: options.LabelSet = None,
    template: options.Templates = None,
    ensemble: options.Ensemble = False,
    instruction: options.Instruction = None,
    precision: Annotated[Stored, typer.Option("--precision", help="Of the stored vectors.")] = Stored.float32,
    as_json: options.Json = False,
    model: options.Model = "sattxt-mini",
    revision: options.Revision = None,
    offline: options.Offline = False,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    dtype: options.Precision = options.Dtype.auto,
    quiet: options.Quiet = False,
) -> None:
    """Encode labels and write them to a label bank.

    \b
    sattxt labels build --model sattxt-vitl16 --label-set eurosat -o eurosat.safetensors
    sattxt classify tiles/ --model sattxt-vitl16 --bank eurosat.safetensors      # elsewhere, without the LLM

    Texts encoded before come from the text cache. An interrupted build goes on where it stopped.
    """
    templates = inputs.templates(template, ensemble=ensemble)
    _check_output(out)
    wanted = inputs.labels(labels, label_set)
    opened = runtime.open_model(
        model,
        revision=revision,
        local_files_only=offline,
        device=device,
        device_map=device_map,
        dtype=dtype.value,
    )
    bank = opened.export_labels(
        out,
        wanted,
        label_set=label_set,
        templates=templates,
        instruction=instruction,
        precision=precision.value,
        progress=runtime.show_progress(quiet=quiet),
    )
    _written(out, bank, as_json=as_json, quiet=quiet)


@app.command(no_args_is_help=True)
def show(
    bank: BankFile,
    as_json: options.Json = False,
) -> None:
    """Tell what a label bank holds."""
    from sattxt.text.label_bank import LabelBank

    facts = _facts(bank, LabelBank.load(bank))
    if as_json:
        output.put_json(facts)
        return
    for key, value in facts.items():
        if key != "labels" and value != "":
            output.put(f"{key:<11}  {value}\n")
    if facts["labels"]:
        output.put("\n")
        rows = [(label, "; ".join(texts)) for label, texts in facts["labels"].items()]
        output.put_rows(rows, ("label", "prompts"))


@app.command(no_args_is_help=True)
def merge(
    banks: Annotated[list[Path], typer.Argument(show_default=False, help="Label banks of one text encoder.")],
    out: Out,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put several label banks into one."""
    from sattxt.text.label_bank import LabelBank

    _check_output(out)
    merged = LabelBank.merge(LabelBank.load(path) for path in banks)
    merged.save(out)
    _written(out, merged, as_json=as_json, quiet=quiet)


@app.command("import", no_args_is_help=True)
def import_(
    banks: Annotated[list[Path], typer.Argument(show_default=False, help="Label banks (.safetensors).")],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put label banks into this machine's text cache, for every later use."""
    from sattxt.text.cache import TextCache
    from sattxt.text.label_bank import LabelBank

    loaded = [LabelBank.load(path) for path in banks]
    cache = TextCache()
    for path, bank in zip(banks, loaded, strict=True):
        new = bank.to_cache(cache)
        if as_json:
            output.put_json({"path": str(path), "texts": len(bank.texts), "new": new, "cache": str(cache.path)})
        elif not quiet:
            sys.stderr.write(f"{path}: {new} of {len(bank.texts)} texts were new to {cache.path}\n")


@app.command()
def sets(
    name: Annotated[str | None, typer.Argument(show_default=False, help="A label set, to see its labels.")] = None,
    as_json: options.Json = False,
) -> None:
    """List the built-in label sets, or the labels of one."""
    from sattxt.labels.sets import label_set, list_label_sets

    if name is None:
        found = [label_set(each) for each in list_label_sets()]
        if as_json:
            for each in found:
                output.put_json({"name": each.name, "title": each.title, "labels": each.names})
        else:
            output.put_rows([(s.name, str(len(s.labels)), s.title) for s in found], ("name", "labels", "title"))
        return
    chosen = label_set(name)
    if as_json:
        output.put_json(
            {
                "name": chosen.name,
                "title": chosen.title,
                "labels": {label.name: list(label.prompts) for label in chosen.labels},
                "keys": {label.name: label.key for label in chosen.labels},
                "multi_label": chosen.multi_label,
                "reference": chosen.reference,
                "url": chosen.url,
                "licence": chosen.licence,
            }
        )
        return
    output.put(f"{chosen.title}\n{chosen.reference}\n{chosen.url}\n\n")
    output.put_rows(
        [(label.name, label.key, "; ".join(label.prompts)) for label in chosen.labels], ("label", "key", "prompts")
    )


def _check_output(out: Path) -> None:
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise InputError(f"-o {out}: the name must end in .safetensors, in a folder that exists")


def _facts(path: Path, bank: LabelBank) -> dict[str, Any]:
    return {
        "path": str(path),
        "model": bank.model,
        "space": bank.space,
        "instruction": bank.instruction,
        "created": bank.created,
        "precision": bank.precision,
        "texts": len(bank.texts),
        "dim": int(bank.vectors.shape[1]),
        "labels": {label: list(texts) for label, texts in bank.labels.items()},
    }


def _written(path: Path, bank: LabelBank, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        output.put_json(_facts(path, bank))
    elif not quiet:
        sys.stderr.write(f"{path}: {len(bank.texts)} texts for {bank.model}\n")
