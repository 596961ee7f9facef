"""``sattxt segment``: an open-vocabulary label map of one image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sattxt.cli import inputs, options, output, runtime
from sattxt.errors import InputError

if TYPE_CHECKING:
    from sattxt.segment import Segmentation

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
def segment(
    image: Annotated[str, typer.Argument(show_default=False, help="Image of any size.")],
    out: Annotated[
        Path | None, typer.Option("--output", "--out", "-o", help="Picture with a legend to write (.png).")
    ] = None,
    label_map: Annotated[
        Path | None, typer.Option("--map", help="Label index of every pixel, as (H, W) array to write (.npy).")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option("--scores", help="Score of every label and pixel, as (K, H, W) array to write (.npy)."),
    ] = None,
    labels: options.Labels = None,
    label_set: options.LabelSet = None,
    window: Annotated[
        int | None, typer.Option("--window", min=8, help="Side of the windows: smaller is finer. Default: the model's.")
    ] = None,
    overlap: Annotated[float, typer.Option("--overlap", min=0, max=0.9, help="Share that windows overlap.")] = 0.5,
    as_json: options.Json = False,
    template: options.Templates = None,
    ensemble: options.Ensemble = False,
    instruction: options.Instruction = None,
    bank: options.Bank = None,
    model: options.Model = "sattxt-mini",
    revision: options.Revision = None,
    offline: options.Offline = False,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    dtype: options.Precision = options.Dtype.auto,
    preprocess: options.Preprocess = None,
    batch_size: options.BatchSize = None,
    stretch: options.Stretch = None,
    bands: options.Bands = None,
    band_names: options.BandNames = None,
    value_range: options.ValueRange = None,
    offset: options.Offset = None,
    max_pixels: options.MaxPixels = None,
    quiet: options.Quiet = False,
) -> None:
    """Draw a label map of an image, from labels of your own.

    \b
    sattxt segment scene.png --labels "water,forest,houses,bare soil" -o map.png

    Prints the share of the image that each label covers; with --json one object:
    {"path", "height", "width", "shares": {label: share}}.
    """
    if out is label_map is scores is None:
        raise InputError("no output: pass -o FILE.png, --map FILE.npy or --scores FILE.npy")
    for option, path, suffix in (("-o", out, ".png"), ("--map", label_map, ".npy"), ("--scores", scores, ".npy")):
        if path is not None and (path.suffix != suffix or not path.parent.is_dir()):
            raise InputError(f"{option} {path}: the name must end in {suffix}, in a folder that exists")
    banks = bank or []
    templates = inputs.templates(template, ensemble=ensemble)
    from_bank = inputs.brings_labels(banks, labels, label_set, template=templates, instruction=instruction)
    wanted = None if from_bank else inputs.labels(labels, label_set)
    reading = options.image_options(
        stretch=stretch,
        bands=bands,
        band_names=band_names,
        value_range=value_range,
        offset=offset,
        max_pixels=max_pixels,
    )
    inputs.image_paths([image])
    opened = runtime.open_model(
        model,
        revision=revision,
        local_files_only=offline,
        device=device,
        device_map=device_map,
        dtype=dtype.value,
        preprocess=preprocess,
    )
    imported = [opened.import_labels(file) for file in banks]
    found = opened.segment(
        image,
        imported[0] if from_bank else wanted,
        label_set=label_set,
        templates=templates,
        instruction=instruction,
        window=window,
        overlap=overlap,
        batch_size=batch_size,
        progress=runtime.show_progress(quiet=quiet),
        options=reading,
    )
    _save(found, out, label_map, scores)
    shares = found.shares
    if as_json:
        height, width = found.label_map.shape
        rounded = {label: round(share, output.DECIMALS) for label, share in shares.items()}
        output.put_json({"path": image, "height": height, "width": width, "shares": rounded})
    else:
        ranked = sorted(shares.items(), key=lambda item: -item[1])
        output.put_rows([(label, f"{100 * share:5.1f} %") for label, share in ranked], ("label", "share"))


def _save(found: Segmentation, out: Path | None, label_map: Path | None, scores: Path | None) -> None:
    import numpy as np

    from sattxt.io import atomic_write

    if out is not None:
        found.save_png(out)
    for path, array in ((label_map, found.label_map), (scores, found.scores)):
        if path is not None:
            with atomic_write(path) as file:
                np.save(file, array)
