"""``sattxt eval scale``."""

from __future__ import annotations

from typing import Annotated

import typer

from sattxt.cli import inputs, output
from sattxt.evaluation.commands.setup import LabelSet, Names, Setup, Templates, cell, measuring
from sattxt.evaluation.scale import FACTORS, scale


@measuring
def command(
    setup: Setup,
    templates: Templates = None,
    label_set: LabelSet = None,
    names: Names = None,
    factors: Annotated[
        str, typer.Option("--factors", help="Pixels so many times as large, separated by commas.")
    ] = ",".join(map(str, FACTORS)),
    sizes: Annotated[
        str | None, typer.Option("--sizes", help="Input sizes of the model in pixels, separated by commas.")
    ] = None,
) -> None:
    """Accuracy as the ground sampling distance degrades, and at other input sizes; the curve as a picture.

    \b
    sattxt eval scale --data EuroSAT.zip --dataset eurosat --report pictures/
    sattxt eval scale --data tiles/ --factors 1,2,4 --sizes 64,96,128
    """
    wanted = [int(f) if f.is_integer() else f for f in inputs.numbers(factors, "--factors")]
    pixels = [int(n) for n in inputs.numbers(sizes, "--sizes")] if sizes else []
    result = scale(
        setup.embedder,
        setup.samples,
        setup.prompts(names, label_set, templates),
        factors=wanted,
        sizes=pixels,
        open_at=lambda size: setup.embedder_of(setup.open_encoder(image_size=size)),
    )
    tables = [(table, column) for table, column in (("gsd", "factor"), ("input_size", "size")) if result.tables[table]]
    if setup.report is not None:
        from sattxt.evaluation.plots import curve_picture

        for table, column in tables:
            rows = result.tables[table]
            known = all(row["low"] is not None for row in rows)
            curve_picture(
                setup.report / f"scale_{table}.png",
                [row[column] for row in rows],
                {result.model["name"]: [row["value"] for row in rows]},
                spans={result.model["name"]: ([r["low"] for r in rows], [r["high"] for r in rows])} if known else None,
                title=f"{result.data['name']}: {'pixels times as large' if table == 'gsd' else 'input size'}",
                x_label="factor" if table == "gsd" else "pixels a side",
                y_label="mAP (%)" if setup.samples.multi_label else "top-1 accuracy (%)",
                log_x=table == "gsd",
            )
    setup.finish(result, rows=None)
    if not setup.to_stdout:
        for table, column in tables:
            output.put("\n")
            shown = [[cell(row[key]) for key in (column, "value", "low", "high")] for row in result.tables[table]]
            output.put_rows(shown, (column, "value", "low", "high"))
