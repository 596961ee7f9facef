"""A model that sees nothing but colour, and tiles to show it: what the harness's tests measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sattxt.data.dataset import Samples
from sattxt.evaluation.prompts import ClassPrompts, class_prompts
from sattxt.vision.embeddings import unit_rows

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


class ColourEncoder:
    """An image is its mean colour, a text the mean of the colours named in it (else grey)."""

    name = "colour"
    fingerprint = "c" * 64
    logit_scale = 10.0
    templates = ("a picture of {}",)

    def __init__(self) -> None:
        self.images_seen = 0
        self.texts_seen: list[str] = []

    def encode_images(self, images: Sequence[Any]) -> Any:
        self.images_seen += len(images)
        return unit_rows([np.asarray(image, dtype=float).reshape(-1, 3).mean(axis=0) + 1e-3 for image in images])

    def encode_texts(self, texts: Sequence[str]) -> Any:
        self.texts_seen += list(texts)
        rows = []
        for text in texts:
            found = [np.array(rgb, dtype=float) for name, rgb in COLOURS.items() if name in text.lower()]
            rows.append(np.mean(found, axis=0) if found else np.ones(3))
        return unit_rows(rows)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "fingerprint": self.fingerprint}


def prompts(data: Samples, **options: Any) -> ClassPrompts:
    """The prompts of the data's classes by the one template of the tests."""
    return class_prompts(data, templates=ColourEncoder.templates, **options)


def tile(colour: str, seed: int, side: int = 8, noise: float = 30) -> np.ndarray:
    random = np.random.default_rng(seed)
    base = np.array(COLOURS[colour], dtype=float) + random.normal(0, noise, (side, side, 3)) + random.normal(0, 15, 3)
    return np.clip(base, 0, 255).astype(np.uint8)


def write_folders(root: Path, per_class: int = 6, splits: Sequence[str] = ("",), classes: Any = None) -> Path:
    """``root/[split/]Class/NN.png``; ``classes``: folder to colour."""
    for s, split in enumerate(splits):
        for c, (folder, colour) in enumerate((classes or {n.capitalize() + "Field": n for n in COLOURS}).items()):
            place = root / split / folder
            place.mkdir(parents=True)
            for i in range(per_class):
                Image.fromarray(tile(colour, 1000 * s + 100 * c + i)).save(place / f"{folder}_{s}{i}.png")
    return root


def spectral_tiles(root: Path, count: int = 30) -> Path:
    """``root/{train,val}/Field/N.tif`` of 13 bands: NIR follows from red, B12 from nothing."""
    import rasterio

    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(count if split == "train" else 12):
            path = root / split / "Field" / f"{i}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            red, green, blue = random.uniform(300, 2500, 3)
            bands = np.zeros((13, 8, 8), np.uint16)
            bands[3], bands[2], bands[1] = red, green, blue
            bands[7] = 4000 - red  # NIR is told by red alone
            bands[11] = random.uniform(500, 4000)  # B12 by nothing
            profile = {"count": 13, "height": 8, "width": 8, "dtype": "uint16"}
            with rasterio.open(
                path, "w", driver="GTiff", transform=rasterio.Affine(10, 0, 0, 0, -10, 80), **profile
            ) as file:
                file.write(bands)
    return root
