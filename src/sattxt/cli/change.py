"""``sattxt change``: where the ground changed between two periods of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sattxt.cli import inputs, options, output
from sattxt.errors import InputError

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
@options.with_options
def change(
    store: Annotated[str, typer.Argument(metavar="STORE", show_default=False, help="Folder, or s3://bucket/store.")],
    place: options.PlaceFlags,
    before: Annotated[
        str,
        typer.Option("--before", help="The earlier period: 2019, 2019-05, or its ends: 2019-05,2019-09."),
    ],
    after: Annotated[str, typer.Option("--after", help="The later period.")],
    text: Annotated[
        str | None, typer.Argument(show_default=False, help="What may have come or gone. Default: any change.")
    ] = None,
    season: Annotated[
        str, typer.Option("--season", help="Days of the year that two dates may be apart; none: any season.")
    ] = "45",
    template: Annotated[
        list[str] | None, typer.Option("--template", help="Prompt template with {} for the text; several are averaged.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--output", "--out", "-o", help="Polygons to write (.geojson, .parquet, .gpkg, .fgb)."),
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Find where the ground changed between two periods.

    \b
    sattxt change places/ "buildings" --before 2019 --after 2024 -o change.gpkg

    The same grid cells are compared, each at its clearest; neighbours that changed alike are one area. Prints kind,
    cells, square kilometres, probabilities and deviation of each. With --json every line is one object: {"kind",
    "area_m2", "cells", "before", "after", "z", "start", "end"}.
    """
    if out is not None:
        from sattxt.scenes.polygons import POLYGON_SUFFIXES

        inputs.check_output("-o", out, *POLYGON_SUFFIXES, overwrite=overwrite)
    try:
        days = None if season.lower() in ("none", "any") else float(season)
    except ValueError:
        raise InputError(f"--season {season}: pass days, such as 45, or none") from None
    from sattxt.scenes.store import Store

    found = Store.open(store).change(
        text,
        before=_period(before),
        after=_period(after),
        season=days,
        templates=template or None,
        **place.filters(),
    )
    if out is not None:
        found.save(out, overwrite=overwrite)
    if as_json:
        for row in found.to_rows():
            output.put_json(row)
    else:
        rows = [
            (area.kind, str(len(area.cells)), f"{area.area_m2 / 1e6:.2f}", f"{area.before:.2f} to {area.after:.2f}",
             f"{area.z:+.1f}", f"{area.start} to {area.end}")
            for area in found
        ]  # fmt: skip
        output.put_rows(rows, ("kind", "cells", "km2", "distance" if text is None else "probability", "z", "dates"))
    output.note(f"{len(found)} areas of {found.table.num_rows} cells compared")


def _period(value: str) -> str | tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",")) if "," in value else value
