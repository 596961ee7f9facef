"""``sattxt eval compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sattxt.cli import options, output
from sattxt.evaluation.commands.setup import cell
from sattxt.evaluation.compare import compare
from sattxt.evaluation.result import read_result


def command(
    a: Annotated[Path, typer.Argument(metavar="A.json", show_default=False, help="A result.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", show_default=False, help="Another, of the same task.")],
    as_json: options.Json = False,
) -> None:
    """Put two results side by side: B minus A with 95 % intervals, the same samples resampled in both.

    Differences of figures that are not sums over samples (mAP, ECE) have no interval. "p" is a two-sided bootstrap
    value: the chance of a difference of the other sign, twice.
    """
    found = compare(read_result(a), read_result(b))
    if as_json:
        output.put_json(found)
        return
    output.put(f"{found['task']} on {found['data']}: {found['paired']} images in both\n")
    for side, path in (("a", a), ("b", b)):
        output.put(f"  {side.upper()}: {found[side]['model']} ({path})\n")
    for warning in found["warnings"]:
        output.put(f"  note: {warning}\n")
    output.put("\n")
    rows = []
    for row in found["figures"]:
        span = f"{cell(row['low'])} to {cell(row['high'])}" if row["low"] is not None else ""
        rows.append((row["figure"], cell(row["a"]), cell(row["b"]), cell(row["difference"]), span, cell(row["p"])))
    output.put_rows(rows, ("figure", "A", "B", "B - A", "95 %", "p"))
    if found["per_class"]:
        output.put("\n")
        columns = list(found["per_class"][0])
        output.put_rows([[cell(row[c]) for c in columns] for row in found["per_class"]], columns)
