"""Options that several commands share, declared once: a group is a dataclass, and :func:`with_options` lays it out."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from sattxt.cli import exits, inputs, output
from sattxt.errors import ImageError, InputError
from sattxt.labels.prompts import parse_labels, parse_templates

if TYPE_CHECKING:
    from sattxt.images.options import ImageOptions
    from sattxt.model import SatTxt

#: Images handed to the model at a time: few at first, so that results show soon, then more while they take no second.
FIRST_CHUNK, LARGEST_CHUNK = 64, 512

Model = Annotated[str, typer.Option("--model", "-m", help="A model's name, a model directory, or a hub id.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ... By default the best there is.")]
Instruction = Annotated[str | None, typer.Option("--instruction", help="Instruction put before every prompt.")]
Bank = Annotated[
    list[str] | None,
    typer.Option("--bank", help="Label bank with these prompts' embeddings: no text encoder is needed."),
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Images per forward pass.")]
Workers = Annotated[int | None, typer.Option("--workers", min=0, help="Threads that decode images.")]
OnError = Annotated[
    Literal["raise", "skip"], typer.Option("--on-error", help="At an image that cannot be read: stop, or leave it out.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options: a parameter that is a dataclass stands for the options that are its fields,
    and the command gets them as one object. In ``--help`` what is required comes first, groups come last.
    """
    own = _parameters(command)
    groups: dict[str, Any] = {each.name: each.annotation for each in own if is_dataclass(each.annotation)}
    members = {name: _parameters(group) for name, group in groups.items()}
    options = [each for each in own if each.name not in groups]
    options += [each for group in members.values() for each in group]
    options.sort(key=lambda option: option.default is not option.empty)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{each.name: given.pop(each.name) for each in members[name]})
        command(**given)

    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def _parameters(callee: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a command or group, with their annotations resolved."""
    hints = get_type_hints(callee, include_extras=True)
    found = inspect.signature(callee).parameters.values()
    return [each.replace(kind=each.KEYWORD_ONLY, annotation=hints[each.name]) for each in found]


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Which model, how it sees images, and where it computes."""

    model: Model = "sattxt-mini"
    revision: Annotated[str | None, typer.Option("--revision", help="Commit, tag or branch of a hub model.")] = None
    offline: Annotated[bool, typer.Option("--offline", help="Use cached files only; download nothing.")] = False
    device: Device = None
    device_map: Annotated[
        str | None, typer.Option("--device-map", help="auto: spread a large text encoder over the devices there are.")
    ] = None
    backend: Annotated[
        Literal["auto", "torch", "openvino"], typer.Option("--backend", help="What computes; auto: the fastest here.")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        typer.Option("--dtype", help="Precision of the model; auto: the fastest here."),
    ] = "auto"

    preprocess: Annotated[
        str | None,
        typer.Option("--preprocess", help="Pixel scaling in the place of the model's own: official, unit, dinov3-sat."),
    ] = None

    def open(self, image_size: int | None = None) -> SatTxt:
        """The model, at another input size if one is given."""
        from sattxt.model import SatTxt

        return SatTxt.from_pretrained(
            self.model,
            revision=self.revision,
            local_files_only=self.offline,
            device=self.device,
            device_map=self.device_map,
            backend=self.backend,
            dtype=self.dtype,
            preprocess=self.preprocess if image_size is None else {"size": image_size},
        )


@dataclass(kw_only=True)
class ImageFlags:
    """The images of one call, and how to go through them."""

    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES...",
            show_default=False,
            help="Files, quoted globs ('tiles/**/*.png'), folders (searched recursively), or - for a list on stdin.",
        ),
    ] = None
    batch_size: BatchSize = None
    workers: Workers = None
    on_error: OnError = "raise"
    null: Annotated[bool, typer.Option("--null", "-0", help="Names on stdin end with NUL (find -print0).")] = False
    quiet: Quiet = False
    skipped: int = field(default=0, init=False)

    def paths(self) -> list[str]:
        """The files that the arguments name; one that does not exist is kept where images may be skipped."""
        return inputs.image_paths(self.images or [], null=self.null, keep_missing=self.on_error == "skip")

    def chunks(self, paths: Sequence[str], encode: Callable[..., Any]) -> Iterator[tuple[list[str], Any]]:
        """``(chunk, encode(chunk))`` for consecutive slices of ``paths``, with one progress bar on stderr.

        Images that could not be read (the result's ``failures``) are reported on stderr. Where one ends the command,
        what was made of those before it is given out first. The bar shows on a terminal only, and not before a second
        has passed.
        """
        from tqdm import tqdm

        size, start = FIRST_CHUNK, 0
        with tqdm(total=len(paths), unit="image", disable=not output.show_progress(self.quiet), delay=1) as bar:
            while start < len(paths):
                chunk, began = list(paths[start : start + size]), time.monotonic()
                try:
                    found = encode(chunk, batch_size=self.batch_size, workers=self.workers, on_error=self.on_error)
                except ImageError as error:
                    if error.completed is not None:
                        yield chunk, error.completed
                    raise
                start += size
                if time.monotonic() - began < 1:
                    size = min(2 * size, LARGEST_CHUNK)
                for failure in found.failures:
                    path, reason = chunk[failure.index], output.one_line(failure.error)
                    output.note(f"skipped: {reason if path in reason else f'{path}: {reason}'}")
                self.skipped += len(found.failures)
                yield chunk, found
                bar.update(len(chunk))

    def finish(self, total: int) -> None:
        """End the command with the exit code for skipped images, if there were any."""
        if self.skipped:
            output.note(f"{self.skipped} of {total} images skipped")
            raise typer.Exit(exits.SKIPPED)


