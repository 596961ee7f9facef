"""``sattxt classify``: zero-shot classification of image files."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from sattxt.cli import output
from sattxt.cli.images import ImageFlags
from sattxt.cli.options import BankFlags, ImageModelFlags, ReadFlags, with_options
from sattxt.errors import InputError

if TYPE_CHECKING:
    from sattxt.classify.results import ZeroShotResult

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
@with_options
def classify(
    labels: BankFlags,
    given: ImageFlags,
    model: ImageModelFlags,
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
) -> None:
    """Name what images show, from labels of your own.

    \b
    sattxt classify tile.png --labels "forest,river,city"
    sattxt classify tiles/ --label-set eurosat --csv > labels.csv
    find . -name '*.tif' -print0 | sattxt classify -0 - -l @labels.txt --stretch sentinel2 --json

    Probabilities are over the labels given; "score" is the cosine similarity. With --json every line is one object:
    {"path", "label", "top": [{"label", "prob", "score"}]}; --multi-label puts a list, "labels", in the place of
    "label"; an image that was skipped is {"path", "error"}. A label bank alone brings its labels with it.
    """
    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other; pass one")
    if threshold is not None and not multi_label:
        raise InputError("--threshold means nothing without --multi-label; pass both")
    prompting, options, paths = labels.prompting(), reading.image_options(), given.paths()
    opened = model.open()
    prompting |= labels.import_into(opened)
    classifier = opened.classifier(**prompting, multi_label=multi_label, progress=output.show_progress(given.quiet))
    limit = (0.5 if threshold is None else threshold) if multi_label else None
    show: Callable[[Answer], None]
    if as_json:
        show = partial(_show_json, top=top, multi_label=multi_label)
    elif as_csv:
        columns = [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("label", "prob", "score")]
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(["path", "labels" if multi_label else "label", *columns, "error"])
        show = partial(_show_csv, rows=rows, top=top)
    else:
        widths = [max(map(output.width, texts)) for texts in (paths, classifier.labels)]
        show = partial(_show_line, widths=widths, top=None if multi_label else top)

    for chunk, batch in given.chunks(paths, partial(classifier, options=options)):
        answers = [Answer(path) for path in chunk]
        for failure in batch.failures:
            answers[failure.index] = Answer(chunk[failure.index], error=output.one_line(failure.error))
        for index, result in zip(batch.indices, batch, strict=True):
            answers[index] = _answer(chunk[index], result, limit)
        for answer in answers:
            show(answer)
    given.finish(len(paths))


class Answer(NamedTuple):
    """What one image was found to show.

    chosen: one label, or any number in multi-label mode. ranked: every label with its probability and its cosine
    similarity, best first. error: why it was skipped, if it was.
    """

    path: str
    chosen: Sequence[str] = ()
    ranked: Sequence[tuple[str, float, float]] = ()
    error: str = ""


def _answer(path: str, result: ZeroShotResult, threshold: float | None) -> Answer:
    """The labels that answer for ``path``: the best one, or with a threshold those that reach it."""
    scores = dict(zip(result.labels, result.scores.tolist(), strict=True))
    ranked = [(label, prob, scores[label]) for label, prob in result.top(len(result.labels))]
    return Answer(path, [result.label] if threshold is None else result.above(threshold), ranked)


def _show_line(answer: Answer, widths: Sequence[int], top: int | None) -> None:
    """The ``top`` best labels, else the chosen ones, in aligned columns; the chosen bold where stdout is a terminal."""
    if answer.error:
        return  # it is on stderr already
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    cells = [output.pad(answer.path, widths[0])]
    for rank, (label, prob, _) in enumerate(answer.ranked):
        chosen = label in answer.chosen
        if chosen if top is None else rank < top:
            text = f"{output.pad(label, widths[1])} {prob:.2f}"
            cells.append(typer.style(text, bold=True) if bold and chosen else text)
    output.put("  ".join(cells if len(cells) > 1 else [*cells, "-"]) + "\n")


def _show_json(answer: Answer, top: int, multi_label: bool) -> None:
    """``{"path", "label" (or "labels"), "top": [{"label", "prob", "score"}, ...]}``, or ``{"path", "error"}``."""
    if answer.error:
        output.put_json({"path": answer.path, "error": answer.error})
        return
    chosen: dict[str, Any] = {"labels": answer.chosen} if multi_label else {"label": answer.chosen[0]}
    ranked = [
        {"label": label, "prob": round(prob, output.DECIMALS), "score": round(score, output.DECIMALS)}
        for label, prob, score in answer.ranked[:top]
    ]
    output.put_json({"path": answer.path, **chosen, "top": ranked})


def _show_csv(answer: Answer, rows: Any, top: int) -> None:
    """One row; the labels of a multi-label answer are joined with ``;``."""
    cells = [answer.path, ";".join(answer.chosen)]
    for label, prob, score in answer.ranked[:top]:
        cells += [label, f"{prob:.{output.DECIMALS}f}", f"{score:.{output.DECIMALS}f}"]
    rows.writerow([*cells, *[""] * (2 + 3 * top - len(cells)), answer.error])
