"""``sattxt classify``: zero-shot classification of image files."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sattxt.cli import output
from sattxt.cli.options import BankFlags, ImageFlags, ModelFlags, ReadFlags, with_options
from sattxt.errors import InputError
from sattxt.labels.prompts import NONE_OF_THESE

if TYPE_CHECKING:
    from sattxt.classify.results import ZeroShotResult

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
@with_options
def classify(
    labels: BankFlags,
    given: ImageFlags,
    model: ModelFlags,
    reading: ReadFlags,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Labels shown per image.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Every label that applies, each judged by itself.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            min=0,
            max=1,
            help="With --multi-label: probability from which a label applies. Default 0.5.",
        ),
    ] = None,
    none_of_these: Annotated[
        bool,
        typer.Option(
            "--none-of-these", help=f"Answer '{NONE_OF_THESE}' where no label fits, for models that can tell."
        ),
    ] = False,
) -> None:
    """Name what images show, from labels of your own.

    \b
    sattxt classify tile.png --labels "forest,river,city"
    sattxt classify tiles/ --label-set eurosat --csv > labels.csv
    find . -name '*.tif' -print0 | sattxt classify -0 - -l @labels.txt --stretch sentinel2 --json

    Probabilities are over the labels given, and say which fits best; "fit", in [0, 1], is how sure it is that any of
    them fits. Below 0.5 a line ends in "weak match". "score" is the cosine similarity. With --json every line is one
    object: {"path", "label", "fit", "fits", "top": [{"label", "prob", "score"}]}; --multi-label puts a list, "labels",
    in the place of "label"; an image that was skipped is {"path", "error"}. A label bank alone brings its labels.
    """
    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other; pass one")
    if threshold is not None and not multi_label:
        raise InputError("--threshold means nothing without --multi-label; pass both")
    prompting, options, paths = labels.prompting(), reading.image_options(), given.paths()
    opened = model.open()
    if none_of_these and opened.fit is None:
        raise InputError(f"--none-of-these: {model.model} cannot tell whether a label fits; leave it out")
    prompting |= labels.import_into(opened)
    classifier = opened.classifier(**prompting, multi_label=multi_label, progress=output.show_progress(given.quiet))
    if as_json:
        show: Any = partial(_show_json, top=top)
    elif as_csv:
        columns = [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("label", "prob", "score")]
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(["path", "labels" if multi_label else "label", *columns, "fit", "error"])
        show = partial(_show_csv, rows=rows, top=top)
    else:
        widths = [max(map(output.width, texts)) for texts in (paths, classifier.labels)]
        show = partial(_show_line, widths=widths, top=top)

    limit = (0.5 if threshold is None else threshold) if multi_label else None
    for chunk, batch in given.chunks(paths, partial(classifier, options=options)):
        answers = {f.index: {"path": chunk[f.index], "error": output.one_line(f.error)} for f in batch.failures}
        for index, result in zip(batch.indices, batch, strict=True):
            answers[index] = {"path": chunk[index]} | _answer(result, limit, none_of_these=none_of_these)
        for index in sorted(answers):
            show(answers[index])
        sys.stdout.flush()
    given.finish(len(paths))


def _answer(result: ZeroShotResult, threshold: float | None, *, none_of_these: bool) -> dict[str, Any]:
    """What an image shows: the best ``label`` (or with a threshold the ``labels`` that reach it), ``fit`` where the
    model can tell, and in ``top`` every label with its probability and cosine similarity, best first.
    """
    scores = dict(zip(result.labels, result.scores.tolist(), strict=True))
    refused = none_of_these and not result.fits
    answer: dict[str, Any] = {"label": NONE_OF_THESE if refused else result.label}
    if threshold is not None:
        answer = {"labels": [] if refused else result.above(threshold)}
    if result.fit is not None:
        answer |= {"fit": round(result.fit, output.DECIMALS), "fits": result.fits}
    answer["top"] = [
        {"label": label, "prob": round(prob, output.DECIMALS), "score": round(scores[label], output.DECIMALS)}
        for label, prob in result.top(len(scores))
    ]
    return answer


def _show_line(answer: dict[str, Any], widths: Sequence[int], top: int) -> None:
    """The ``top`` best labels, or of a multi-label answer the chosen ones (where none is, the best, in brackets), in
    aligned columns; the chosen are bold where stdout is a terminal. An image that was skipped is on stderr already.
    """
    if "error" in answer:
        return
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    chosen = answer["labels"] if "labels" in answer else [answer["label"]]
    cells = [output.pad(answer["path"], widths[0])]
    if chosen == [NONE_OF_THESE]:
        cells.append(typer.style(NONE_OF_THESE, bold=True) if bold else NONE_OF_THESE)
    rows = answer["top"][:top]
    if "labels" in answer:
        rows = [row for row in answer["top"] if row["label"] in chosen] or answer["top"][:1]
    for row in rows:
        text = f"{output.pad(row['label'], widths[1])} {row['prob']:.2f}"
        if not chosen:
            text = f"({text})"
        cells.append(typer.style(text, bold=True) if bold and row["label"] in chosen else text)
    if answer.get("fits") is False:
        cells.append("weak match")
    output.put("  ".join(cells) + "\n")


def _show_json(answer: dict[str, Any], top: int) -> None:
    """``{"path", "label" or "labels", "fit", "top": [{"label", "prob", "score"}, ...]}``, or ``{"path", "error"}``."""
    output.put_json(answer | {"top": answer["top"][:top]} if "top" in answer else answer)


def _show_csv(answer: dict[str, Any], rows: Any, top: int) -> None:
    """One row; the labels of a multi-label answer are joined with ``;``."""
    cells = [answer["path"], ";".join(answer.get("labels") or [answer.get("label", "")])]
    for row in answer.get("top", ())[:top]:
        cells += [row["label"], *(f"{row[key]:.{output.DECIMALS}f}" for key in ("prob", "score"))]
    fit = f"{answer['fit']:.{output.DECIMALS}f}" if "fit" in answer else ""
    rows.writerow([*cells, *[""] * (2 + 3 * top - len(cells)), fit, answer.get("error", "")])
