"""``sattxt labels``: label banks (text vectors for machines without the text encoder), and the built-in label sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sattxt.cli import inputs, options, output

if TYPE_CHECKING:
    from sattxt.text.label_bank import LabelBank

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Build and inspect label banks; list the label sets.",
)

BankFiles = Annotated[
    list[Path], typer.Argument(show_default=False, help="Label banks of one text encoder (.safetensors).")
]
Out = Annotated[Path, typer.Option("--output", "--out", "-o", help="Label bank to write (.safetensors).")]


@app.command(no_args_is_help=True)
@options.with_options
def build(
    out: Out,
    labels: options.LabelFlags,
    model: options.ModelFlags,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Encode labels and write them to a label bank.

    \b
    sattxt labels build --model sattxt-vitl16 --label-set eurosat -o eurosat.safetensors
    sattxt classify tiles/ --model sattxt-vitl16 --bank eurosat.safetensors      # elsewhere, without the LLM

    Texts encoded before come from the text cache. An interrupted build goes on where it stopped.
    """
    prompting = labels.prompting()
    inputs.check_output("-o", out, ".safetensors", overwrite=overwrite)
    progress = output.show_progress(quiet)
    bank = model.open().export_labels(out, **prompting, overwrite=overwrite, progress=progress)
    _report(out, bank, as_json=as_json, quiet=quiet)


@app.command(no_args_is_help=True)
def show(
    bank: Annotated[Path, typer.Argument(show_default=False, help="Label bank (.safetensors).")],
    as_json: options.Json = False,
) -> None:
    """Tell what a label bank holds."""
    from sattxt.text.label_bank import LabelBank

    facts = _facts(bank, LabelBank.load(bank))
    if as_json:
        output.put_json(facts)
        return
    labels = facts.pop("labels")
    output.put_facts(facts)
    if labels:
        output.put("\n")
        output.put_rows([(label, "; ".join(texts)) for label, texts in labels.items()], ("label", "prompts"))


@app.command(no_args_is_help=True)
def merge(
    banks: BankFiles,
    out: Out,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put several label banks into one."""
    from sattxt.text.label_bank import LabelBank

    inputs.check_output("-o", out, ".safetensors", overwrite=overwrite)
    merged = LabelBank.merge(LabelBank.load(path) for path in banks)
    merged.save(out, overwrite=overwrite)
    _report(out, merged, as_json=as_json, quiet=quiet)


@app.command("import", no_args_is_help=True)
def import_(banks: BankFiles, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Put label banks into this machine's text cache, for every later use."""
    from sattxt.text.cache import TextCache
    from sattxt.text.label_bank import LabelBank

    loaded = [LabelBank.load(path) for path in banks]
    cache = TextCache()
    for path, bank in zip(banks, loaded, strict=True):
        new = cache.put_many(bank.space, bank.texts, bank.vectors)  # where every model of this encoder looks
        facts = {"path": str(path), "texts": len(bank.texts), "new": new, "cache": str(cache.path)}
        words = f"{path}: {new} of {len(bank.texts)} texts were new to {cache.path}"
        output.report(facts, words, as_json=as_json, quiet=quiet)


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
            output.put_rows([(s.name, str(len(s)), s.title) for s in found], ("name", "labels", "title"))
        return
    shown = label_set(name)
    if as_json:
        labels = {"labels": {x.name: x.prompts for x in shown}, "keys": {x.name: x.key for x in shown}}
        output.put_json(vars(shown) | labels)
    else:
        output.put(f"{shown.title}\n{shown.reference}\n{shown.url}\n\n")
        output.put_rows([(x.name, x.key, "; ".join(x.prompts)) for x in shown], ("label", "key", "prompts"))


def _facts(path: Path, bank: LabelBank) -> dict[str, Any]:
    facts = {key: getattr(bank, key) for key in ("model", "space", "instruction", "created")}
    labels = {label: list(texts) for label, texts in bank.labels.items()}
    return {"path": str(path), **facts, "texts": len(bank.texts), "dim": int(bank.vectors.shape[1]), "labels": labels}


def _report(path: Path, bank: LabelBank, *, as_json: bool, quiet: bool) -> None:
    words = f"{path}: {len(bank.texts)} texts for {bank.model}"
    output.report(_facts(path, bank), words, as_json=as_json, quiet=quiet)
