"""Options that several subcommands share, declared once."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sattxt.cli import inputs

if TYPE_CHECKING:
    from sattxt.images.options import ImageOptions


class OnError(str, Enum):
    """What to do with an image that cannot be read."""

    stop = "raise"
    skip = "skip"


class Dtype(str, Enum):
    """The precision a model computes in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Range(str, Enum):
    """What float pixels, or 8-bit values in a wider type, range over."""

    unit = "0-1"
    byte = "0-255"
    reflectance = "0-10000"


Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGES...",
        show_default=False,
        help="Files, quoted globs ('tiles/**/*.png'), folders (searched recursively), or - for a list on stdin.",
    ),
]
Null = Annotated[bool, typer.Option("--null", "-0", help="Names on stdin end with NUL (find -print0).")]

Model = Annotated[str, typer.Option("--model", "-m", help="A model's name, a model directory, or a hub id.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Commit, tag or branch of a hub model.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use cached files only; download nothing.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ... By default the best there is.")]
Precision = Annotated[Dtype, typer.Option("--dtype", help="Precision of the model.")]
DeviceMap = Annotated[
    str | None, typer.Option("--device-map", help="auto: spread a large text encoder over the devices there are.")
]
Preprocess = Annotated[
    str | None,
    typer.Option("--preprocess", help="Pixel scaling in the place of the model's own: official, unit, dinov3-sat."),
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Images per forward pass.")]
Workers = Annotated[int | None, typer.Option("--workers", min=0, help="Threads that decode images.")]

Labels = Annotated[
    str | None,
    typer.Option(
        "--labels", "-l", help='"forest,river,city", or @FILE: one a line, or .json (list, or label to synonyms).'
    ),
]
LabelSet = Annotated[str | None, typer.Option("--label-set", help="A built-in set, as listed by 'sattxt labels sets'.")]
Templates = Annotated[
    list[str] | None,
    typer.Option("--template", help="Prompt template with {} for the label; several are averaged."),
]
Ensemble = Annotated[bool, typer.Option("--ensemble", help="Average over the built-in prompt templates.")]
Instruction = Annotated[str | None, typer.Option("--instruction", help="Instruction put before every prompt.")]
Bank = Annotated[
    list[str] | None,
    typer.Option("--bank", help="Label bank with these prompts' embeddings: no text encoder is needed."),
]

Stretch = Annotated[
    str | None,
    typer.Option("--stretch", help="To 8 bits from more: sentinel2 (0-2750), percentile, or LOW,HIGH."),
]
Bands = Annotated[
    str | None,
    typer.Option("--bands", help="Which bands are red, green, blue: names (B4,B3,B2) or numbers from 1 (4,3,2)."),
]
BandNames = Annotated[
    str | None,
    typer.Option("--band-names", help="Names of all bands in order, for files without: a list, or l1c, l2a, eurosat."),
]
MaxPixels = Annotated[
    int | None, typer.Option("--max-pixels", min=1, help="Refuse larger files (width x height). Default 134217728.")
]
ValueRange = Annotated[Range | None, typer.Option("--value-range", help="The range of float pixels.")]
Offset = Annotated[
    float | None,
    typer.Option(
        "--offset",
        help="Subtracted before --stretch: 1000 for Sentinel-2 baseline 04.00 and later. By default from the metadata.",
    ),
]

Errors = Annotated[OnError, typer.Option("--on-error", help="At an image that cannot be read: stop, or leave it out.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]


def image_options(
    *,
    stretch: str | None,
    bands: str | None,
    band_names: str | None,
    value_range: Range | None,
    offset: float | None,
    max_pixels: int | None,
) -> ImageOptions:
    """How to read the images, from the options that were given.

    Raises:
        InputError: one of them means nothing.
    """
    from sattxt.images import bands as orders
    from sattxt.images.options import ImageOptions

    known = {"l1c": orders.SENTINEL2_L1C, "l2a": orders.SENTINEL2_L2A, "eurosat": orders.EUROSAT_MS}
    given: dict[str, Any] = {"stretch": stretch, "max_pixels": max_pixels, "offset": offset}
    if stretch is not None and "," in stretch:
        given["stretch"] = inputs.numbers(stretch, "--stretch")
    if bands is not None:
        given["bands"] = tuple(int(name) if name.isdigit() else name for name in _names(bands))
    if band_names is not None:
        given["band_names"] = known.get(band_names.lower()) or _names(band_names)
    if value_range is not None:
        given["value_range"] = value_range.value
    return ImageOptions(**{key: value for key, value in given.items() if value is not None})


def _names(argument: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in argument.split(","))
