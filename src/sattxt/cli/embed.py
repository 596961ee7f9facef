"""``sattxt embed``: embeddings of image files, or of texts, into one file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sattxt.cli import inputs, options, output
from sattxt.cli.images import ImageFlags
from sattxt.errors import InputError

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
@options.with_options
def embed(
    given: ImageFlags,
    model: options.ImageModelFlags,
    reading: options.ReadFlags,
    out: Annotated[
        Path | None, typer.Option("--output", "--out", "-o", help="File to write: .npy, .safetensors or .parquet.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Embed the texts of this file (one a line, or a .json list) instead.")
    ] = None,
    instruction: options.Instruction = None,
    bank: options.Bank = None,
    as_json: options.Json = False,
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
    if (text is None) == (not given.images):
        raise InputError("pass either images or --text FILE")
    image_options = reading.image_options()
    texts = None if text is None else inputs.read_texts(text)
    if texts is not None and (isinstance(texts, dict) or not texts):
        raise InputError(f"--text {text}: a list of texts is needed, at least one")
    paths = given.paths() if texts is None else []

    opened = model.open()
    ids: list[str] = []
    parts: list[Any] = []
    try:
        if texts is not None:
            for file in bank or []:
                opened.import_labels(file)
            parts.append(opened.encode_text(texts, instruction=instruction, progress=output.show_progress(given.quiet)))
            ids += texts
        for chunk, found in given.chunks(paths, partial(opened.encode_image, options=image_options)):
            ids += [chunk[index] for index in found.indices]
            parts.append(found)
    except (Exception, KeyboardInterrupt) as ended:
        done = getattr(ended, "completed", None)
        if done is not None:
            ids += done.sources
            parts.append(done)
        if ids:
            kept = out.with_name(f"{out.stem}.partial{out.suffix}")
            vectors.write(kept, ids, parts, model=repr(opened))
            output.note(f"stopped after {len(ids)} of {len(paths)} images, which are in {kept}")
        raise
    count, dim = vectors.write(out, ids, parts, model=repr(opened))
    if as_json:
        output.put_json({"output": str(out), "rows": count, "dim": dim, "skipped": given.skipped})
    elif not given.quiet:
        output.say(f"{out}: {count} x {dim} float32")
    given.finish(len(paths))
