"""Exit codes of the ``sattxt`` command, and which error leads to which."""

from __future__ import annotations

from sattxt import errors
from sattxt.cli.output import one_line

DONE, SKIPPED, USAGE, MODEL, MACHINE = range(5)
BUG, INTERRUPTED, CLOSED_PIPE = 70, 130, 141

#: Shown under ``sattxt --help`` and in docs/cli.md.
MEANINGS = {
    DONE: "done",
    SKIPPED: "done, but some images could not be read and were skipped (--on-error skip)",
    USAGE: "wrong usage: an option, a label list, an image or a file that cannot be used",
    MODEL: "trouble with a model or a store: unknown name, damaged files, the hub, the text cache or a label bank",
    MACHINE: "this machine lacks something: an optional package, memory, disk space, a text encoder",
    BUG: "a fault in sattxt itself; the traceback is shown, please report it",
    INTERRUPTED: "interrupted (Ctrl-C)",
    CLOSED_PIPE: "the reader of standard output went away",
}

#: The table of exit codes, as typer keeps it (``\b`` forbids rewrapping).
EPILOG = "\b\nExit codes:" + "".join(f"\n  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())

# The first kind that an error is of decides.
_CODES: dict[type[Exception], int] = {
    errors.MissingExtraError: MACHINE,
    errors.NotEnoughMemoryError: MACHINE,
    errors.DiskFullError: MACHINE,
    errors.TextEncoderUnavailableError: MACHINE,
    errors.UnknownModelError: MODEL,
    errors.WeightsError: MODEL,
    errors.HubError: MODEL,
    errors.CacheError: MODEL,
    errors.StoreMismatchError: USAGE,
    errors.StoreError: MODEL,
    errors.SatTxtError: USAGE,
}


def explain(error: Exception) -> tuple[int, str]:
    """The exit code that ``error`` leads to (``BUG`` for what was not raised on purpose), and the error in one line."""
    from sattxt.io import DISK_FULL

    if isinstance(error, OSError) and not isinstance(error, errors.SatTxtError):
        where = "standard output" if error.filename is None else error.filename
        if error.errno in DISK_FULL:
            return MACHINE, f"{where}: no space left on the disk"
        if error.filename is not None:
            return USAGE, f"{where}: {error.strerror}"
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), BUG)
    return code, one_line(str(error)) or type(error).__name__
