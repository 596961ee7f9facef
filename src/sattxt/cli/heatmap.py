"""``sattxt heatmap``: where a store or a scene shows what a text says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sattxt.cli import inputs, options, output
from sattxt.errors import InputError

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
@options.with_options
def heatmap(
    source: Annotated[
        str,
        typer.Argument(metavar="STORE|SCENE", show_default=False, help="A store, or a scene: GeoTIFF, .SAFE, ..."),
    ],
    text: Annotated[str, typer.Argument(show_default=False, help="What places should show.")],
    where: options.WhereFlags,
    out: Annotated[Path, typer.Option("--output", "--out", "-o", help="Cloud-optimised GeoTIFF to write (.tif).")],
    png: Annotated[Path | None, typer.Option("--png", help="Picture to write (.png).")] = None,
    template: Annotated[
        list[str] | None, typer.Option("--template", help="Prompt template with {} for the text; several are averaged.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Of a scene: a model's name, a model directory, or a hub id.")
    ] = "sattxt-mini",
    device: options.Device = None,
    chip: Annotated[
        int | None, typer.Option("--chip", min=8, help="Of a scene: side of the squares looked at, pixels.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, help="Of a scene: judge whole squares, so many pixels apart.")
    ] = None,
    bands: Annotated[
        str | None, typer.Option("--bands", help="Of a scene: red, green, blue by name (B04,B03,B02) or number.")
    ] = None,
    stretch: Annotated[
        str | None, typer.Option("--stretch", help="Of a scene: to 8 bits from more: sentinel2, percentile, LOW,HIGH.")
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Map how probable it is, at every place, that a text says what is there.

    \b
    sattxt heatmap places/ "solar farm" --after 2024 -o heat.tif
    sattxt heatmap scene.tif "river" -o river.tif --png river.png

    A store gives a pixel a chip from its embeddings, one file a UTM zone; a scene is read, and gives finer pixels.
    Beside each GeoTIFF lies a .qml by which QGIS draws it. With --json one object: {"files", "pixels", "share"}.
    """
    for option, path, suffixes in (("-o", out, (".tif", ".tiff")), ("--png", png, (".png",))):
        inputs.check_output(option, path, *suffixes, overwrite=overwrite)
    from sattxt.scenes.store import is_store

    if is_store(source):
        found = _of_store(source, text, where, template, device, {"chip": chip, "stride": stride, "bands": bands})
    else:
        if given := [name for name, value in where.filters().items() if value is not None]:
            raise InputError(f"--{given[0]} chooses chips of a store; leave it out for a scene")
        from sattxt.model import SatTxt
        from sattxt.scenes.heatmap import heatmap_scene

        found = heatmap_scene(
            SatTxt.from_pretrained(model, device=device),
            source,
            text,
            chip=chip,
            stride=stride,
            templates=template or None,
            bands=None if bands is None else [int(b) if b.isdigit() else b for b in inputs.names(bands)],
            stretch=inputs.numbers(stretch, "--stretch") if stretch and "," in stretch else stretch,
            progress=output.show_progress(quiet),
        )
    files = found.save_cog(out)
    if png is not None:
        files += found.save_png(png)
    pixels = sum(int((layer.probs == layer.probs).sum()) for layer in found.layers)
    likely = sum(int((layer.probs >= 0.5).sum()) for layer in found.layers)
    share = round(likely / pixels, output.DECIMALS)
    words = f"{', '.join(map(str, files))}: {100 * share:.1f} % of {pixels} pixels are at 0.5 or above"
    facts = {"files": [str(file) for file in files], "pixels": pixels, "share": share}
    output.report(facts, words, as_json=as_json, quiet=quiet)


def _of_store(
    source: str, text: str, where: options.WhereFlags, template: list[str] | None, device: str | None, scene: Any
) -> Any:
    if given := [name for name, value in scene.items() if value is not None]:
        raise InputError(f"--{given[0]} is for a scene; a store has its own")
    from sattxt.scenes.store import Store

    store = Store.open(source)
    if device is not None:
        store.model.to(device)
    return store.heatmap(text, templates=template or None, **where.filters())
