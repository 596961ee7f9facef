"""Colours for labels, and a legend beside a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

from PIL import Image

Colour = tuple[int, int, int]

# Okabe and Ito's palette, which most colour-blind readers can tell apart, then spaced hues.
_BASE: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (240, 228, 66),
    (204, 121, 167),
    (86, 180, 233),
    (90, 90, 90),
)


def label_colours(count: int) -> list[Colour]:
    """``count`` distinct RGB colours, the same ones every time."""
    colours = list(_BASE[:count])
    for extra in range(count - len(colours)):
        hue = (0.11 + extra * 0.618033988749895) % 1
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (extra % 2), 0.9 - 0.3 * ((extra // 2) % 2))
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def draw_legend(
    picture: Image.Image, legend: Mapping[str, Colour], shares: Mapping[str, float] | None = None
) -> Image.Image:
    """``picture`` enlarged to at least 384 pixels a side where small, with a swatch and a name for every label.

    Labels are listed by the share they cover where ``shares`` is given, and the share is written beside them.
    """
    from PIL import ImageDraw, ImageFont

    factor = max(1, -(-384 // min(picture.size)))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    font = ImageFont.load_default(size=15)
    names = sorted(legend, key=lambda n: -shares[n]) if shares else list(legend)
    texts = [f"{n}  {100 * shares[n]:.0f} %" if shares else n for n in names]
    width = round(max(font.getlength(t) for t in texts)) + 50
    row = 24
    canvas = Image.new("RGB", (picture.width + width, max(picture.height, row * len(names) + 20)), "white")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for i, (name, text) in enumerate(zip(names, texts, strict=True)):
        top = 10 + i * row
        left = picture.width + 12
        draw.rectangle((left, top + 2, left + 16, top + 18), fill=legend[name], outline="black")
        draw.text((left + 26, top), text, fill="black", font=font)
    return canvas
