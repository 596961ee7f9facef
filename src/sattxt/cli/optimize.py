"""``sattxt optimize``: a model with its image side as OpenVINO runs it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from sattxt.cli import inputs, options, output

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
def optimize(
    model: Annotated[str, typer.Argument(help="A model's name, a model directory, or a hub id.")],
    out: Annotated[str, typer.Option("--out", "--output", "-o", help="Model directory to write.")],
    calibration: Annotated[
        list[str] | None,
        typer.Option("--calibration", help="Images like those to come (a folder, a quoted glob, a file); repeatable."),
    ] = None,
    dtype: Annotated[Literal["int8", "float32"], typer.Option("--dtype", help="Precision to write.")] = "int8",
    offline: Annotated[bool, typer.Option("--offline", help="Use cached files only; download nothing.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a model that OpenVINO runs faster on this kind of CPU.

    \b
    sattxt optimize sattxt-vitl16 -o fast
    sattxt optimize ./my-model --calibration tiles/ -o fast

    int8 is calibrated on a few hundred images: yours, or drawn ones. The directory opens with --model DIR in the other
    commands.
    """
    from sattxt.model import SatTxt

    paths = inputs.image_paths(calibration) if calibration else None
    opened = SatTxt.from_pretrained(model, backend="torch", dtype="float32", local_files_only=offline, text_cache=False)
    written = opened.export_openvino(out, quantize=None if dtype == "float32" else dtype, calibration=paths)
    words = f"{written}: open it with SatTxt.from_pretrained or --model"
    output.report({"output": str(written), "dtype": dtype}, words, as_json=as_json)
