"""The options that all commands of ``sattxt eval`` share, what they open, and showing a result."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer

from sattxt.cli import inputs, options, output
from sattxt.cli.options import ModelFlags, ReadFlags
from sattxt.data.dataset import Dataset, Samples
from sattxt.data.registry import DATASETS, open_data
from sattxt.errors import InputError, LabelError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.encoder import PEERS, Encoder, SatTxtEncoder, open_peer
from sattxt.evaluation.prompts import ClassPrompts, class_prompts, matching_sets
from sattxt.evaluation.result import Result, dump, write_result
from sattxt.labels.prompts import parse_templates


@dataclass(frozen=True, kw_only=True)
class Setup(ModelFlags, ReadFlags):
    """The shared options of one call, and what they open, on demand."""

    context: typer.Context
    data: Annotated[
        Path, typer.Option("--data", show_default=False, help="Folder, zip or tar of the data set; or a manifest.")
    ]
    dataset: Annotated[str, typer.Option("--dataset", help=f"Its layout: auto, {', '.join(DATASETS)}.")] = "auto"
    split: Annotated[
        str | None, typer.Option("--split", help="Split to measure on, or all. Default: val, else test, else all.")
    ] = None
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most N images, evenly spaced over the split.")
    ] = None
    captions: Annotated[
        Path | None, typer.Option("--captions", help="Captions of the images: .json as published, or .jsonl.")
    ] = None
    images: Annotated[Path | None, typer.Option("--images", help="What a manifest's paths are relative to.")] = None
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="A model's name, directory or hub id; transformers:ID; open_clip:ARCHITECTURE/TAG."
        ),
    ] = "sattxt-mini"
    instruction: options.Instruction = None
    batch_size: options.BatchSize = None
    workers: options.Workers = None
    json: Annotated[Path | None, typer.Option("--json", help="File for the result, or - for standard output.")] = None
    report: Annotated[Path | None, typer.Option("--report", file_okay=False, help="Folder for pictures.")] = None
    overwrite: options.Overwrite = False
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute image embeddings anew and keep none.")] = False
    on_error: options.OnError = "raise"
    quiet: options.Quiet = False

    def __post_init__(self) -> None:
        if self.json != Path("-"):
            inputs.check_output("--json", self.json, overwrite=self.overwrite)
        if self.report is not None:
            self.report.mkdir(parents=True, exist_ok=True)

    @cached_property
    def collection(self) -> Dataset:
        """The data set with all of its splits."""
        return open_data(
            self.data, self.dataset, captions=self.captions, images=self.images, options=self.image_options()
        )

    @cached_property
    def samples(self) -> Samples:
        """The split to measure on."""
        return self.collection.split(self.split, self.limit)

    def open_encoder(self, image_size: int | None = None) -> Encoder:
        """The model, at another input size if one is given."""
        if self.model.startswith(PEERS):
            for option, value in (
                ("--preprocess", self.preprocess),
                ("--instruction", self.instruction),
                ("an input size", image_size),
            ):
                if value is not None:
                    raise InputError(f"--model {self.model}: {option} is for this library's models only")
            return open_peer(self.model, offline=self.offline, batch_size=self.batch_size, device=self.device)
        if image_size is not None and self.preprocess is not None:
            raise InputError("--preprocess and other input sizes exclude each other")
        return SatTxtEncoder(self.open(image_size), instruction=self.instruction, batch_size=self.batch_size)

    @cached_property
    def embedder(self) -> Embedder:
        """Image embeddings by the model."""
        return self.open_embedder()

    def open_embedder(self, image_size: int | None = None) -> Embedder:
        """Image embeddings by the model, at another input size if one is given."""
        return Embedder(
            self.open_encoder(image_size),
            cache=not self.no_cache,
            workers=self.workers,
            progress=output.show_progress(self.quiet),
            on_error=self.on_error,
        )

    def templates(self, given: Sequence[str] | None) -> tuple[str, ...]:
        """Checked templates: those given, else the model's own."""
        chosen = given[0] if given and len(given) == 1 else given
        return parse_templates(chosen or None, default=self.embedder.encoder.templates)

    def prompts(
        self, data: Samples, names: Path | None, label_set: str | None, templates: Sequence[str] | None
    ) -> ClassPrompts:
        """The prompts of the data's classes; says so where a label set would have better words than folder names."""
        if names is not None and label_set is not None:
            raise LabelError("--names and --label-set exclude each other; pass one")
        words, source = (None, "") if names is None else (read_words(names), names.name)
        chosen = self.templates(templates)
        classes = class_prompts(data, words=words, source=source, named_set=label_set, templates=chosen)
        fitting = matching_sets(data.classes) if classes.source == "class names" and not self.quiet else []
        if fitting:
            output.note(f"these are classes of the label set {fitting[0]}: --label-set {fitting[0]} uses its names")
        return classes

    def finish(self, result: Result, *tables: str) -> None:
        """Write the result where it was asked for; show what was measured, its figures with their intervals, and some
        of its tables.
        """
        result.command = command_line(self.context)
        document = result.to_dict()
        if self.json == Path("-"):
            output.put(dump(document))
            return
        if self.json is not None:
            write_result(self.json, document)
        data, intervals, skipped = document["data"], document["ci95"], document["skipped"]
        split = f", {data['split']}" if data.get("split") else ""
        output.put(f"{result.task}: {document['model']['name']} on {data['name']}{split}, {data['n']} images\n\n")
        between = {name: f"{cell(low)} to {cell(high)}" for name, (low, high) in intervals.items() if low is not None}
        shown = [(name, cell(document[name]), between.get(name, "")) for name in result.figures]
        output.put_rows(shown, ("figure", "value", "95 %"))
        for table in tables:
            put_table(document.get(table, ()))
        for note in document["notes"]:
            output.put(f"\n{note}\n")
        if skipped["count"]:
            output.put(f"\n{skipped['count']} images left out, they cannot be read:\n")
            output.put("".join(f"  {row['error']}\n" for row in skipped["first"]))
            more = skipped["count"] - len(skipped["first"])
            output.put(f"  and {more} more\n" if more else "")


