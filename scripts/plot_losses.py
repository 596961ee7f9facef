#!/usr/bin/env python3
"""Draw the losses of training runs side by side, one panel a run.

    .venv/bin/python scripts/plot_losses.py docs/sattxt-mini/*_losses.csv --out docs/sattxt-mini/losses.png

A run's losses are in the losses.csv of its folder; what is kept under docs/ are copies of that file.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

#: Columns that are no losses.
OTHERS = ("seconds", "step", "scale", "lr", "tiles_per_s", "entropy")

ACROSS = 5  # panels in a row


def read(path: Path) -> dict[str, list[float]]:
    """Each column's numbers."""
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    if not rows or "step" not in rows[0]:
        raise SystemExit(f"{path}: no losses; pass the losses.csv of a run")
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def main(arguments: list[str] | None = None) -> None:
    """Draw one picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="losses.csv files")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    given = parser.parse_args(arguments)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("matplotlib is missing: pip install 'sattxt[eval]'") from None
    runs = {path.stem.removesuffix("_losses"): read(path) for path in given.files}
    across = min(len(runs), ACROSS)
    down = -(-len(runs) // across)
    figure = Figure(figsize=(4.2 * across, 3.2 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flat
    for axes, (name, columns) in zip(panels, runs.items(), strict=False):
        for column in columns:
            if column not in OTHERS:
                axes.plot(columns["step"], columns[column], label=column)
        axes.set(title=name, xlabel="step", ylabel="loss")
        axes.legend()
    for axes in panels:
        axes.set_axis_off()
    figure.savefig(given.out, dpi=110)
    print(given.out)


if __name__ == "__main__":
    main()
