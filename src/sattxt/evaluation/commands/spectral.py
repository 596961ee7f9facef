"""``sattxt eval spectral``."""

from __future__ import annotations

from typing import Annotated

import typer

from sattxt.errors import InputError
from sattxt.evaluation.commands.setup import Setup, measuring
from sattxt.evaluation.spectral import spectral


@measuring
def command(
    setup: Setup,
    train_split: Annotated[str, typer.Option("--train-split", help="Split to fit the regressions on.")] = "train",
) -> None:
    """Predict bands and indices that RGB does not hold from frozen RGB features: R2 against mean colour.

    \b
    sattxt eval spectral --data eurosat_ms.zip --dataset eurosat
    sattxt eval spectral --data s2_tiles.zip --report pictures/

    Reads multispectral Sentinel-2 TIFFs in class (or place) folders below train/ and val/. The model gets red, green
    and blue only, stretched from reflectance 0-0.275. --limit holds for the measured split alone.
    """
    train = setup.collection.split(train_split)
    if train.split == setup.samples.split:
        raise InputError(f"--split and --train-split are both {train.split!r}; pass two that are disjoint")
    result = spectral(setup.embedder, train, setup.samples)
    if setup.report is not None:
        from sattxt.evaluation.plots import bars_picture

        rows = result.tables["per_target"]
        bars_picture(
            setup.report / "spectral.png",
            [row["target"] for row in rows],
            {name: [max(row[name], -0.2) for row in rows] for name in rows[0] if name != "target"},
            title=f"{result.model['name']} on {result.data['name']}",
            y_label="R² on held-out tiles",
        )
    setup.finish(result, rows="per_target")
