"""``sattxt store``: scenes into a store that is searched by words, and its upkeep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sattxt.cli import exits, inputs, options, output

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Scenes into a store that is searched by words, and its upkeep.",
)

StorePath = Annotated[str, typer.Argument(metavar="STORE", show_default=False, help="Folder, or s3://bucket/store.")]


@app.command(no_args_is_help=True)
@options.with_options
def create(
    store: StorePath,
    model: options.ModelFlags,
    grid: Annotated[
        Literal["utm", "majortom", "quadkey", "pixels"],
        typer.Option("--grid", help="Where chips lie; scenes in longitude and latitude get majortom in place of utm."),
    ] = "utm",
    grid_km: Annotated[float, typer.Option("--grid-km", help="Kilometres between the cells of majortom.")] = 10.0,
    chip: Annotated[
        int | None, typer.Option("--chip", min=8, help="Side of a chip, pixels. Default 64 from 5 m up, else 256.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, help="Pixels between chips. Default: the chip's side.")
    ] = None,
    gsd: Annotated[
        float | None, typer.Option("--gsd", help="Metres a pixel that scenes must have. Default: any.")
    ] = None,
    bands: Annotated[
        str | None, typer.Option("--bands", help="Red, green, blue: names (B04,B03,B02) or numbers from 1 (4,3,2).")
    ] = None,
    stretch: Annotated[
        str | None, typer.Option("--stretch", help="To 8 bits from more: sentinel2, percentile, or LOW,HIGH.")
    ] = None,
    stored: Annotated[
        Literal["float16", "int8"], typer.Option("--store", help="How embeddings are stored; int8 halves the files.")
    ] = "float16",
    min_valid: Annotated[
        float, typer.Option("--min-valid", min=0, max=1, help="Share of a chip that must hold data.")
    ] = 0.9,
    max_cloud: Annotated[
        float, typer.Option("--max-cloud", min=0, max=1, help="Share of a chip that may be cloud, where that is known.")
    ] = 0.2,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a store. What is given here holds for every scene that is added.

    \b
    sattxt store create places/
    sattxt store add places/ S2A_MSIL2A_*.SAFE
    sattxt search places/ "solar farm" --geojson hits.geojson
    """
    from sattxt.scenes.store import Store

    made = Store.create(
        store,
        model.open(),
        grid=grid,
        grid_km=grid_km,
        chip=chip,
        stride=stride,
        gsd=gsd,
        bands=None if bands is None else [int(b) if b.isdigit() else b for b in inputs.names(bands)],
        stretch=inputs.numbers(stretch, "--stretch") if stretch and "," in stretch else stretch,
        store=stored,
        min_valid=min_valid,
        max_cloud=max_cloud,
    )
    output.report(made.info(), f"{made}: {made!r}", as_json=as_json, quiet=quiet)


