"""``sattxt embed``: embeddings of image files, or of texts, into one file."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sattxt.cli import inputs, options, output, runtime
from sattxt.errors import InputError

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
def embed(
    images: options.Images = None,
    out: Annotated[
        Path | None, typer.Option("--output", "--out", "-o", help="File to write: .npy, .safetensors or .parquet.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Embed the texts of this file (one a line, or a .json list) instead.")
    ] = None,
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
    workers: options.Workers = None,
    stretch: options.Stretch = None,
    bands: options.Bands = None,
    band_names: options.BandNames = None,
    value_range: options.ValueRange = None,
    offset: options.Offset = None,
    max_pixels: options.MaxPixels = None,
    on_error: options.Errors = options.OnError.stop,
    as_json: options.Json = False,
    null: options.Null = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the embeddings of images, or of texts, to a file.

    \b
    sattxt embed tiles/ -o tiles.parquet
    sattxt embed --text captions.txt -o captions.npy

    Embeddings are float32 with length 1, one row an image in the order given. What belongs to each row (a path or a
    text) is the column "id" of a .parquet file, the entry "ids" (JSON) in the metadata of a .safetensors file with
    the one tensor "embeddings", and for .npy a second file, NAME.npy.json.
    """
    from sattxt.cli import vectors

    if out is None:
        raise InputError("no output: pass -o FILE.npy, FILE.safetensors or FILE.parquet")
    vectors.check_output(out)
    if (text is None) == (not images):
        raise InputError("pass either images or --text FILE")
    reading = options.image_options(
        stretch=stretch,
        bands=bands,
        band_names=band_names,
        value_range=value_range,
        offset=offset,
        max_pixels=max_pixels,
    )
    texts: list[str] = []
    paths: list[str] = []
    if text is not None:
        found = inputs.read_texts(text)
        if not isinstance(found, list) or not found:
            raise InputError(f"--text {text}: a list of texts is needed, at least one")
        texts = found
    else:
        paths = inputs.image_paths(images or [], null=null, keep_missing=on_error is options.OnError.skip)

    opened = runtime.open_model(
        model,
        revision=revision,
        local_files_only=offline,
        device=device,
        device_map=device_map,
        dtype=dtype.value,
        preprocess=preprocess,
    )
    skipped = runtime.Skipped()
    if texts:
        for file in bank or []:
            opened.import_labels(file)
        ids, parts = (
            texts,
            [opened.encode_text(texts, instruction=instruction, progress=runtime.show_progress(quiet=quiet))],
        )
    else:
        ids, parts = [], []
        run = partial(
            opened.encode_image, batch_size=batch_size, workers=workers, on_error=on_error.value, options=reading
        )
        try:
            for chunk, result in runtime.in_chunks(paths, run, quiet=quiet):
                for failure in result.failures:
                    skipped.add(chunk[failure.index], failure)
                ids += [chunk[index] for index in result.indices]
                parts.append(result)
        except (Exception, KeyboardInterrupt) as ended:
            done = getattr(ended, "completed", None)
            if done is not None:
                ids += paths[len(ids) : len(ids) + len(done)]
                parts.append(done)
            if ids:
                kept = out.with_name(f"{out.stem}.partial{out.suffix}")
                vectors.write(kept, ids, parts, model=repr(opened))
                sys.stderr.write(f"sattxt: stopped after {len(ids)} of {len(paths)} images, which are in {kept}\n")
            raise
    count, dim = vectors.write(out, ids, parts, model=repr(opened))
    if as_json:
        output.put_json({"output": str(out), "rows": count, "dim": dim, "skipped": skipped.count})
    elif not quiet:
        sys.stderr.write(f"{out}: {count} x {dim} float32\n")
    skipped.finish(len(paths))
