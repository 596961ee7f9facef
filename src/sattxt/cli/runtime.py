"""What the subcommands that run a model share: opening it, going through many images, telling what was skipped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer

from sattxt.cli import exits

#: Images handed to the model at a time: results appear as the job runs, and memory stays bounded.
CHUNK = 512


def open_model(name: str, **options: Any) -> Any:
    """The :class:`sattxt.SatTxt` that ``--model`` names. Tests put another model here."""
    from sattxt.model import SatTxt

    return SatTxt.from_pretrained(name, **options)


def show_progress(*, quiet: bool) -> bool:
    """Whether to draw progress bars: on a terminal, unless told not to."""
    return not quiet and sys.stderr.isatty()


def in_chunks(paths: Sequence[str], run: Callable[[list[str]], Any], *, quiet: bool) -> Iterator[tuple[list[str], Any]]:
    """``(paths, run(paths))`` for consecutive slices of ``paths``, with one progress bar on stderr.

    The bar shows on a terminal only, and not before a second has passed.
    """
    from tqdm import tqdm

    with tqdm(total=len(paths), unit="image", disable=not show_progress(quiet=quiet), delay=1) as bar:
        for start in range(0, len(paths), CHUNK):
            chunk = list(paths[start : start + CHUNK])
            yield chunk, run(chunk)
            bar.update(len(chunk))


class Skipped:
    """Images that could not be read: told on stderr one by one, and counted."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, path: str, failure: Any) -> str:
        """Tell of one failure (an item of a result's ``failures``); returns the reason in one line."""
        self.count += 1
        reason = " ".join(str(failure.error).split())
        sys.stderr.write(f"sattxt: skipped: {reason if path in reason else f'{path}: {reason}'}\n")
        return reason

    def finish(self, total: int) -> None:
        """End the command with the exit code for skipped images, if there were any."""
        if self.count:
            sys.stderr.write(f"sattxt: {self.count} of {total} images skipped\n")
            raise typer.Exit(exits.SKIPPED)
