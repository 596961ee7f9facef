"""``sattxt eval``: measure a model on labelled images."""

from __future__ import annotations

import typer

from sattxt.evaluation.commands import compare, probe, retrieval, scale, segment, spectral, zero_shot

app = typer.Typer(
    help="Measure a model on labelled images.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)
app.command("zero-shot", no_args_is_help=True)(zero_shot.command)
app.command("retrieval", no_args_is_help=True)(retrieval.command)
app.command("probe", no_args_is_help=True)(probe.command)
app.command("segment", no_args_is_help=True)(segment.command)
app.command("spectral", no_args_is_help=True)(spectral.command)
app.command("scale", no_args_is_help=True)(scale.command)
app.command("compare", no_args_is_help=True)(compare.command)
