"""``sattxt eval zero-shot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sattxt.errors import InputError
from sattxt.evaluation.commands.setup import LabelSet, Names, Setup, Templates, measuring, write_csv
from sattxt.evaluation.phrasings import phrasings
from sattxt.evaluation.zero_shot import zero_shot

Prompts = Annotated[
    Path | None,
    typer.Option("--prompts", help="A .json object of class to phrases: measure with one phrase a class at a time."),
]

CentreScores = Annotated[
    bool,
    typer.Option(
        "--centre-scores",
        help="Subtract each label's mean score over the evaluated tiles first. Transductive: it uses the test tiles, "
        "unlabelled, and assumes that classes are about equally frequent.",
    ),
]

Together = Annotated[
    bool,
    typer.Option(
        "--together",
        help="Classify the evaluated tiles together: each by its text scores and by the tiles like it. Transductive: "
        "it uses the test tiles, unlabelled.",
    ),
]


@measuring
def command(
    setup: Setup,
    templates: Templates = None,
    label_set: LabelSet = None,
    names: Names = None,
    prompts: Prompts = None,
    centre_scores: CentreScores = False,
    together: Together = False,
) -> None:
    """Classify images by their classes' names: accuracy, calibration, confusion; mAP and F1 where labels are several.

    \b
    sattxt eval zero-shot --data tiles/ --json result.json
    sattxt eval zero-shot --data EuroSAT.zip --dataset eurosat --split val --templates ensemble
    sattxt eval zero-shot --data tiles.zip --names names.json --model transformers:openai/clip-vit-base-patch32

    Class folders are named by their own names in words, unless --names, --label-set or a --dataset of a known name says
    better. With --prompts the figure is the mean over assignments of one phrase to each class: the phrases in turn, and
    100 random assignments. --report writes the confusion matrix as CSV and picture. With --centre-scores or --together
    the result says "transductive": true among its settings.
    """
    if centre_scores and together:
        raise InputError("--centre-scores and --together exclude each other")
    if prompts is not None:
        if centre_scores or together:
            flag = "--centre-scores" if centre_scores else "--together"
            raise InputError(f"{flag} and --prompts exclude each other; pass --names for words of your own")
        if names is not None or label_set is not None:
            raise InputError("--prompts gives the words: it excludes --names and --label-set")
        result = phrasings(setup.embedder, setup.samples, prompts, setup.templates(templates))
        setup.finish(result, rows="per_phrase")
        return
    data = setup.samples
    classes = setup.prompts(names, label_set, templates)
    tuning = None
    if data.multi_label and data.split == "test" and setup.collection.has("val"):
        tuning = setup.collection.split("val", setup.limit)
    result = zero_shot(setup.embedder, data, classes, tuning, centre_scores=centre_scores, together=together)
    if setup.report is not None and "confusion" in result.tables:
        from sattxt.evaluation.plots import confusion_picture

        matrix = result.tables["confusion"]
        header = ["true \\ predicted", *classes.names]
        table = [[name, *row] for name, row in zip(classes.names, matrix, strict=True)]
        write_csv(setup.report / "confusion.csv", [header, *table])
        confusion_picture(setup.report / "confusion.png", matrix, classes.names)
    setup.finish(result)
