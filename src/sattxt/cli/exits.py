"""Exit codes of the ``sattxt`` command, and which error leads to which."""

from __future__ import annotations

import errno

from sattxt import errors

DONE = 0
SKIPPED = 1
USAGE = 2
MODEL = 3
MACHINE = 4
BUG = 70
INTERRUPTED = 130
CLOSED_PIPE = 141

#: Shown under ``sattxt --help`` and in docs/cli.md.
MEANINGS = {
    DONE: "done",
    SKIPPED: "done, but some images could not be read and were skipped (--on-error skip)",
    USAGE: "wrong usage: an option, a label list, an image or a file that cannot be used",
    MODEL: "trouble with a model: unknown name, damaged weights, the hub, the text cache or a label bank",
    MACHINE: "this machine lacks something: an optional package, memory, disk space, a text encoder",
    BUG: "a fault in sattxt itself; the traceback is shown, please report it",
    INTERRUPTED: "interrupted (Ctrl-C)",
    CLOSED_PIPE: "the reader of standard output went away",
}

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
    errors.SatTxtError: USAGE,
}


def code_for(error: Exception) -> int:
    """The exit code that ``error`` leads to. ``BUG`` for anything not raised on purpose."""
    if isinstance(error, OSError) and not isinstance(error, errors.SatTxtError) and error.filename is not None:
        return MACHINE if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)) else USAGE
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), BUG)


def describe(error: Exception) -> str:
    """``error`` in one line."""
    if isinstance(error, OSError) and not isinstance(error, errors.SatTxtError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def epilog() -> str:
    """The table of exit codes, as typer keeps it (``\\b`` forbids rewrapping)."""
    rows = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())
    return f"\b\nExit codes:\n{rows}"