@app.command(no_args_is_help=True)
@options.with_options
def add(
    store: StorePath,
    scenes: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENES...",
            show_default=False,
            help="GeoTIFFs, .SAFE folders or their zips, STAC items, folders, quoted globs.",
        ),
    ],
    offset: Annotated[
        float | None, typer.Option("--offset", help="Subtracted before the stretch. By default from the metadata.")
    ] = None,
    mask: Annotated[str | None, typer.Option("--mask", help="Cloud mask file of the scene.")] = None,
    crs: Annotated[str | None, typer.Option("--crs", help="Of scenes without: EPSG:32633.")] = None,
    bounds: Annotated[
        str | None, typer.Option("--bounds", help="Of images without: WEST,SOUTH,EAST,NORTH in --crs.")
    ] = None,
    item_id: Annotated[str | None, typer.Option("--item-id", help="Name of the one scene. Default: its own.")] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="local; task:I/N (the I-th of N jobs, from 0); ray, on a cluster.")
    ] = "local",
    device: options.Device = None,
    on_error: options.OnError = "raise",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what there is to do.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Embed scenes into a store. What is there already costs nothing: a stopped run goes on with the same command.

    \b
    sattxt store add places/ scenes/ --dry-run
    sattxt store add places/ scenes/ --engine task:$SLURM_ARRAY_TASK_ID/64

    Prints what was done; with --json one object: {"scenes", "done", "chips", "rows", "bytes", "seconds", "failures"}.
    """
    from dataclasses import asdict

    from sattxt.scenes.store import Store

    opened = Store.open(store)
    if device is not None:
        opened.model.to(device)
    report = opened.add(
        scenes,
        offset="auto" if offset is None else offset,
        mask=mask,
        crs=crs,
        bounds=None if bounds is None else inputs.numbers(bounds, "--bounds"),
        item_id=item_id,
        on_error=on_error,
        engine=engine,
        dry_run=dry_run,
        progress=output.show_progress(quiet),
    )
    for failure in report.failures:
        output.note(f"skipped: {failure.error}")
    size = f"{report.bytes / 1e6:.1f} MB"
    if dry_run:
        words = f"{report.scenes} scenes, {report.done} done; to do: at most {report.chips} chips, {size}, "
        words += f"about {output.duration(report.seconds)}"
    else:
        words = (
            f"{report.scenes} scenes, {report.done} were there; {report.rows} of {report.chips} chips kept, {size}, "
        )
        words += output.duration(report.seconds)
    output.report(asdict(report), words, as_json=as_json, quiet=quiet and not dry_run)
    if report.failures:
        output.note(f"{len(report.failures)} of {report.scenes} scenes skipped; the same command tries them again")
        raise typer.Exit(exits.SKIPPED)


@app.command(no_args_is_help=True)
def info(store: StorePath, as_json: options.Json = False) -> None:
    """Tell what a store holds."""
    from sattxt.scenes.store import Store

    facts = Store.open(store).info()
    if as_json:
        output.put_json(facts)
        return
    listed = {**facts, **facts.pop("settings")}
    output.put_facts({key: _in_words(value) for key, value in listed.items() if key != "settings"})


@app.command(no_args_is_help=True)
def check(
    store: StorePath,
    prune: Annotated[bool, typer.Option("--prune", help="Remove files older than a day that no item names.")] = False,
    as_json: options.Json = False,
) -> None:
    """Read every part of a store; name what is damaged, which the next 'add' of its scene makes anew.

    The exit code is 3 where something is damaged.
    """
    from dataclasses import asdict

    from sattxt.scenes.store import Store

    report = Store.open(store).check(prune=prune)
    if as_json:
        output.put_json(asdict(report))
    else:
        for line in report.damaged:
            output.put(f"damaged: {line}\n")
        counts = {"to try again": report.failed, "no item names": report.orphans, "removed": report.removed}
        more = "".join(f", {len(files)} {words}" for words, files in counts.items() if files)
        output.put(f"{report.items} items, {report.rows} chips, {len(report.damaged)} damaged{more}\n")
    if report.damaged:
        raise typer.Exit(exits.MODEL)


@app.command(no_args_is_help=True)
def index(store: StorePath, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Bring the index of a store up to date: many chips are then searched in milliseconds."""
    from dataclasses import asdict

    from sattxt.scenes.store import Store

    report = Store.open(store).index(progress=output.show_progress(quiet))
    words = f"{report.rows} chips: {report.added} added, {report.removed} removed"
    output.report(asdict(report), words, as_json=as_json, quiet=quiet)


@app.command(no_args_is_help=True)
def export(
    store: StorePath,
    out: Annotated[Path, typer.Option("--output", "--out", "-o", help="Folder to write.")],
    names: Annotated[Literal["sattxt", "majortom"], typer.Option("--names", help="Names of the columns.")] = "sattxt",
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a store for publishing: few large GeoParquet files and a STAC Collection."""
    from sattxt.scenes.store import Store

    files = Store.open(store).export(out, names=names, overwrite=overwrite, progress=output.show_progress(quiet))
    facts = {"output": str(out), "files": [file.name for file in files]}
    output.report(facts, f"{out}: {len(files)} files", as_json=as_json, quiet=quiet)


def _in_words(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
    return value
