"""What all sub-commands share: their common options, opening model and data, and giving out the result."""

from __future__ import annotations

import functools
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from sattxt.cli import inputs, options, output, runtime
from sattxt.data.dataset import Dataset, Samples
from sattxt.data.registry import DATASETS, open_data
from sattxt.errors import InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.encoder import Encoder, SatTxtEncoder
from sattxt.evaluation.labels import ClassPrompts, class_prompts, matching_sets
from sattxt.evaluation.peers import is_peer, open_peer
from sattxt.evaluation.result import Result, dump
from sattxt.images.options import ImageOptions
from sattxt.labels.prompts import parse_templates

Data = Annotated[
    Path, typer.Option("--data", show_default=False, help="Folder, zip or tar of the data set; or a manifest.")
]
DatasetName = Annotated[str, typer.Option("--dataset", help=f"Its layout: auto, {', '.join(DATASETS)}.")]
Split = Annotated[
    str | None, typer.Option("--split", help="Split to measure on, or all. Default: val, else test, else all.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most N images, evenly spaced over the split.")]
Captions = Annotated[
    Path | None, typer.Option("--captions", help="Captions of the images: .json as published, or .jsonl.")
]
Images = Annotated[Path | None, typer.Option("--images", help="What a manifest's paths are relative to.")]
ModelName = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A model's name, directory or hub id; transformers:ID; open_clip:ARCHITECTURE/TAG."
    ),
]
Out = Annotated[Path | None, typer.Option("--json", help="File for the result, or - for standard output.")]
Report = Annotated[Path | None, typer.Option("--report", help="Folder for pictures and CSV tables.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compute image embeddings anew and keep none.")]

LabelSet = Annotated[
    str | None,
    typer.Option("--label-set", help="Names from a built-in set; auto: the one that has all of the classes."),
]
Names = Annotated[
    Path | None, typer.Option("--names", help="Names from a .json object: class to name, or to texts to average.")
]
Templates = Annotated[
    list[str] | None,
    typer.Option(
        "--templates",
        "--template",
        help="Prompt template with {} for the class (several are averaged), 'ensemble', or @FILE with one a line.",
    ),
]


