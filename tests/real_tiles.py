"""Real tiles, for tests marked ``tiles``."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

from PIL import Image


def read_tiles(archive: Path, split: str, every: int) -> tuple[list[Image.Image], list[str]]:
    """Every ``every``-th tile of a split of a data set in a zip, and their classes."""
    tiles, classes = [], []
    with zipfile.ZipFile(archive) as content:
        names = sorted(n for n in content.namelist() if n.startswith(f"{split}/") and not n.endswith("/"))
        for name in names[::every]:
            tiles.append(Image.open(BytesIO(content.read(name))).convert("RGB"))
            classes.append(name.split("/")[1])
    return tiles, classes
