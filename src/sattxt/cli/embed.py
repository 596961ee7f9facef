"""``sattxt embed``: embeddings of image files, or of texts, into one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import sattxt
from sattxt.cli import inputs, options, output
from sattxt.errors import InputError, SatTxtError, import_extra

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
@options.with_options
def embed(
    given: options.ImageFlags,
    model: options.ModelFlags,
    reading: options.ReadFlags,
    out: Annotated[
        Path, typer.Option("--output", "--out", "-o", help="File to write: .npy, .safetensors or .parquet.")
    ],
    text: Annotated[
        str | None, typer.Option("--text", help="Embed the texts of this file (one a line, or a .json list) instead.")
    ] = None,
    instruction: options.Instruction = None,
    bank: options.Bank = None,
    overwrite: options.Overwrite = False,
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
    inputs.check_output("-o", out, ".npy", ".safetensors", ".parquet", overwrite=overwrite)
    if out.suffix == ".parquet":
        import_extra("pyarrow.parquet", "geo", "pyarrow", "writing .parquet")  # refused now, not after an hour of work
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
    except (Exception, KeyboardInterrupt):
        if ids:
            kept = out.with_name(f"{out.stem}.partial{out.suffix}")
            with suppress(SatTxtError):  # why it stopped is to be told, not that there is no room left either
                _write(kept, ids, parts, repr(opened))
                output.note(f"stopped after {len(ids)} of {len(paths)} images, which are in {kept}")
        raise
    count, dim = _write(out, ids, parts, repr(opened))
    facts = {"output": str(out), "rows": count, "dim": dim, "skipped": given.skipped}
    output.report(facts, f"{out}: {count} x {dim} float32", as_json=as_json, quiet=given.quiet)
    given.finish(len(paths))


def _write(path: Path, ids: Sequence[str], parts: Sequence[Any], model: str) -> tuple[int, int]:
    """Write the rows of ``parts`` (each (n, D) float32), named by ``ids``, whole or not at all; returns (N, D)."""
    import numpy as np

    from sattxt.io import atomic_write

    rows = np.ascontiguousarray(np.concatenate(parts) if parts else np.zeros((0, 0)), dtype=np.float32)
    facts = {"model": model, "sattxt": sattxt.__version__}
    with atomic_write(path) as file:
        if path.suffix == ".npy":
            np.save(file, rows)
        elif path.suffix == ".safetensors":
            from safetensors.numpy import save

            file.write(save({"embeddings": rows}, metadata={**facts, "ids": json.dumps(list(ids))}))
        else:
            import pyarrow as arrow
            from pyarrow import parquet

            names = arrow.array([name.encode("utf-8", "backslashreplace").decode() for name in ids])
            column = arrow.FixedSizeListArray.from_arrays(arrow.array(rows.reshape(-1)), max(rows.shape[1], 1))
            table = arrow.table({"id": names, "embedding": column}).replace_schema_metadata(facts)
            parquet.write_table(table, file, compression="zstd")
    if path.suffix == ".npy":
        with atomic_write(path.with_name(path.name + ".json")) as file:
            file.write(json.dumps({**facts, "ids": list(ids)}, ensure_ascii=True, indent=1).encode())
    return rows.shape[0], rows.shape[1]
