"""Fixed small inputs for every task of ``sattxt eval``, on a model whose embeddings are arithmetic.

``python tests/evaluation_cases.py`` prints the figures that ``tests/golden/evaluation.json`` pins.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from evaluation_fakes import spectral_tiles
from PIL import Image

from sattxt.data.labelled import read_masks
from sattxt.data.registry import open_data
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.encoder import SatTxtEncoder
from sattxt.evaluation.probe import probe, spectral
from sattxt.evaluation.prompts import class_prompts
from sattxt.evaluation.result import Result, compare, read_result, write_result
from sattxt.evaluation.retrieval import caption_retrieval, class_retrieval
from sattxt.evaluation.segment import segment
from sattxt.evaluation.zero_shot import phrasings, scale, zero_shot
from sattxt.images.bands import EUROSAT_MS
from sattxt.images.options import ImageOptions
from sattxt.vision.embeddings import unit_rows

GOLDEN = Path(__file__).parent / "golden" / "evaluation.json"
CENTRES = np.random.default_rng(5).uniform(75, 180, (12, 3))
#: What differs from run to run, or between machines.
UNPINNED = ("date", "environment", "samples", "command")


class WaveEncoder(SatTxtEncoder):
    """Cosines of fixed mixtures of mean and spread of colour; a text is its digits' class centre, with an error."""

    name = "wave"
    fingerprint = "e" * 64
    logit_scale = 12.0
    templates = ("a picture of {}", "{} from above")

    def __init__(self) -> None:
        random = np.random.default_rng(1)
        self._mix, self._phase = random.normal(0, 1 / 40, (6, 24)), random.uniform(0, 6, 24)

    def encode_images(self, images: Sequence[Any]) -> Any:
        flat = [np.asarray(image, dtype=float).reshape(-1, 3) for image in images]
        return self._waves([np.concatenate([x.mean(axis=0), x.std(axis=0)]) for x in flat])

    def encode_texts(self, texts: Sequence[str]) -> Any:
        rows = []
        for text in texts:
            error = np.random.default_rng(zlib.crc32(text.encode())).normal(0, 12, 3)
            rows.append([*(CENTRES[_number(text)] + error), 15, 15, 15])
        return self._waves(rows)

    def segment(self, image: Any, prompts: dict[str, Any], **options: Any) -> Any:
        weights = CENTRES[[_number(texts[0]) for texts in prompts.values()]]
        return SimpleNamespace(label_map=((image[:, :, None] - weights) ** 2).sum(axis=-1).argmin(axis=-1))

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "fingerprint": self.fingerprint}

    def _waves(self, rows: Any) -> Any:
        return unit_rows(np.cos(np.array(rows) @ self._mix + self._phase))


def measure(folder: Path) -> dict[str, Any]:
    """What every task says, by task, with what is not to be pinned taken out."""
    embed = Embedder(WaveEncoder(), cache=False)
    single, several = open_data(_classes(folder / "single")), open_data(_labels(folder / "several"))
    captions = open_data(_captions(folder / "captions")).split()
    data = single.split()
    words = class_prompts(data, templates=WaveEncoder.templates)
    other = class_prompts(data, templates="no {}")
    labels = class_prompts(several.split("val"), templates=WaveEncoder.templates)
    phrases = {name: [name, f"so {name}", f"{name}!"][: 2 + i % 2] for i, name in enumerate(data.classes)}
    painted = read_masks(_masks(folder / "masks")).split()
    tiles = open_data(spectral_tiles(folder / "tiles"), "folder", options=ImageOptions(band_names=EUROSAT_MS))
    found = {
        "zero-shot": zero_shot(embed, data, words),
        "zero-shot, centred": zero_shot(embed, data, words, centre_scores=True),
        "zero-shot, together": zero_shot(embed, data, words, together=True),
        "zero-shot, several labels": zero_shot(embed, several.split("val"), labels),
        "zero-shot, several labels, tuned": zero_shot(embed, several.split("val"), labels, several.split("train")),
        "phrasings": phrasings(embed, data, phrases, ("a {}",), source="phrases.json", draws=20),
        "retrieval by class": class_retrieval(embed, data, words, 10),
        "retrieval by class, several labels": class_retrieval(embed, several.split("val"), labels),
        "retrieval by caption": caption_retrieval(embed, captions),
        "probe": probe(embed, single, shots=(1, 4), repeats=4),
        "probe, several labels": probe(embed, several, shots=(2,), repeats=3),
        "scale": scale(embed, data, words, factors=(1, 2, 4), open_at=lambda size: embed),
        "scale, several labels": scale(embed, several.split("val"), labels, factors=(1, 2), open_at=lambda size: embed),
        "segment": segment(embed, painted, class_prompts(painted, templates="{}")),
        "spectral": spectral(embed, tiles.split("train"), tiles.split("val")),
    }
    pinned = {name: _pinned(result) for name, result in found.items()}
    a, b = found["zero-shot"], zero_shot(embed, data, other)
    pinned["compare"] = compare(
        *(read_result(write_result(folder / f"{i}.json", r.to_dict())) for i, r in enumerate((a, b)))
    )
    return pinned