@dataclass(frozen=True)
class Setup:
    """The common options of one call, and what they open, on demand."""

    context: typer.Context
    data: Path
    dataset: str
    split: str | None
    limit: int | None
    captions: Path | None
    images: Path | None
    model: str
    revision: str | None
    offline: bool
    device: str | None
    device_map: str | None
    dtype: options.Dtype
    preprocess: str | None
    instruction: str | None
    batch_size: int | None
    workers: int | None
    stretch: str | None
    bands: str | None
    band_names: str | None
    value_range: options.Range | None
    offset: float | None
    json: Path | None
    report: Path | None
    no_cache: bool
    on_error: options.OnError
    quiet: bool

    def check(self) -> None:
        """Find fault with the output's place before anything is computed."""
        if self.json is not None and not self.to_stdout and not self.json.resolve().parent.is_dir():
            raise InputError(f"--json {self.json}: its folder does not exist")
        if self.report is not None:
            try:
                self.report.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"--report {self.report}: cannot be made a folder ({error.strerror})") from error

    @property
    def to_stdout(self) -> bool:
        """Whether the result goes to standard output as JSON, and nothing else does."""
        return self.json is not None and str(self.json) == "-"

    @cached_property
    def reading(self) -> ImageOptions | None:
        """How to read the images, if the options say so."""
        given = (self.stretch, self.bands, self.band_names, self.value_range, self.offset)
        if all(value is None for value in given):
            return None
        return options.image_options(
            stretch=self.stretch,
            bands=self.bands,
            band_names=self.band_names,
            value_range=self.value_range,
            offset=self.offset,
            max_pixels=None,
        )

    @cached_property
    def collection(self) -> Dataset:
        """The data set with all of its splits."""
        return open_data(self.data, self.dataset, captions=self.captions, images=self.images, options=self.reading)

    @cached_property
    def samples(self) -> Samples:
        """The split to measure on."""
        return self.collection.split(self.split, self.limit)

    @cached_property
    def encoder(self) -> Encoder:
        """The model."""
        return self.open_encoder()

    def open_encoder(self, *, image_size: int | None = None) -> Encoder:
        """The model, at another input size if one is given."""
        if is_peer(self.model):
            for option, value in (
                ("--preprocess", self.preprocess),
                ("--instruction", self.instruction),
                ("an input size", image_size),
            ):
                if value is not None:
                    raise InputError(f"--model {self.model}: {option} is for this library's models only")
            return open_peer(self.model, offline=self.offline, batch_size=self.batch_size, device=self.device)
        preprocess: Any = self.preprocess
        if image_size is not None:
            if preprocess is not None:
                raise InputError("--preprocess and other input sizes exclude each other")
            preprocess = {"size": image_size}
        opened = runtime.open_model(
            self.model,
            revision=self.revision,
            local_files_only=self.offline,
            device=self.device,
            device_map=self.device_map,
            dtype=self.dtype.value,
            preprocess=preprocess,
        )
        return SatTxtEncoder(opened, instruction=self.instruction, batch_size=self.batch_size)

    @cached_property
    def embedder(self) -> Embedder:
        """Image embeddings by the model."""
        return self.embedder_of(self.encoder)

    def embedder_of(self, encoder: Encoder) -> Embedder:
        """Image embeddings by another model, with the same cache."""
        progress = runtime.show_progress(quiet=self.quiet)
        return Embedder(
            encoder,
            cache=not self.no_cache,
            workers=self.workers,
            progress=progress,
            on_error=self.on_error.value,
        )

    def templates(self, given: Sequence[str] | None) -> tuple[str, ...]:
        """Checked templates: those of ``--templates``, else the model's own."""
        chosen: str | list[str] | None = None
        if given:
            listed: list[str] = []
            for text in given:
                found = inputs.read_texts(text[1:]) if text.startswith("@") else [text]
                if not isinstance(found, list):
                    raise InputError(f"--templates {text}: a list of templates is needed")
                listed += found
            chosen = listed[0] if len(listed) == 1 else listed
        return parse_templates(chosen, default=self.encoder.templates)

    def prompts(self, names: Path | None, label_set: str | None, templates: Sequence[str] | None) -> ClassPrompts:
        """The prompts of the data's classes; says so where a label set would have better words than folder names."""
        classes = class_prompts(
            self.samples,
            names=names,
            named_set=label_set,
            templates=self.templates(templates),
            default_templates=self.encoder.templates,
        )
        if classes.source == "class names":
            fitting = matching_sets(self.samples.classes)
            if fitting:
                self.say(f"these are classes of the label set {fitting[0]}: --label-set {fitting[0]} uses its names")
        return classes

    def say(self, text: str) -> None:
        """A remark on stderr, unless told to be quiet."""
        if not self.quiet:
            sys.stderr.write(f"sattxt: {text}\n")

    def finish(self, result: Result, *, rows: str | None = "per_class") -> None:
        """Write the result where it was asked for, and show it as tables; ``rows`` names the longer one."""
        result.command = command_line(self.context)
        document = result.to_dict()
        if self.to_stdout:
            output.put(dump(document))
            return
        if self.json is not None:
            try:
                self.json.write_text(dump(document), encoding="utf-8")
            except OSError as error:
                raise InputError(f"--json {self.json}: cannot be written ({error.strerror or error})") from error
        put_result(document, list(result.figures), rows)


