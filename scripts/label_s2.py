#!/usr/bin/env python3
"""Label the Sentinel-2 train tiles by land cover: writes src/sattxt/training/recipes/s2_covers.json.

    SATTXT_DATA=DATA .venv/bin/python scripts/label_s2.py

767 tiles were told by eye, by what covers most of them (scripts/s2_by_eye.json; five more that nothing does are in it
as null). From those, and tiles that are surely water, a logistic regression on frozen features learns the classes;
every other tile gets the most likely one where that is likely enough, else none. What was told by eye stays. Prints the
accuracy in cross-validation on the tiles told by eye, and how many labels differ from the file that was there. Takes
about two and a half minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from sattxt.errors import InputError, MissingExtraError, SatTxtError
from sattxt.io import read_json
from sattxt.training import read_recipe
from sattxt.training.pairs import render_rgb
from sattxt.training.spectral import read_two_pages
from sattxt.training.teacher_start import start_teacher
from sattxt.training.teachers import Teacher
from sattxt.training.vision_start import load_vision

ROOT = Path(__file__).resolve().parents[1]
BY_EYE = ROOT / "scripts" / "s2_by_eye.json"
COVERS = ROOT / "src" / "sattxt" / "training" / "recipes" / "s2_covers.json"
ARCHIVE = "s2_tiles.zip"
#: Where teacher and backbone are named; not `mini`, which needs what is written here.
RECIPE = "mini-second"
BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")

WATER = "water"
CLASSES = ("annual_crops", "pastures", "forest", "herbaceous_vegetation", "residential", "industrial", "river", WATER,
           "road", "bare_land", "cloud", "permanent_crops")  # fmt: skip
#: Tiles that are surely water: how many, and the least share of water by index.
WATER_TILES, WATER_SHARE = 60, 0.9
#: A class told on fewer tiles is not learnt.
FEWEST = 5
#: A tile whose likeliest class is less likely gets no label.
LIKELY = 0.6
SEED = 0
BATCH = 64
#: Of the backbone: the last two layers are left out, since the ImageNet checkpoint lacks weights of theirs.
LAYERS, SIDE, STRIDE = 24, 128, 32

Features: TypeAlias = NDArray[Any]


# -- tiles and features ----------------------------------------------------------------------------------------------


class Tiles(NamedTuple):
    """Train tiles. ten: (N, H, W, 4) and twenty: (N, H/2, W/2, 6), see :func:`read_two_pages`."""

    keys: list[str]
    ten: NDArray[np.float32]
    twenty: NDArray[np.float32]

    def stack(self, start: int) -> NDArray[np.float32]:
        """(n, 10, H, W): reflectance x 10,000 of a batch as training has it, whole numbers."""
        ten, twenty = (torch.from_numpy(page[start : start + BATCH]).permute(0, 3, 1, 2) for page in self[1:])
        twenty = F.interpolate(twenty, size=ten.shape[2:], mode="bilinear", align_corners=False)
        values: NDArray[np.float32] = (torch.cat([ten, twenty], 1) * 10_000).round().numpy()
        return values

    def starts(self) -> range:
        """Where batches start."""
        return range(0, len(self.keys), BATCH)


def read_tiles(path: Path) -> Tiles:
    """The archive's train tiles, in the order of their paths.

    Raises:
        InputError: the archive is missing, or has no train tiles.
        MissingExtraError: rasterio is not installed.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such archive; pass the folder that holds it as --data")
    with zipfile.ZipFile(path) as archive:
        keys = sorted(k for k in archive.namelist() if k.startswith("train/") and k.endswith(".tif"))
        pages = [read_two_pages(archive.read(key)) for key in keys]
    if not pages:
        raise InputError(f"{path}: no tiles under train/")
    return Tiles(keys, *(np.stack(page) for page in zip(*pages, strict=True)))


def galileo(tiles: Tiles, teacher: Teacher) -> Features:
    """(N, 4 x width): mean, deviation, most and least of the teacher's tokens over the places of a tile."""
    found = []
    for start in tiles.starts():
        patches = teacher.encode(tiles.stack(start), BANDS).patches
        assert patches is not None  # Galileo's tokens have places
        places = patches.flatten(2)
        found.append(torch.cat([places.mean(2), places.std(2), places.amax(2), places.amin(2)], 1))
    return torch.cat(found).numpy()


@torch.inference_mode()
def imagenet(tiles: Tiles, backbone: Any) -> Features:
    """(N, 2 x width): mean and deviation of the backbone's features over the places of a tile, enlarged to 128 px."""
    found = []
    for start in tiles.starts():
        rgb = np.stack([render_rgb(values, BANDS) for values in tiles.stack(start)])
        x = backbone.conv_stem(F.interpolate(torch.from_numpy(rgb).float() / 127.5 - 1, size=SIDE, mode="bicubic"))
        for layer in backbone.layer[:LAYERS]:
            x = layer(x)
        places = x.flatten(2)
        found.append(torch.cat([places.mean(2), places.std(2)], 1))
    return torch.cat(found).numpy()


