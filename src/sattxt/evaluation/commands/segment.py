"""``sattxt eval segment``."""

from __future__ import annotations

from typing import Annotated

import typer

from sattxt.cli import runtime
from sattxt.errors import InputError
from sattxt.evaluation.commands.setup import LabelSet, Names, Setup, Templates, measuring
from sattxt.evaluation.labels import class_prompts
from sattxt.evaluation.segment import IGNORED, open_masked, segment


@measuring
def command(
    setup: Setup,
    templates: Templates = None,
    label_set: LabelSet = None,
    names: Names = None,
    window: Annotated[
        int | None, typer.Option("--window", min=8, help="Side of the windows: smaller is finer. Default: the model's.")
    ] = None,
    overlap: Annotated[float, typer.Option("--overlap", min=0, max=0.9, help="Share that windows overlap.")] = 0.5,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", help=f"Class that counts for nothing. Default: {', '.join(IGNORED)}."),
    ] = None,
) -> None:
    """Segment images by class names against label maps: mean intersection over union.

    \b
    sattxt eval segment --data dubai.zip --window 96 --report pictures/

    Expected are images/NAME.* and masks/NAME.png with class numbers, with or without train/, val/, test/ above, and
    classes.json (number to name). --report draws the first images beside their label maps.
    """
    if setup.dataset != "auto":
        raise InputError("--dataset is of no use here: images/, masks/ and classes.json are expected")
    ignored = tuple(name.lower() for name in ignore) if ignore else IGNORED
    source = open_masked(setup.data, options=setup.reading, ignored=ignored)
    data = source.collection.split(setup.split, setup.limit)
    classes = class_prompts(
        data,
        names=names,
        named_set=label_set,
        templates=setup.templates(templates),
        default_templates=setup.encoder.templates,
    )
    result, kept = segment(
        setup.encoder,
        source,
        data,
        classes,
        window=window,
        overlap=overlap,
        progress=runtime.show_progress(quiet=setup.quiet),
        keep=4 if setup.report is not None else 0,
        on_error=setup.on_error.value,
    )
    if setup.report is not None:
        from sattxt.evaluation.plots import segmentation_picture

        segmentation_picture(setup.report / "segment.png", kept, classes.names)
    setup.finish(result)