def put_result(document: dict[str, Any], figures: Sequence[str], rows: str | None) -> None:
    """Show a result's document: what was measured, its figures with their intervals, and one of its tables."""
    data, model = document["data"], document["model"]
    split = f", {data['split']}" if data.get("split") else ""
    output.put(f"{document['task']}: {model['name']} on {data['name']}{split}, {data['n']} images\n\n")
    shown = []
    for name in figures:
        value = document.get(name)
        low, high = document["ci95"].get(name, (None, None))
        shown.append((name, cell(value), f"{cell(low)} to {cell(high)}" if low is not None else ""))
    output.put_rows(shown, ("figure", "value", "95 %"))
    table = document.get(rows) if rows else None
    if table:
        output.put("\n")
        columns = list(table[0])
        output.put_rows([[cell(row.get(c)) for c in columns] for row in table], columns)
    for note in document["notes"]:
        output.put(f"\n{note}\n")
    skipped = document["skipped"]
    if skipped["count"]:
        output.put(f"\n{skipped['count']} images left out, they cannot be read:\n")
        output.put("".join(f"  {row['error']}\n" for row in skipped["first"]))
        if skipped["count"] > len(skipped["first"]):
            output.put(f"  and {skipped['count'] - len(skipped['first'])} more\n")


def cell(value: Any) -> str:
    """A value as tables show it."""
    if value is None:
        return "-"
    return (
        f"{value:.3f}"
        if isinstance(value, float) and 0 < abs(value) < 1
        else (f"{value:.2f}" if isinstance(value, float) else str(value))
    )


def command_line(context: typer.Context) -> str:
    """The command that gives this result again: the options that differ from their defaults.

    The folder that ``$SATTXT_DATA`` names is written as that, so that the command holds on other machines.
    """
    words = context.command_path.split()
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if (
            value in (None, False, [], ())
            or value == parameter.default
            or parameter.name in ("json", "report", "quiet")
        ):
            continue
        name = max(parameter.opts, key=len) if parameter.opts[0].startswith("-") else None
        for item in value if isinstance(value, list | tuple) else [value]:
            text = str(getattr(item, "value", item))
            words += [name] if item is True and name else [text] if name is None else [name, text]
    text, home = shlex.join(words), os.environ.get("SATTXT_DATA")
    return text.replace(home.rstrip("/") + "/", "$SATTXT_DATA/") if home else text


def _common(
    context: typer.Context,
    data: Data,
    dataset: DatasetName = "auto",
    split: Split = None,
    limit: Limit = None,
    captions: Captions = None,
    images: Images = None,
    model: ModelName = "sattxt-mini",
    revision: options.Revision = None,
    offline: options.Offline = False,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    dtype: options.Precision = options.Dtype.auto,
    preprocess: options.Preprocess = None,
    instruction: options.Instruction = None,
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    stretch: options.Stretch = None,
    bands: options.Bands = None,
    band_names: options.BandNames = None,
    value_range: options.ValueRange = None,
    offset: options.Offset = None,
    json: Out = None,
    report: Report = None,
    no_cache: NoCache = False,
    on_error: options.Errors = options.OnError.stop,
    quiet: options.Quiet = False,
) -> None:
    """The signature that :func:`measuring` adds to every sub-command."""


def measuring(command: Callable[..., None]) -> Callable[..., None]:
    """Give a sub-command the common options; it gets them as its first argument, a :class:`Setup`."""
    shared = list(inspect.signature(_common).parameters.values())
    _first, *own = list(inspect.signature(command).parameters.values())
    names = {parameter.name for parameter in shared}

    @functools.wraps(command)
    def run(**given: Any) -> None:
        setup = Setup(**{name: given.pop(name) for name in list(given) if name in names})
        setup.check()
        command(setup, **given)

    hints = {**get_type_hints(_common, include_extras=True), **get_type_hints(command, include_extras=True)}
    ordered = [*shared[:2], *own, *shared[2:]]
    keyword = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=keyword, annotation=hints[parameter.name]) for parameter in ordered]
    )
    run.__annotations__ = {parameter.name: hints[parameter.name] for parameter in ordered}
    return run


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """A table as CSV."""
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
