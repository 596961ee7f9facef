"""Results as pictures: the colours of labels, legends, plots and what a notebook shows."""

from __future__ import annotations

import base64
import colorsys
import html
import io
import re
from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageColor

from sattxt.errors import ImageError, InputError, MissingExtraError, import_extra, near
from sattxt.images.read import to_rgb

if TYPE_CHECKING:
    from sattxt.classify.results import ZeroShotBatch, ZeroShotResult
    from sattxt.vision.embeddings import FloatArray

Colour = tuple[int, int, int]

_ROW = 24  # height of a label in the legend, pixels
_THUMBNAIL = 64  # side of the largest, pixels
_LONGEST = 2048  # side of a map's picture, pixels
_SHOWN = 20  # results of a batch that a notebook shows
#: The colour of what a label's last word that is known names.
_MEANINGS: tuple[tuple[Colour, str], ...] = (
    ((30, 100, 200), "water river lake sea ocean pond reservoir canal stream harbour harbor bay"),
    ((20, 110, 45), "forest tree wood woodland jungle rainforest"),
    ((150, 105, 60), "soil bare ground dirt rock barren earth"),
    ((235, 210, 150), "sand desert beach dune"),
    ((205, 45, 40), "building house urban residential city town village settlement roof factory industrial built"),
    ((115, 115, 115), "road highway street pavement runway parking asphalt railway bridge freeway motorway"),
    ((240, 205, 50), "field crop cropland farmland farm agriculture agricultural orchard vineyard"),
    ((145, 205, 90), "grass grassland gras meadow pasture lawn park herbaceous vegetation"),
    ((135, 135, 50), "shrub scrub shrubland chaparral bush"),
    ((70, 160, 150), "wetland marsh swamp mangrove bog"),
    ((215, 235, 245), "snow ice glacier"),
    ((245, 200, 225), "cloud fog haze"),
)
_COLOUR_OF = {word: colour for colour, words in _MEANINGS for word in words.split()}
# For all else: Okabe and Ito's palette, which most colour-blind readers can tell apart, then spaced hues.
_OTHERS: tuple[Colour, ...] = (
    (204, 121, 167),
    (230, 159, 0),
    (0, 158, 115),
    (86, 180, 233),
    (90, 60, 140),
    (60, 60, 60),
)


def label_colours(labels: Sequence[str], chosen: Mapping[str, Any] | None = None) -> dict[str, Colour]:
    """A colour for each label by what it means: water blue, forest green, soil brown, buildings red, roads grey, fields
    yellow. Labels that mean the same get shades, all others distinct colours, the same ones every time.

    Args:
        chosen: colours of some labels in the place of these: ``"navy"``, ``"#102030"`` or (red, green, blue) in 0-255.

    Raises:
        InputError: a colour means nothing, or is that of no label.
    """
    own = {label: _colour(label, given, labels) for label, given in (chosen or {}).items()}
    colours = list(own.values())
    for label in labels:
        if label not in own:
            meant = _meaning(label)
            shades = (_other(i) if meant is None else _shade(meant, i) for i in count())
            colours.append(next(colour for colour in shades if colour not in colours))
            own[label] = colours[-1]
    return {label: own[label] for label in labels}


def _meaning(label: str) -> Colour | None:
    """The colour that goes with the last word of a label that has one."""
    words = reversed(re.findall("[a-z]+", label.lower()))
    return next((_COLOUR_OF[form] for word in words for form in (word, word.rstrip("s")) if form in _COLOUR_OF), None)


def _colour(label: str, given: Any, labels: Sequence[str]) -> Colour:
    if label not in labels:
        raise InputError(f"colours: {label!r} is none of the labels{near(label, labels)}")
    try:
        red, green, blue = ImageColor.getrgb(given)[:3] if isinstance(given, str) else map(int, given)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"colours: {given!r} for {label!r} is no colour; pass 'navy', '#102030' or (16, 32, 48)"
        ) from error
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise InputError(f"colours: {given!r} for {label!r}: pass numbers in 0-255")
    return red, green, blue


