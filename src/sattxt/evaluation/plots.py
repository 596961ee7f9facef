"""Pictures of results, drawn without a display. All raise MissingExtraError where matplotlib is not installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sattxt.errors import import_extra
from sattxt.evaluation.metrics import sklearn
from sattxt.io import atomic_write

_COUNTED = 25  # classes up to which a confusion matrix has numbers written in


def confusion_picture(path: Path, matrix: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """Rows are true classes, columns predicted ones; colours and numbers are shares of a row."""
    counts = np.asarray(matrix, dtype=float)
    share = counts / counts.sum(axis=1, keepdims=True).clip(1)
    side = max(4.0, 0.42 * len(names) + 2.2)
    with _figure(path, side, side) as figure:
        display = sklearn("metrics").ConfusionMatrixDisplay(share, display_labels=names)
        display.plot(
            ax=figure.add_subplot(),
            cmap="Blues",
            xticks_rotation="vertical",
            include_values=len(names) <= _COUNTED,
            values_format=".0%",
            text_kw={"fontsize": 7},
            im_kw={"vmin": 0, "vmax": 1},
        )


def curve_picture(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    reference: tuple[str, float] | None = None,
) -> None:
    """Column ``y`` of a table over its column ``x``, with the band from ``low`` to ``high`` where it is known.

    reference: a dashed level with its name.
    """
    with _figure(path, 6.4, 4.2) as figure:
        axes = figure.add_subplot(title=title, xlabel=x_label, ylabel=y_label)
        columns = {name: [row[name] for row in rows] for name in (x, y, "low", "high")}
        axes.plot(columns[x], columns[y], marker="o")
        if None not in columns["low"]:
            axes.fill_between(columns[x], columns["low"], columns["high"], alpha=0.2, linewidth=0)
        if reference is not None:
            axes.axhline(reference[1], linestyle="--", color="grey", label=reference[0])
            axes.legend()
        if log_x:
            axes.set_xscale("log", base=2)
            axes.set_xticks(columns[x], [f"{value:g}" for value in columns[x]])
        axes.grid(alpha=0.3)


def segmentation_picture(path: Path, rows: Sequence[tuple[Any, Any, Any]], names: Sequence[str]) -> None:
    """A row an image: the image, its true label map and the predicted one; ignored pixels are black."""
    from sattxt.pictures import label_colours

    colours = np.array([*label_colours(names).values(), (0, 0, 0)], dtype=np.uint8)
    with _figure(path, 9.5, 3.0 * len(rows) + 0.6) as figure:
        grid = figure.subplots(len(rows), 3, squeeze=False)
        for axes, (image, truth, predicted) in zip(grid, rows, strict=True):
            shown = np.clip(np.rint(image), 0, 255).astype(np.uint8), colours[truth], colours[predicted]
            for cell, picture, title in zip(axes, shown, ("image", "true", "predicted"), strict=True):
                cell.imshow(picture)
                cell.set_title(title, fontsize=9)
                cell.axis("off")
        for name, colour in zip(names, colours / 255, strict=False):
            grid[0][0].plot([], [], "s", color=tuple(colour), label=name)
        figure.legend(loc="outside lower center", ncols=min(len(names), 6), fontsize=8)


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure that is written as PNG when the block ends, whole or not at all."""
    parts = import_extra("matplotlib.figure", "eval", "matplotlib", "drawing a result")
    figure = parts.Figure(figsize=(width, height), layout="constrained")
    yield figure
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)
