"""``sattxt classify``: zero-shot classification of image files."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from sattxt.cli import inputs, options, output, runtime
from sattxt.errors import InputError

if TYPE_CHECKING:
    from sattxt.classify.results import ZeroShotResult

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
def classify(
    images: options.Images = None,
    labels: options.Labels = None,
    label_set: options.LabelSet = None,
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
    template: options.Templates = None,
    ensemble: options.Ensemble = False,
    instruction: options.Instruction = None,
    bank: options.Bank = None,
    model: options.Model = "sattxt-mini",
    revision: options.Revision = None,
    offline: options.Offline = False,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    dtype: options.Precision = options.Dtype.auto,
    preprocess: options.Preprocess = None,
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    stretch: options.Stretch = None,
    bands: options.Bands = None,
    band_names: options.BandNames = None,
    value_range: options.ValueRange = None,
    offset: options.Offset = None,
    max_pixels: options.MaxPixels = None,
    on_error: options.Errors = options.OnError.stop,
    null: options.Null = False,
    quiet: options.Quiet = False,
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
    templates = inputs.templates(template, ensemble=ensemble)
    banks = bank or []
    from_bank = inputs.brings_labels(banks, labels, label_set, template=templates, instruction=instruction)
    wanted = None if from_bank else inputs.labels(labels, label_set)
    reading = options.image_options(
        stretch=stretch,
        bands=bands,
        band_names=band_names,
        value_range=value_range,
        offset=offset,
        max_pixels=max_pixels,
    )
    paths = inputs.image_paths(images or [], null=null, keep_missing=on_error is options.OnError.skip)

    opened = runtime.open_model(
        model,
        revision=revision,
        local_files_only=offline,
        device=device,
        device_map=device_map,
        dtype=dtype.value,
        preprocess=preprocess,
    )
    imported = [opened.import_labels(file) for file in banks]
    classifier = opened.classifier(
        imported[0] if from_bank else wanted,
        label_set=label_set,
        templates=templates,
        instruction=instruction,
        multi_label=multi_label,
        progress=runtime.show_progress(quiet=quiet),
    )
    run = partial(
        classifier,
        batch_size=batch_size,
        workers=workers,
        on_error=on_error.value,
        progress=False,
        options=reading,
    )
    writer: output.Writer
    if as_json:
        writer = output.JsonWriter(top=top, multi_label=multi_label)
    elif as_csv:
        writer = output.CsvWriter(top=top, multi_label=multi_label)
    else:
        writer = output.TableWriter(paths, classifier.labels, top=top, multi_label=multi_label)

    limit = (0.5 if threshold is None else threshold) if multi_label else None
    skipped = runtime.Skipped()
    for chunk, batch in runtime.in_chunks(paths, run, quiet=quiet):
        failures = {failure.index: failure for failure in batch.failures}
        results = iter(batch)
        for index, path in enumerate(chunk):
            if index in failures:
                writer.skip(path, skipped.add(path, failures[index]))
            else:
                writer.write(_answer(path, next(results), limit))
    skipped.finish(len(paths))


def _answer(path: str, result: ZeroShotResult, threshold: float | None) -> output.Answer:
    """The labels that answer for ``path``: the best one, or with a threshold those that reach it."""
    scores = dict(zip(result.labels, result.scores.tolist(), strict=True))
    ranked = [output.Ranked(label, prob, scores[label]) for label, prob in result.top(len(result.labels))]
    chosen = [ranked[0].label] if threshold is None else [r.label for r in ranked if r.prob >= threshold]
    return output.Answer(path, chosen, ranked)