def _shade(colour: Colour, step: int) -> Colour:
    """A shade of ``colour``, in turn lighter and darker."""
    share, end = 1 - 0.62 ** ((step + 1) // 2), 255 if step % 2 else 0
    red, green, blue = (round(part + share * (end - part)) + step // 8 for part in colour)
    return min(red, 255), min(green, 255), min(blue, 255)


def _other(index: int) -> Colour:
    if index < len(_OTHERS):
        return _OTHERS[index]
    extra = index - len(_OTHERS)
    hue = (0.11 + extra * 0.618033988749895) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (extra % 2), 0.9 - 0.3 * ((extra // 2) % 2))
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_legend(picture: Image.Image, legend: Mapping[str, Colour], shares: Mapping[str, float]) -> Image.Image:
    """``picture`` with a swatch, name and share for every label beside it, the largest share first.

    A picture of less than 384 pixels a side is enlarged by a whole factor.
    """
    from PIL import ImageDraw, ImageFont

    factor = max(1, -(-384 // min(picture.size)))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    font = ImageFont.load_default(size=15)
    names = sorted(legend, key=lambda name: -shares[name])
    texts = [f"{name}  {100 * shares[name]:.0f} %" for name in names]
    width = round(max(font.getlength(t) for t in texts)) + 50
    canvas = Image.new("RGB", (picture.width + width, max(picture.height, _ROW * len(names) + 20)), "white")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for i, (name, text) in enumerate(zip(names, texts, strict=True)):
        top, left = 10 + i * _ROW, picture.width + 12
        draw.rectangle((left, top + 2, left + 16, top + 18), fill=legend[name], outline="black")
        draw.text((left + 26, top), text, fill="black", font=font)
    return canvas


def _read(source: str | None) -> Image.Image | None:
    """The tile of a result, where it has a path that can be read without options."""
    try:
        return None if source is None else Image.fromarray(np.rint(to_rgb(source)).astype(np.uint8))
    except (ImageError, MissingExtraError, OSError):
        return None


def html_picture(picture: Image.Image) -> str:
    """An ``<img>`` that holds the picture."""
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def html_table(results: Sequence[ZeroShotResult], failures: int = 0) -> str:
    """The first 20 results as a table: a thumbnail where the source can be read, source, labels, whether they fit."""
    rows = []
    for result in results[:_SHOWN]:
        picture = _read(result.source)
        if picture is not None:
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        top = [f"{html.escape(label)} {100 * prob:.1f} %" for label, prob in result.top(3)]
        weak = "weak match" if result.fits is False else ""
        source = html.escape((result.source or "").encode(errors="backslashreplace").decode())
        cells = ["" if picture is None else html_picture(picture), source, "<br>".join(top), weak]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    notes = [f"... and {len(results) - _SHOWN} more"] if len(results) > _SHOWN else []
    notes += [f"{failures} could not be read"] if failures else []
    return f"<table>{''.join(rows)}</table>" + "".join(f"<p>{note}</p>" for note in notes)


def _axes(axes: Any, rows: int = 1, columns: int = 1) -> Any:
    """``axes``, or a grid of new ones."""
    pyplot = import_extra("matplotlib.pyplot", "demo", "matplotlib", "drawing a result")
    if axes is not None:
        return np.asarray(axes, dtype=object).reshape(-1)
    size = (4.5, 3.2) if rows == columns == 1 else (2.2 * columns, 2.5 * rows)
    return pyplot.subplots(rows, columns, squeeze=False, figsize=size, layout="constrained")[1].reshape(-1)


def plot_bars(result: ZeroShotResult, k: int, axes: Any) -> Any:
    """The ``k`` most probable labels as bars, under the source's name; returns the axes."""
    found = _axes(axes)[0]
    labels, probs = zip(*reversed(result.top(k)), strict=True)
    found.barh(labels, probs, color="#3a6ea5")
    found.set_xlim(0, 1)
    found.set_xlabel("probability" + (", weak match" if result.fits is False else ""))
    found.set_title(result.source or "", fontsize=9)
    return found


def plot_tiles(batch: ZeroShotBatch, limit: int, columns: int) -> Any:
    """The first ``limit`` tiles with their labels in a grid; returns its axes."""
    shown = batch[:limit]
    if not shown:
        raise InputError("there are no results to draw")
    columns = min(columns, len(shown))
    grid = _axes(None, -(-len(shown) // columns), columns)
    for each in grid:
        each.axis("off")
    for each, result in zip(grid, shown, strict=False):
        picture = _read(result.source)
        if picture is not None:
            each.imshow(picture)
        each.set_title(f"{result.label} {100 * result.prob:.0f} %", fontsize=8)
    return grid[: len(shown)]


def plot_map(picture: Image.Image, legend: Mapping[str, Colour], shares: Mapping[str, float], axes: Any) -> Any:
    """A label map with its legend, the largest share first; returns the axes."""
    found = _axes(axes)[0]
    found.imshow(picture)
    found.axis("off")
    for name in sorted(legend, key=lambda name: -shares[name]):
        colour = np.array(legend[name]) / 255
        found.plot([], [], "s", color=colour, label=f"{name}  {100 * shares[name]:.0f} %")
    found.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return found


#: Colours of probabilities: share, colour and opacity in 0-255. What is improbable lets through what lies below.
RAMP: tuple[tuple[float, Colour, int], ...] = (
    (0.0, (13, 8, 60), 0),
    (0.25, (90, 20, 110), 90),
    (0.5, (187, 55, 84), 190),
    (0.75, (249, 142, 9), 230),
    (1.0, (252, 240, 120), 255),
)


def ramp_colours(probs: FloatArray) -> Image.Image:
    """(H, W) probabilities as a picture over white; grey where they are NaN."""
    shares, colours, alphas = zip(*RAMP, strict=True)
    alpha = np.interp(probs, shares, alphas)[..., None] / 255
    rgb = np.stack([np.interp(probs, shares, channel) for channel in zip(*colours, strict=True)], axis=-1)
    rgb = np.where(np.isnan(probs)[..., None], 200, alpha * rgb + (1 - alpha) * 255)
    return Image.fromarray(rgb.round().astype(np.uint8))


def draw_scale(picture: Image.Image, title: str) -> Image.Image:
    """``picture`` under its title, with the scale of :func:`ramp_colours` beside it; brought to a size to look at."""
    from PIL import ImageDraw, ImageFont

    short, long = sorted(picture.size)
    factor = max(1, min(-(-384 // short), _LONGEST // long))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.BOX)
    font, top = ImageFont.load_default(size=15), _ROW + 18
    tall = max(picture.height - 20, 100)
    width = max(picture.width, round(font.getlength(title)))
    canvas = Image.new("RGB", (width + 90, top + tall + 12), "white")
    canvas.paste(picture, (0, _ROW + 8))
    left = width + 14
    canvas.paste(ramp_colours(np.linspace(1, 0, tall, dtype=np.float32)[:, None]).resize((18, tall)), (left, top))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left, top, left + 18, top + tall), outline="black")
    draw.text((6, 8), title, fill="black", font=font)
    for share in (0.0, 0.5, 1.0):
        draw.text((left + 26, top + (1 - share) * (tall - 1) - 9), f"{share:g}", fill="black", font=font)
    return canvas
