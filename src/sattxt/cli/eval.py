"""``sattxt eval``: measure a model on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sattxt.cli import inputs, options, output
from sattxt.cli.eval_options import Setup, put_table, read_words
from sattxt.data.labelled import IGNORED, read_masks
from sattxt.errors import InputError
from sattxt.evaluation import plots
from sattxt.evaluation.probe import SHOTS, probe, spectral
from sattxt.evaluation.result import compare, read_result
from sattxt.evaluation.retrieval import caption_retrieval, class_retrieval
from sattxt.evaluation.segment import segment
from sattxt.evaluation.zero_shot import FACTORS, phrasings, scale, zero_shot
from sattxt.images.options import check_count

app = typer.Typer(
    help="Measure a model on labelled images.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)

LabelSet = Annotated[
    str | None,
    typer.Option("--label-set", help="Names from a built-in set."),
]
Names = Annotated[
    Path | None, typer.Option("--names", help="Names from a .json object: class to name, or to texts to average.")
]
Templates = Annotated[
    list[str] | None,
    typer.Option(
        "--templates",
        "--template",
        help="Prompt template with {} for the class (several are averaged), or 'ensemble'.",
    ),
]


@app.command("zero-shot", no_args_is_help=True)
@options.with_options
def _zero_shot(
    setup: Setup,
    templates: Templates = None,
    label_set: LabelSet = None,
    names: Names = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", help="A .json object of class to phrases: measure with one phrase a class at a time."
        ),
    ] = None,
    centre_scores: Annotated[
        bool,
        typer.Option(
            "--centre-scores",
            help="Subtract each label's mean score over the evaluated tiles first. Transductive: it uses the test "
            "tiles, unlabelled, and assumes that classes are about equally frequent.",
        ),
    ] = False,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Classify the evaluated tiles together: use similar tiles too, which helps when names fit loosely. "
            "Transductive: it uses the test tiles, unlabelled.",
        ),
    ] = False,
) -> None:
    """Classify images by their classes' names: accuracy, calibration, confusion; mAP and F1 where labels are several.

    \b
    sattxt eval zero-shot --data tiles/ --json result.json
    sattxt eval zero-shot --data EuroSAT.zip --dataset eurosat --split val --templates ensemble
    sattxt eval zero-shot --data tiles.zip --names names.json --model transformers:openai/clip-vit-base-patch32

    Class folders are named by their own names in words, unless --names, --label-set or a --dataset of a known name says
    better. With --prompts the figure is the mean over assignments of one phrase to each class: the phrases in turn, and
    100 random assignments. --report draws the confusion matrix. With --centre-scores or --together
    the result says "transductive": true among its settings.
    """
    if prompts is not None:
        if centre_scores or together or names is not None or label_set is not None:
            raise InputError("--prompts excludes --names, --label-set, --centre-scores and --together")
        chosen = setup.templates(templates)
        result = phrasings(setup.embedder, setup.samples, read_words(prompts), chosen, source=prompts.name)
        setup.finish(result, "per_phrase")
        return
    data = setup.samples
    classes = setup.prompts(data, names, label_set, templates)
    tuning = None
    if data.multi_label and data.split == "test" and "val" in setup.collection.splits:
        tuning = setup.collection.split("val", setup.limit)
    result = zero_shot(setup.embedder, data, classes, tuning, centre_scores=centre_scores, together=together)
    if setup.report is not None and "confusion" in result.tables:
        plots.confusion_picture(setup.report / "confusion.png", result.tables["confusion"], classes.names)
    setup.finish(result, "per_class")


@app.command("retrieval", no_args_is_help=True)
@options.with_options
def _retrieval(
    setup: Setup,
    templates: Templates = None,
    label_set: LabelSet = None,
    names: Names = None,
    queries: Annotated[
        Literal["auto", "classes", "captions"],
        typer.Option("--queries", help="Default: captions where there are any."),
    ] = "auto",
) -> None:
    """Search images by text: mAP@100 of class names, or R@1, R@5, R@10 of captions, both ways.

    \b
    sattxt eval retrieval --data EuroSAT.zip --dataset eurosat
    sattxt eval retrieval --data RSICD/ --dataset rsicd --split test
    sattxt eval retrieval --data ucm.zip --captions ucm_captions.jsonl
    """
    data = setup.samples
    captioned = any(sample.captions for sample in data.samples)
    if queries == "captions" or (queries == "auto" and captioned):
        if templates or names or label_set:
            raise InputError("captions are queries as they are: --templates, --names and --label-set are for classes")
        setup.finish(caption_retrieval(setup.embedder, data))
    else:
        classes = setup.prompts(data, names, label_set, templates)
        setup.finish(class_retrieval(setup.embedder, data, classes), "per_class")


@app.command("probe", no_args_is_help=True)
@options.with_options
def _probe(
    setup: Setup,
    shots: Annotated[str, typer.Option("--shots", help="Few-shot sizes, separated by commas; 0 for none.")] = ",".join(
        map(str, SHOTS)
    ),
) -> None:
    """Classify frozen image embeddings: logistic regression, nearest neighbours, a few samples a class.

    \b
    sattxt eval probe --data EuroSAT.zip --dataset eurosat --json probe.json --report pictures/
    sattxt eval probe --data BigEarthNet/ --dataset bigearthnet-19 --shots 1,5

    Trained on the train split, measured on test if there is one, else on val. What has to be chosen (regularisation,
    number of neighbours) is chosen on val, or where that is what is measured, on a fifth of the training samples.
    --limit holds for every split. Data without splits are divided, a fifth of each class measured on.
    """
    sizes = [check_count("--shots", int(n)) for n in inputs.numbers(shots, "--shots") if n]
    result = probe(setup.embedder, setup.collection, split=setup.split, limit=setup.limit, shots=sizes)
    rows = result.tables["few_shot"]
    if setup.report is not None and rows:
        multi_label = result.data.multi_label
        plots.curve_picture(
            setup.report / "few_shot.png",
            rows,
            "shots",
            "mean",
            title=result.title,
            x_label="training samples a class",
            y_label="mAP (%)" if multi_label else "top-1 accuracy (%)",
            log_x=True,
            reference=("all training samples", result.figures["linear_map_macro" if multi_label else "linear_top1"]),
        )
    setup.finish(result, "per_class", "few_shot")


@app.command("segment", no_args_is_help=True)
@options.with_options
def _segment(
    setup: Setup,
    templates: Templates = None,
    label_set: LabelSet = None,
    names: Names = None,
    window: Annotated[
        int | None, typer.Option("--window", min=8, help="Side of the windows: smaller is finer. Default: the model's.")
    ] = None,
    overlap: Annotated[float, typer.Option("--overlap", min=0, max=0.9, help="Share that windows overlap.")] = 0.5,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", help=f"Class that counts for nothing. Default: {', '.join(IGNORED)}."),
    ] = None,
) -> None:
    """Segment images by class names against label maps: mean intersection over union.

    \b
    sattxt eval segment --data dubai.zip --window 96 --report pictures/

    Expected are images/NAME.* and masks/NAME.png with class numbers, with or without train/, val/, test/ above, and
    classes.json (number to name). --report draws the first images beside their label maps.
    """
    if setup.dataset != "auto":
        raise InputError("--dataset is of no use here: images/, masks/ and classes.json are expected")
    ignored = tuple(name.lower() for name in ignore) if ignore else IGNORED
    data = read_masks(setup.data, ignored=ignored, options=setup.image_options()).split(setup.split, setup.limit)
    classes = setup.prompts(data, names, label_set, templates)
    shown: list[tuple[Any, Any, Any]] = []

    def keep(image: Any, truth: Any, found: Any) -> None:
        if len(shown) < 4:
            shown.append((image, truth, found))

    result = segment(setup.embedder, data, classes, window=window, overlap=overlap, show=keep)
    if setup.report is not None:
        plots.segmentation_picture(setup.report / "segment.png", shown, classes.names)
    setup.finish(result, "per_class")


@app.command("spectral", no_args_is_help=True)
@options.with_options
def _spectral(
    setup: Setup,
    train_split: Annotated[str, typer.Option("--train-split", help="Split to fit the regressions on.")] = "train",
) -> None:
    """Predict bands and indices that RGB does not hold from frozen RGB features: R2 against mean colour.

    \b
    sattxt eval spectral --data eurosat_ms.zip --dataset eurosat
    sattxt eval spectral --data s2_tiles.zip

    Reads multispectral Sentinel-2 TIFFs in class (or place) folders below train/ and val/. The model gets red, green
    and blue only, stretched from reflectance 0-0.275. --limit holds for the measured split alone.
    """
    train = setup.collection.split(train_split)
    if train.split == setup.samples.split:
        raise InputError(f"--split and --train-split are both {train.split!r}; pass two that are disjoint")
    result = spectral(setup.embedder, train, setup.samples)
    setup.finish(result, "per_target")


@app.command("scale", no_args_is_help=True)
@options.with_options
def _scale(
    setup: Setup,
    templates: Templates = None,
    label_set: LabelSet = None,
    names: Names = None,
    factors: Annotated[
        str, typer.Option("--factors", help="Pixels so many times as large, separated by commas.")
    ] = ",".join(map(str, FACTORS)),
    sizes: Annotated[
        str | None, typer.Option("--sizes", help="Input sizes of the model in pixels, separated by commas.")
    ] = None,
) -> None:
    """Accuracy as the ground sampling distance degrades, and at other input sizes; the curve as a picture.

    \b
    sattxt eval scale --data EuroSAT.zip --dataset eurosat --report pictures/
    sattxt eval scale --data tiles/ --factors 1,2,4 --sizes 64,96,128
    """
    result = scale(
        setup.embedder,
        setup.samples,
        setup.prompts(setup.samples, names, label_set, templates),
        factors=[int(f) if f.is_integer() else f for f in inputs.numbers(factors, "--factors")],
        sizes=[int(n) for n in inputs.numbers(sizes, "--sizes")] if sizes else [],
        open_at=setup.open_embedder,
    )
    for table, column, label in (("gsd", "factor", "pixels times as large"), ("input_size", "size", "input size")):
        if setup.report is not None and result.tables[table]:
            plots.curve_picture(
                setup.report / f"scale_{table}.png",
                result.tables[table],
                column,
                "value",
                title=f"{result.title}: {label}",
                x_label="factor" if table == "gsd" else "pixels a side",
                y_label="mAP (%)" if setup.samples.multi_label else "top-1 accuracy (%)",
                log_x=table == "gsd",
            )
    setup.finish(result, "gsd", "input_size")


@app.command("compare", no_args_is_help=True)
def _compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", show_default=False, help="A result.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", show_default=False, help="Another, of the same task.")],
    as_json: options.Json = False,
) -> None:
    """Put two results side by side: B minus A with 95 % intervals, the same samples resampled in both.

    Differences of figures that are not sums over samples (mAP, ECE) have no interval. "p" is a two-sided bootstrap
    value: the chance of a difference of the other sign, twice.
    """
    found = compare(read_result(a), read_result(b))
    if as_json:
        output.put_json(found)
        return
    output.put(f"{found['task']} on {found['data']}: {found['paired']} images in both\n")
    for side, path in (("a", a), ("b", b)):
        output.put(f"  {side.upper()}: {found[side]['model']} ({path})\n")
    for warning in found["warnings"]:
        output.put(f"  note: {warning}\n")
    put_table(found["figures"])
