"""``sattxt segment``: an open-vocabulary label map of one image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sattxt.cli import inputs, options, output
from sattxt.errors import InputError

if TYPE_CHECKING:
    from sattxt.segment import Segmentation

#: What a map of a scene is written as, besides a picture.
_ON_GROUND = (".tif", ".tiff", ".geojson", ".parquet", ".gpkg", ".fgb")

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
@options.with_options
def segment(
    image: Annotated[str, typer.Argument(show_default=False, help="Image of any size.")],
    labels: options.BankFlags,
    model: options.ModelFlags,
    reading: options.ReadFlags,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "--out",
            "-o",
            help="Picture with a legend (.png); of a scene a map (.tif) or areas (.geojson, .parquet, .gpkg, .fgb).",
        ),
    ] = None,
    label_map: Annotated[
        Path | None, typer.Option("--map", help="Label index of every pixel, as (H, W) array to write (.npy).")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option("--scores", help="Score of every label and pixel, as (K, H, W) array to write (.npy)."),
    ] = None,
    window: Annotated[
        int | None, typer.Option("--window", min=8, help="Side of the windows: smaller is finer. Default: the model's.")
    ] = None,
    gsd: Annotated[
        float | None, typer.Option("--gsd", help="Metres a pixel, which choose the window where none is given.")
    ] = None,
    overlap: Annotated[float, typer.Option("--overlap", min=0, max=0.9, help="Share that windows overlap.")] = 0.5,
    no_legend: Annotated[
        bool, typer.Option("--no-legend", help="Draw the picture at the image's own size, with no legend beside it.")
    ] = False,
    overwrite: options.Overwrite = False,
    batch_size: options.BatchSize = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw a label map of an image, from labels of your own.

    \b
    sattxt segment scene.png --labels "water,forest,houses,bare soil" -o map.png
    sattxt segment S2B_MSIL2A_....SAFE --labels "water,forest,houses,bare soil" -o map.gpkg

    A scene (GeoTIFF, .SAFE, STAC item) of any size is read and written in strips, at its place on the ground. Prints
    the share of the image that each label covers; with --json one object:
    {"path", "height", "width", "shares": {label: share}}.
    """
    if out is label_map is scores is None:
        raise InputError("no output: pass -o FILE.png, --map FILE.npy or --scores FILE.npy")
    on_ground = out is not None and out.suffix in _ON_GROUND
    if on_ground and (label_map or scores or no_legend):
        raise InputError(f"-o {out}: --map, --scores and --no-legend go with a .png, or without -o")
    for option, path, suffixes in (
        ("-o", out, (".png", *_ON_GROUND)), ("--map", label_map, (".npy",)), ("--scores", scores, (".npy",)),
    ):  # fmt: skip
        inputs.check_output(option, path, *suffixes, overwrite=overwrite)
    prompting, image_options = labels.prompting(), reading.image_options()
    if not on_ground:
        inputs.image_paths([image])
    opened = model.open()
    asked: dict[str, Any] = {
        **(prompting | labels.import_into(opened)),
        "window": window,
        "gsd": gsd,
        "overlap": overlap,
        "batch_size": batch_size,
        "progress": output.show_progress(quiet),
    }
    found: Any
    if on_ground:
        from sattxt.images.options import ImageOptions
        from sattxt.scenes.segmentation import segment_scene

        read = image_options or ImageOptions()
        if read not in (ImageOptions(), ImageOptions(stretch=read.stretch, bands=read.bands, offset=read.offset)):
            raise InputError(
                f"-o {out}: of a scene's options --stretch, --bands and --offset count; leave the others out"
            )
        found = segment_scene(opened, image, **asked, stretch=read.stretch, bands=read.bands, offset=read.offset)
        found.save(out, overwrite=overwrite)
    else:
        found = opened.segment(image, **asked, options=image_options)
        _save(found, out, label_map, scores, legend=not no_legend)
    if as_json:
        height, width = found.label_map.shape
        shares = {label: round(share, output.DECIMALS) for label, share in found.shares.items()}
        output.put_json({"path": image, "height": height, "width": width, "shares": shares})
    else:
        ranked = sorted(found.shares.items(), key=lambda item: -item[1])
        output.put_rows([(label, f"{100 * share:5.1f} %") for label, share in ranked], ("label", "share"))


def _save(found: Segmentation, out: Path | None, label_map: Path | None, scores: Path | None, *, legend: bool) -> None:
    """Write what was asked for of a picture's map."""
    import numpy as np

    from sattxt.io import atomic_write

    if out is not None:
        found.save_png(out, legend=legend)
    for path, array in ((label_map, found.label_map), (scores, found.scores)):
        if path is not None:
            with atomic_write(path) as file:
                np.save(file, array)
