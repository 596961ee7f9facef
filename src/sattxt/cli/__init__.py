"""The ``sattxt`` command: one module a subcommand, imported only when that subcommand runs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; ends the process with one of the exit codes of :mod:`sattxt.cli.exits`."""
    from sattxt.cli.app import run

    sys.exit(run())
