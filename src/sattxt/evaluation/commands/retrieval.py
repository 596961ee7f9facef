"""``sattxt eval retrieval``."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from sattxt.errors import InputError
from sattxt.evaluation.commands.setup import LabelSet, Names, Setup, Templates, measuring
from sattxt.evaluation.retrieval import caption_retrieval, class_retrieval


class Queries(str, Enum):
    """What is searched with."""

    auto = "auto"
    classes = "classes"
    captions = "captions"


@measuring
def command(
    setup: Setup,
    templates: Templates = None,
    label_set: LabelSet = None,
    names: Names = None,
    queries: Annotated[
        Queries, typer.Option("--queries", help="Default: captions where there are any.")
    ] = Queries.auto,
) -> None:
    """Search images by text: mAP@100 of class names, or R@1, R@5, R@10 of captions, both ways.

    \b
    sattxt eval retrieval --data EuroSAT.zip --dataset eurosat
    sattxt eval retrieval --data RSICD/ --dataset rsicd --split test
    sattxt eval retrieval --data ucm.zip --captions ucm_captions.jsonl
    """
    data = setup.samples
    captioned = any(sample.captions for sample in data.samples)
    if queries is Queries.captions or (queries is Queries.auto and captioned):
        if templates or names or label_set:
            raise InputError("captions are queries as they are: --templates, --names and --label-set are for classes")
        setup.finish(caption_retrieval(setup.embedder, data), rows=None)
    else:
        classes = setup.prompts(names, label_set, templates)
        setup.finish(class_retrieval(setup.embedder, data, classes))
