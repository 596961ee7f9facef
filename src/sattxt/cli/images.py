"""Image arguments: the files that they name, handed to the model in chunks, and those that were skipped."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from sattxt.cli import exits, options, output
from sattxt.errors import ImageError, InputError

CHUNK = 512  # images handed to the model at a time: results appear as the job runs, and memory stays bounded


@dataclass(kw_only=True)
class ImageFlags:
    """The images of one call, and how to go through them."""

    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES...",
            show_default=False,
            help="Files, quoted globs ('tiles/**/*.png'), folders (searched recursively), or - for a list on stdin.",
        ),
    ] = None
    batch_size: options.BatchSize = None
    workers: options.Workers = None
    on_error: options.OnError = "raise"
    null: Annotated[bool, typer.Option("--null", "-0", help="Names on stdin end with NUL (find -print0).")] = False
    quiet: options.Quiet = False
    skipped: int = field(default=0, init=False)

    def paths(self) -> list[str]:
        """The files that the arguments name; one that does not exist is kept where images may be skipped."""
        return image_paths(self.images or [], null=self.null, keep_missing=self.on_error == "skip")

    def chunks(self, paths: Sequence[str], encode: Callable[..., Any]) -> Iterator[tuple[list[str], Any]]:
        """``(chunk, encode(chunk))`` for consecutive slices of ``paths``, with one progress bar on stderr.

        Images that could not be read (the result's ``failures``) are reported on stderr. The bar shows on a terminal
        only, and not before a second has passed.
        """
        from tqdm import tqdm

        with tqdm(total=len(paths), unit="image", disable=not output.show_progress(self.quiet), delay=1) as bar:
            for start in range(0, len(paths), CHUNK):
                chunk = list(paths[start : start + CHUNK])
                found = encode(chunk, batch_size=self.batch_size, workers=self.workers, on_error=self.on_error)
                for failure in found.failures:
                    path, reason = chunk[failure.index], output.one_line(failure.error)
                    output.note(f"skipped: {reason if path in reason else f'{path}: {reason}'}")
                self.skipped += len(found.failures)
                yield chunk, found
                bar.update(len(chunk))

    def finish(self, total: int) -> None:
        """End the command with the exit code for skipped images, if there were any."""
        if self.skipped:
            output.note(f"{self.skipped} of {total} images skipped")
            raise typer.Exit(exits.SKIPPED)


def image_paths(arguments: Sequence[str], *, null: bool = False, keep_missing: bool = False) -> list[str]:
    """The files that ``arguments`` name, in their order.

    Args:
        arguments: files, globs (``**`` too), folders (searched recursively), ``-`` for a list on stdin.
        null: names on stdin end with NUL instead of a newline.
        keep_missing: a name without a file stays in the list (to be reported with the others that cannot be read).

    Raises:
        ImageError: a file does not exist, or a folder or glob holds no image.
        InputError: no argument, or ``-`` twice.
    """
    if not arguments:
        raise InputError("no images: name files, globs, folders, or - to read a list from standard input")
    if arguments.count("-") > 1:
        raise InputError("'-' (standard input) can be named once")
    paths = [path for argument in arguments for path in _expand(argument, null)]
    if not paths:
        raise InputError("standard input named no images")
    missing = [] if keep_missing else [path for path in paths if not os.path.exists(path)]
    if missing:
        raise ImageError(f"{missing[0]}: no such file")
    return paths


def _expand(argument: str, null: bool) -> list[str]:
    if argument == "-":
        data = sys.stdin.buffer.read()
        return [os.fsdecode(name) for name in (data.split(b"\0") if null else data.splitlines()) if name.strip()]
    if os.path.isdir(argument):
        return _in_folder(argument)
    if os.path.lexists(argument) or not glob.has_magic(argument):
        return [argument]
    matches = sorted(path for path in glob.iglob(argument, recursive=True) if not os.path.isdir(path))
    if not matches:
        raise ImageError(f"{argument}: no file matches this pattern")
    return matches


def _in_folder(folder: str) -> list[str]:
    """Image files below ``folder``, sorted; hidden files and folders are left out."""
    from sattxt.data.archive import IMAGE_SUFFIXES, is_image

    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(parent, name) for name in sorted(files) if is_image(name) and not name.startswith(".")]
    if not found:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise ImageError(f"{folder}: this folder holds no image (files ending in {suffixes})")
    return found
