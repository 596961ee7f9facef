#!/usr/bin/env python3
"""Make data sets of the land cover that Dynamic World sees on Sentinel-2 tiles, for `sattxt eval`.

    SATTXT_DATA=DATA .venv/bin/python scripts/label_land_cover.py runs/land-cover
    .venv/bin/sattxt eval segment --data runs/land-cover/places      # mIoU, per class too
    .venv/bin/sattxt eval zero-shot --data runs/land-cover/pure      # tiles that are nearly all of one land cover

The val tiles of s2_tiles.zip, rendered as sattxt sees them, with a mask of the network's likeliest class a pixel, 0
where it is less sure than one in two. What is measured on them is agreement with a network, not with the ground: shrubs
and flooded vegetation are its weak classes. Takes a minute on a core.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sattxt.data.multispectral import BandSamples
from sattxt.data.registry import open_data
from sattxt.training.teachers.dynamicworld import DynamicWorldTeacher

SURE = 0.5  # probability from which a pixel counts
PURE = 0.8  # share of one class from which a tile is of it


def main() -> None:
    """Write the folders ``places`` and ``pure`` below the one that is named."""
    if len(sys.argv) != 2 or "SATTXT_DATA" not in os.environ:
        sys.exit(__doc__)
    data, out = Path(os.environ["SATTXT_DATA"]), Path(sys.argv[1])
    teacher = DynamicWorldTeacher.from_folder(data / "teachers" / "dynamicworld")
    tiles = open_data(data / "s2_tiles.zip", "s2").split("val")
    assert isinstance(tiles, BandSamples)
    for index, sample in enumerate(tiles.samples):
        bands = tiles.bands(index)
        side = max(len(band) for band in bands.values())
        shares = teacher.land_cover(bands, side).numpy()
        likeliest = shares.argmax(axis=0)
        mask = np.where(shares.max(axis=0) >= SURE, likeliest + 1, 0).astype(np.uint8)
        picture, name = (
            Image.fromarray(tiles.image(index)),
            Path(sample.id).with_suffix("").as_posix().replace("/", "_"),
        )
        save(picture, out / "places" / "val" / "images" / f"{name}.png")
        save(Image.fromarray(mask), out / "places" / "val" / "masks" / f"{name}.png")
        counts = np.bincount(likeliest.ravel(), minlength=len(teacher.classes))
        if counts.max() >= PURE * likeliest.size:
            save(picture, out / "pure" / "val" / teacher.classes[int(counts.argmax())] / f"{name}.png")
    names = {"0": "unlabelled", **{str(i): name for i, name in enumerate(teacher.classes, 1)}}
    (out / "places" / "classes.json").write_text(json.dumps(names, indent=1), encoding="utf-8")


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


if __name__ == "__main__":
    main()