@dataclass(frozen=True, kw_only=True)
class ReadFlags:
    """How to read what is not a plain 8-bit picture."""

    stretch: Annotated[
        str | None,
        typer.Option("--stretch", help="To 8 bits from more: sentinel2 (0-2750), percentile, or LOW,HIGH."),
    ] = None
    bands: Annotated[
        str | None,
        typer.Option("--bands", help="Which bands are red, green, blue: names (B4,B3,B2) or numbers from 1 (4,3,2)."),
    ] = None
    band_names: Annotated[
        str | None,
        typer.Option(
            "--band-names", help="Names of all bands in order, for files without: a list, or l1c, l2a, eurosat."
        ),
    ] = None
    value_range: Annotated[
        Literal["0-1", "0-255", "0-10000"] | None, typer.Option("--value-range", help="The range of float pixels.")
    ] = None
    offset: Annotated[
        float | None,
        typer.Option(
            "--offset",
            help="Subtracted before --stretch: 1000 for Sentinel-2 baseline 04.00 and later. "
            "By default from the metadata.",
        ),
    ] = None
    max_pixels: Annotated[
        int | None, typer.Option("--max-pixels", min=1, help="Refuse larger files (width x height). Default 134217728.")
    ] = None

    def image_options(self) -> ImageOptions | None:
        """How to read the images; ``None`` where no option was given.

        Raises:
            InputError: an option means nothing.
        """
        from sattxt.images.bands import BAND_ORDERS
        from sattxt.images.options import ImageOptions

        given: dict[str, Any] = {
            "stretch": self.stretch,
            "value_range": self.value_range,
            "offset": self.offset,
            "max_pixels": self.max_pixels,
        }
        if self.stretch is not None and "," in self.stretch:
            given["stretch"] = inputs.numbers(self.stretch, "--stretch")
        if self.bands is not None:
            given["bands"] = [int(name) if name.isdigit() else name for name in inputs.names(self.bands)]
        if self.band_names is not None:
            listed = self.band_names.lower() not in BAND_ORDERS
            given["band_names"] = inputs.names(self.band_names) if listed else self.band_names
        given = {name: value for name, value in given.items() if value is not None}
        return ImageOptions(**given) if given else None


@dataclass(frozen=True, kw_only=True)
class LabelFlags:
    """Which labels, and how they become prompts."""

    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", "-l", help='"forest,river,city", or @FILE: one a line, or .json (list, or label to synonyms).'
        ),
    ] = None
    label_set: Annotated[
        str | None, typer.Option("--label-set", help="A built-in set, as listed by 'sattxt labels sets'.")
    ] = None
    template: Annotated[
        list[str] | None,
        typer.Option("--template", help="Prompt template with {} for the label; several are averaged."),
    ] = None
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Average over the built-in prompt templates.")] = False
    instruction: Instruction = None

    def prompting(self) -> dict[str, Any]:
        """Checked arguments for :meth:`sattxt.SatTxt.classifier`: labels, templates and instruction.

        Raises:
            LabelError: no labels, or they are given twice; one is empty or stands there twice; the set is unknown.
            InputError: templates are given twice, or one has not exactly one ``{}``.
        """
        if self.ensemble and self.template:
            raise InputError("--ensemble and --template exclude each other; pass one")
        templates = "ensemble" if self.ensemble else self.template
        listed = None if self.labels is None else inputs.texts(self.labels)
        return {
            "labels": parse_labels(listed, label_set=self.label_set),
            "templates": parse_templates(templates) if templates else None,
            "instruction": self.instruction,
        }


@dataclass(frozen=True, kw_only=True)
class BankFlags(LabelFlags):
    """Labels that may come from a label bank, or whose vectors may."""

    bank: Bank = None

    @property
    def from_bank(self) -> bool:
        """Whether the labels are those of the one label bank given."""
        return self.labels is None and self.label_set is None and len(self.bank or ()) == 1

    def prompting(self) -> dict[str, Any]:
        """As for :class:`LabelFlags`; nothing where the label bank brings the labels."""
        if not self.from_bank:
            return super().prompting()
        for option in ("template", "ensemble", "instruction"):
            if getattr(self, option):
                raise InputError(
                    f"--{option} means nothing with a label bank's own prompts; leave it out, or pass --labels"
                )
        return {}

    def import_into(self, model: SatTxt) -> dict[str, Any]:
        """Give the model the banks' vectors; returns the labels as an argument where they come from the bank."""
        banks = [model.import_labels(file) for file in self.bank or ()]
        return {"labels": banks[0]} if self.from_bank else {}


@dataclass(frozen=True, kw_only=True)
class PlaceFlags:
    """Which chips of a store count, by place."""

    bbox: Annotated[
        str | None, typer.Option("--bbox", help="WEST,SOUTH,EAST,NORTH in degrees; WEST > EAST crosses 180.")
    ] = None
    within: Annotated[str | None, typer.Option("--within", help="Polygons: a .geojson or .gpkg file.")] = None

    def filters(self) -> dict[str, Any]:
        """Arguments as :class:`sattxt.scenes.filters.FilterOptions` has them."""
        return {"bbox": None if self.bbox is None else inputs.numbers(self.bbox, "--bbox"), "within": self.within}


@dataclass(frozen=True, kw_only=True)
class WhereFlags(PlaceFlags):
    """Which chips of a store count, by place and date."""

    after: Annotated[str | None, typer.Option("--after", help="From the start of: 2024, 2024-05, 2024-05-17.")] = None
    before: Annotated[str | None, typer.Option("--before", help="To the start of the same.")] = None

    def filters(self) -> dict[str, Any]:
        """Arguments as :class:`sattxt.scenes.filters.FilterOptions` has them."""
        return {**super().filters(), "after": self.after, "before": self.before}