def _number(text: str) -> int:
    return int((re.findall(r"\d+", text) or [0])[0])


def _pinned(result: Result) -> dict[str, Any]:
    document = json.loads(json.dumps(result.to_dict()))
    document["data"].pop("fingerprint")
    return {key: value for key, value in document.items() if key not in UNPINNED}


def _tile(kind: int, random: np.random.Generator, noise: float = 26) -> np.ndarray:
    shades = CENTRES[kind] + random.normal(0, noise, 3) + random.normal(0, 15, (8, 8, 3))
    return np.clip(shades, 0, 255).astype(np.uint8)


def _classes(root: Path) -> Path:
    """Twelve classes of unequal size, in train and val."""
    random = np.random.default_rng(2)
    for split, count in (("train", 14), ("val", 6)):
        for kind in range(len(CENTRES)):
            place = root / split / f"Class{kind}"
            place.mkdir(parents=True)
            for i in range(count + kind % 3):
                Image.fromarray(_tile(kind, random)).save(place / f"{i:02}.png")
    return root


def _labels(root: Path) -> Path:
    """Tiles of one to three of six classes side by side; class 5 in train only."""
    random, rows = np.random.default_rng(3), ["path,labels,split"]
    root.mkdir()
    for i in range(70):
        split, known = ("train", 6) if i < 45 else ("val", 5)
        kinds = sorted(random.choice(known, random.integers(1, 4), replace=False))
        Image.fromarray(np.concatenate([_tile(k, random, 10) for k in kinds], axis=1)).save(root / f"{i}.png")
        rows.append(f"{i}.png,{';'.join(f'kind {k}' for k in kinds)},{split}")
    (root / "table.csv").write_text("\n".join(rows))
    return root / "table.csv"


def _captions(root: Path) -> Path:
    """Fifteen tiles of one to three captions, some of which several tiles share."""
    random, rows = np.random.default_rng(4), []
    root.mkdir()
    for i in range(15):
        Image.fromarray(_tile(i % 8, random)).save(root / f"{i}.png")
        texts = [f"a field {i % 8}", f"field {i % 8} of row {i}", f"some {i % 8}"][: 1 + i % 3]
        rows.append(json.dumps({"image": f"{i}.png", "captions": texts}))
    (root / "captions.jsonl").write_text("\n".join(rows))
    return root / "captions.jsonl"


def _masks(root: Path) -> Path:
    """Four images of four areas, one of them without a label."""
    random = np.random.default_rng(6)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(4):
        mask = np.kron(random.integers(0, 4, (3, 3)), np.ones((6, 6))).astype(np.uint8)
        pixels = CENTRES[mask] + random.normal(0, 30, (*mask.shape, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    (root / "classes.json").write_text(json.dumps(["unlabelled", "area 1", "area 2", "area 3", "area 4"]))
    return root


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        json.dump(measure(Path(place)), sys.stdout, indent=1)