def read_words(file: Path) -> dict[str, list[str]]:
    """Texts by class, from a ``.json`` object of class to text, or to a list of texts.

    Raises:
        LabelError: it cannot be read, or is not of that form.
    """
    found = inputs.read_texts(str(file))
    if not isinstance(found, dict):
        raise LabelError(f"{file}: an object of class to text, or to a list of texts, is needed")
    return found


def put_table(rows: Sequence[dict[str, Any]]) -> None:
    """Show rows of equal columns after an empty line; nothing if there are none."""
    if rows:
        output.put("\n")
        output.put_rows([[cell(value) for value in row.values()] for row in rows], list(rows[0]))


def cell(value: Any) -> str:
    """A value as tables show it."""
    if isinstance(value, float):
        return f"{value:.3f}" if 0 < abs(value) < 1 else f"{value:.2f}"
    return "-" if value is None else str(value)


def command_line(context: typer.Context) -> str:
    """The command that gives this result again: the options that differ from their defaults.

    The folder that ``$SATTXT_DATA`` names is written as that, so that the command holds on other machines.
    """
    words = context.command_path.split()
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        changes_nothing = parameter.name in ("json", "report", "quiet", "overwrite") or value is None or value is False
        if changes_nothing or value in ([], (), parameter.default):
            continue
        option = max(parameter.opts, key=len)
        for item in value if isinstance(value, list | tuple) else [value]:
            words += [option] if item is True else [option, str(getattr(item, "value", item))]
    text, home = shlex.join(words), os.environ.get("SATTXT_DATA")
    return text.replace(home.rstrip("/") + "/", "$SATTXT_DATA/") if home else text
