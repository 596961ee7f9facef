"""``sattxt search``: the chips of a store that match words, pictures or examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sattxt.cli import inputs, options, output

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
@options.with_options
def search(
    store: Annotated[str, typer.Argument(metavar="STORE", show_default=False, help="Folder, or s3://bucket/store.")],
    reading: options.ReadFlags,
    where: options.WhereFlags,
    text: Annotated[str | None, typer.Argument(show_default=False, help="What chips should show.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="A picture of what is looked for.")] = None,
    like: Annotated[list[str] | None, typer.Option("--like", help="Id of a chip like it; repeatable.")] = None,
    unlike: Annotated[list[str] | None, typer.Option("--unlike", help="Id of a chip unlike it; repeatable.")] = None,
    count: Annotated[int, typer.Option("--k", "-k", min=1, help="Hits at most.")] = 20,
    one_per_cell: Annotated[
        bool, typer.Option("--one-per-cell", help="Of one place at several dates, only the best.")
    ] = False,
    template: Annotated[
        list[str] | None, typer.Option("--template", help="Prompt template with {} for the text; several are averaged.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    geojson: Annotated[Path | None, typer.Option("--geojson", help="File to write the hits to, for a GIS.")] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Find the chips of a store that match best.

    \b
    sattxt search places/ "solar farm" --bbox 11,44,13,46 --after 2024 --geojson hits.geojson
    sattxt search places/ --like ITEM#CELL --unlike ITEM#CELL

    Prints score, id, longitude and latitude of each hit's centre, and date. "weak match": the text fits it hardly. With
    --json every line is one object: {"id", "score", "exact", "fit", "bbox", ...}.
    """
    inputs.check_output("--geojson", geojson, ".geojson", ".json", overwrite=overwrite)
    from sattxt.scenes.store import Store

    hits = Store.open(store).search(
        text,
        image=image,
        like=like,
        unlike=unlike,
        k=count,
        one_per_cell=one_per_cell,
        templates=template or None,
        options=reading.image_options(),
        **where.filters(),
    )
    if geojson is not None:
        hits.to_geojson(geojson)
    if as_json:
        for row in hits.to_rows():
            output.put_json(row)
    elif hits:
        rows = []
        for hit in hits:
            west, south, east, north = hit.bbox or (float("nan"),) * 4
            place = "" if hit.bbox is None else f"{(west + east) / 2:.4f}, {(south + north) / 2:.4f}"
            date = "" if hit.start_datetime is None else f"{hit.start_datetime:%Y-%m-%d}"
            weak = "weak match" if hit.fits is False else ""
            rows.append((f"{hit.score:.3f}", hit.id, place, date, weak))
        output.put_rows(rows, ("score", "id", "lon, lat", "date", ""))
    if hits.note:
        output.note(f"no hits: {hits.note}")
    elif not hits.exact:
        output.note(f"{hits.matches} chips match the filter; the index was asked, which may miss some")
