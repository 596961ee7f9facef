"""The root of the command line: which subcommands exist, and what happens when one fails.

A subcommand's module is imported when it is called, so ``sattxt --help`` loads neither torch nor numpy.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

import sattxt
from sattxt.cli import exits, output
from sattxt.errors import MissingExtraError

#: Where a subcommand lives (a module with a typer ``app``), its line in ``sattxt --help``, the extra it needs.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "classify": ("sattxt.cli.classify", "Name what images show, from labels of your own.", ""),
    "embed": ("sattxt.cli.embed", "Write the embeddings of images, or of texts, to a file.", ""),
    "segment": ("sattxt.cli.segment", "Draw a label map of an image, from labels of your own.", ""),
    "store": ("sattxt.cli.store", "Scenes into a store that is searched by words, and its upkeep.", "geo"),
    "search": ("sattxt.cli.search", "Find the chips of a store that match words, pictures or examples.", "geo"),
    "heatmap": ("sattxt.cli.heatmap", "Map how probable it is that a text says what is there.", "geo"),
    "change": ("sattxt.cli.change", "Find where the ground changed between two periods.", "geo"),
    "labels": ("sattxt.cli.labels", "Build and inspect label banks; list the label sets.", ""),
    "models": ("sattxt.cli.models", "List models: size, licence, where cached; verify them.", ""),
    "convert": ("sattxt.cli.convert", "Turn the published weights' files into a model directory.", ""),
    "optimize": ("sattxt.cli.optimize", "Write a model that OpenVINO runs faster on a CPU.", "openvino"),
    "demo": ("sattxt.cli.demo", "Search and classify NASA's Blue Marble, offline.", "demo"),
    "eval": ("sattxt.cli.eval", "Measure a model on labelled images.", "eval"),
    "train": ("sattxt.cli.train", "Train a model.", "train"),
}


class _LazyGroup(TyperGroup):
    """A group whose subcommands are modules, imported on demand."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _load(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words, _) in COMMANDS.items()])

    def invoke(self, ctx: Any) -> None:
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            output.note("interrupted")
            raise typer.Exit(exits.INTERRUPTED) from None
        except BrokenPipeError:
            _discard_output()
            raise typer.Exit(exits.CLOSED_PIPE) from None
        except Exception as error:
            if hasattr(error, "exit_code"):  # a usage error, which typer shows, or an exit on purpose
                raise
            code, words = exits.explain(error)
            if code == exits.BUG or ctx.params.get("debug"):
                traceback.print_exception(error, file=sys.stderr)
            output.note(f"error: {words}")
            try:
                sys.stdout.flush()
            except OSError:
                _discard_output()
            raise typer.Exit(code) from error


def _discard_output() -> None:
    """Python flushes stdout once more at exit: give it somewhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    name="sattxt",
    cls=_LazyGroup,
    help="RGB satellite tiles and text in one embedding space.",
    epilog=exits.EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sattxt {sattxt.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="SATTXT_DEBUG", help="Show a traceback with every error.")
    ] = False,
) -> None:
    pass


def run(arguments: list[str] | None = None) -> int:
    """Run the command line on ``arguments`` (the process's own by default) and return the exit code."""
    for stream, on_error in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if hasattr(stream, "reconfigure"):  # file names of any encoding pass through unharmed
            stream.reconfigure(encoding="utf-8", errors=on_error)
    warnings.showwarning, logging.lastResort = output.show_warning, output.Notes(logging.WARNING)
    root: Any = get_command(app)
    root.commands = dict.fromkeys(COMMANDS)  # their names, for the help and for "did you mean"
    try:
        root(args=arguments, prog_name="sattxt")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else exits.DONE
    return exits.DONE


def _load(name: str) -> Any:
    """The subcommand, from its module."""
    module, _, extra = COMMANDS[name]
    try:
        command = get_command(import_module(module).app)
    except ModuleNotFoundError as error:
        if not extra or error.name is None or error.name.split(".")[0] == "sattxt":
            raise
        raise MissingExtraError(extra, error.name, f"'sattxt {name}'") from error
    command.name = name
    return command
