"""``sattxt eval probe``."""

from __future__ import annotations

from typing import Annotated

import typer

from sattxt.cli import inputs, output
from sattxt.errors import InputError
from sattxt.evaluation.commands.setup import Setup, cell, measuring
from sattxt.evaluation.probe import REPEATS, SHOTS, probe


@measuring
def command(
    setup: Setup,
    fraction: Annotated[float, typer.Option("--fraction", help="Share of the training samples to use.")] = 1.0,
    shots: Annotated[str, typer.Option("--shots", help="Few-shot sizes, separated by commas; 0 for none.")] = ",".join(
        map(str, SHOTS)
    ),
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Draws of each few-shot size.")] = REPEATS,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the few-shot draws.")] = 0,
) -> None:
    """Classify frozen image embeddings: logistic regression, nearest neighbours, a few samples a class.

    \b
    sattxt eval probe --data EuroSAT.zip --dataset eurosat --json probe.json --report pictures/
    sattxt eval probe --data BigEarthNet/ --dataset bigearthnet-19 --fraction 0.1

    Trained on the train split, measured on test if there is one, else on val. What has to be chosen (regularisation,
    number of neighbours) is chosen on val, or where that is what is measured, on a fifth of the training samples.
    --limit holds for every split. Data without splits are divided, a fifth of each class measured on.
    """
    sizes = [int(n) for n in inputs.numbers(shots, "--shots") if n]
    if any(n < 1 for n in sizes):
        raise InputError(f"--shots {shots}: pass numbers of 1 or more")
    result = probe(
        setup.embedder,
        setup.collection,
        split=setup.split,
        limit=setup.limit,
        fraction=fraction,
        shots=sizes,
        repeats=repeats,
        seed=seed,
    )
    rows = result.tables["few_shot"]
    if setup.report is not None and rows:
        from sattxt.evaluation.plots import curve_picture

        figure = "linear_top1" if "linear_top1" in result.figures else "linear_map_macro"
        curve_picture(
            setup.report / "few_shot.png",
            [row["shots"] for row in rows],
            {"few-shot": [row["mean"] for row in rows]},
            spans={"few-shot": ([row["low"] for row in rows], [row["high"] for row in rows])},
            title=f"{result.model['name']} on {result.data['name']}",
            x_label="training samples a class",
            y_label="top-1 accuracy (%)" if figure == "linear_top1" else "mAP (%)",
            log_x=True,
            reference=("all training samples", result.figures[figure]),
        )
    setup.finish(result)
    if rows and not setup.to_stdout:
        output.put("\n")
        columns = list(rows[0])
        output.put_rows([[cell(row[c]) for c in columns] for row in rows], columns)