def statistics(tiles: Tiles) -> dict[str, Features]:
    """(N,) each: indices, brightness and texture of a tile."""
    blue, green, red, nir = np.moveaxis(_mean(tiles.ten, 2), -1, 0)
    swir1, swir2 = tiles.twenty[..., 4], tiles.twenty[..., 5]
    ndvi, brightness, grey = _index(nir, red), (blue + green + red) / 3, tiles.ten[..., :3].mean(-1)
    down, across = np.gradient(grey, axis=(1, 2))
    every = (1, 2)
    return {
        "ndvi": ndvi.mean(every),
        "ndvi_std": ndvi.std(every),
        "nir": nir.mean(every),
        "brightness": brightness.mean(every),
        "brightness_std": brightness.std(every),
        "gradient": np.hypot(down, across).mean(every),
        "water": ((_index(green, swir1) > 0.1) & (nir < 0.15)).mean(every),
        "swir1": swir1.mean(every),
        "swir2": swir2.mean(every),
        "built": _index(swir1, nir).mean(every),
        "red": red.mean(every),
        "detail": np.abs(grey - _mean(grey, 4).repeat(4, 1).repeat(4, 2)).mean(every),
    }


def _mean(values: Features, block: int) -> Features:
    """(N, H, W, ...) to (N, H / block, W / block, ...)."""
    count, height, width, *rest = values.shape
    found: Features = values.reshape(count, height // block, block, width // block, block, *rest).mean((2, 4))
    return found


def _index(one: Features, other: Features) -> Features:
    return (one - other) / np.maximum(one + other, 1e-4)


# -- labels ----------------------------------------------------------------------------------------------------------


def by_eye(path: Path, keys: Sequence[str]) -> dict[int, str | None]:
    """The class of each tile that was looked at, or ``None`` where it shows nothing that has a name.

    By its place in ``keys``, in the order in which they were looked at: the PCA below is a random one, whose outcome
    changes with the order.

    Raises:
        InputError: a tile is not among ``keys``.
    """
    place = {key: number for number, key in enumerate(keys)}
    told = read_json(path)
    for key in told:
        if key not in place:
            raise InputError(f"{path}: {key}: no such train tile; pass the archive that the labels are of")
    return {place[key]: label for key, label in told.items()}


def surely_water(share: Features, told: Collection[int]) -> dict[int, str]:
    """Some of the tiles that are nearly all water by index, without those told by eye."""
    drawn = np.random.default_rng(SEED).permutation(np.flatnonzero(share > WATER_SHARE))[:WATER_TILES]
    return {int(number): WATER for number in drawn if int(number) not in told}


def propose(features: Features, told: Mapping[int, str | None], water: Mapping[int, str]) -> dict[int, str]:
    """Labels of all tiles that have one; those told by eye are as they were told. Prints the accuracy."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts = Counter(told.values())
    learnt = {number: name for number, name in told.items() if name is not None and counts[name] >= FEWEST}
    model = make_pipeline(
        StandardScaler(),
        PCA(100, random_state=SEED),
        LogisticRegression(C=0.05, max_iter=3000, class_weight="balanced"),
    )
    truth = np.array(list(learnt.values()))
    right = cross_val_predict(model, features[list(learnt)], truth, cv=5) == truth
    print(f"cross-validated on {len(learnt)} tiles told by eye: {100 * right.mean():.1f} % right")

    learnt = {**learnt, **water}
    model.fit(features[list(learnt)], list(learnt.values()))
    likelihood = model.predict_proba(features)
    best = likelihood.argmax(axis=1)
    likely = {n: str(model.classes_[best[n]]) for n in range(len(features)) if likelihood[n, best[n]] > LIKELY}
    return {number: name for number, name in {**likely, **told}.items() if name is not None}


def changed(before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]) -> int:
    """Tiles whose label differs, one that only one of both labels included."""
    old, new = ({key: label for label, keys in each.items() for key in keys} for each in (before, now))
    return sum(old.get(key) != new.get(key) for key in old.keys() | new.keys())


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, learn, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="the folder of data sets; or SATTXT_DATA")
    parser.add_argument("--out", type=Path, default=COVERS, help="the file to write")
    given = parser.parse_args(arguments)
    data = given.data or os.environ.get("SATTXT_DATA")
    if not data:
        sys.exit("pass --data, or let SATTXT_DATA name the folder of data sets")
    try:
        label(Path(data), given.out)
    except SatTxtError as error:
        sys.exit(str(error))


def label(data: Path, out: Path) -> None:
    """Labels of the train tiles under ``data``, as class to tiles' paths in the archive, to a JSON file.

    Raises:
        InputError: the archive is missing, or is another than the labels are of.
        WeightsError: the teacher or the backbone cannot be read.
        MissingExtraError: scikit-learn or rasterio is not installed.
    """
    if find_spec("sklearn") is None:
        raise MissingExtraError("eval", "scikit-learn", "labelling tiles")
    recipe = read_recipe(RECIPE, {"vision.output_stride": STRIDE})
    teacher, backbone = start_teacher(recipe, data), load_vision(recipe, data).backbone.eval()
    tiles = read_tiles(data / ARCHIVE)
    told, bands = by_eye(BY_EYE, tiles.keys), statistics(tiles)
    frozen = galileo(tiles, teacher), imagenet(tiles, backbone)
    features = np.concatenate([*frozen, np.stack(list(bands.values()), axis=1)], axis=1)
    found = propose(features, told, surely_water(bands["water"], told))
    covers = {name: sorted(tiles.keys[n] for n, other in found.items() if other == name) for name in CLASSES}
    for name, keys in covers.items():
        print(f"{name:24}{len(keys):6,}")
    print(f"{'of ' + format(len(tiles.keys), ',') + ' tiles':24}{len(found):6,}")
    if out.is_file():
        print(f"{changed(read_json(out), covers)} labels differ from those that were there")
    out.write_text(json.dumps(covers, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
