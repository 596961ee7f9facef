"""Pictures of results, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sattxt.errors import MissingExtraError


def confusion_picture(path: Path, matrix: Any, names: Sequence[str]) -> Path:
    """Rows are true classes, columns predicted ones; colour is the share of a row, numbers are counts (to 25 classes).

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    counts = np.asarray(matrix, dtype=float)
    share = counts / counts.sum(axis=1, keepdims=True).clip(1)
    size = max(4.0, 0.42 * len(names) + 2.2)
    figure = _figure(size, size)
    axes = figure.add_subplot()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(names) <= 25:
        for row, column in np.ndindex(*counts.shape):
            if counts[row, column]:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, int(counts[row, column]), ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture, ax=axes, fraction=0.04, label="share of the true class")
    return _save(figure, path)


def curve_picture(
    path: Path,
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    spans: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    log_x: bool = False,
    reference: tuple[str, float] | None = None,
) -> Path:
    """Lines over ``x``, each with a band of (low, high) where ``spans`` has one; ``reference`` is a dashed level.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = _figure(6.4, 4.2)
    axes = figure.add_subplot()
    for name, values in lines.items():
        drawn = axes.plot(x, values, marker="o", label=name)[0]
        if spans and name in spans:
            axes.fill_between(x, *spans[name], alpha=0.2, color=drawn.get_color(), linewidth=0)
    if reference is not None:
        axes.axhline(reference[1], linestyle="--", color="grey", label=reference[0])
    if log_x:
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(x), [f"{value:g}" for value in x])
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, path)


def bars_picture(
    path: Path, groups: Sequence[str], bars: Mapping[str, Sequence[float]], *, title: str, y_label: str
) -> Path:
    """Bars side by side in groups.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = _figure(max(6.0, 0.8 * len(groups) + 2), 4.2)
    axes = figure.add_subplot()
    width = 0.8 / len(bars)
    for index, (name, values) in enumerate(bars.items()):
        at = np.arange(len(groups)) + (index - (len(bars) - 1) / 2) * width
        axes.bar(at, values, width, label=name)
    axes.set_xticks(range(len(groups)), [group.replace(" ", "\n") for group in groups], fontsize=9)
    axes.set_title(title)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3, axis="y")
    figure.legend(loc="outside lower center", ncols=len(bars))
    return _save(figure, path)


def segmentation_picture(path: Path, rows: Sequence[tuple[Any, Any, Any]], names: Sequence[str]) -> Path:
    """A row an image: the image, its true label map and the predicted one; ignored pixels are black.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from sattxt.segment import label_colours

    colours = np.array([*label_colours(len(names)), (0, 0, 0)], dtype=np.uint8)
    figure = _figure(9.5, 3.0 * len(rows) + 0.6)
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
    return _save(figure, path)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("eval", "matplotlib", "drawing a result") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
