#!/usr/bin/env python3
"""Fit what the bundled model knows of "no label fits" and of several labels a tile; nothing is trained.

    SATTXT_DATA=DATA .venv/bin/python scripts/calibrate_mini.py

Writes fit.safetensors and the multi-label calibration in config.json of the bundled model, then its card, sums and
manifest; prints the figures. About five minutes on two cores.

Whether any label fits. Words: scripts/wide_vocabulary.txt and the names of all label sets. Pictures: 256 groups of
training tiles (k-means). A label counts as reaching at least what the least of the sets' own names reaches with a
picture. The threshold is one for all, fitted on the val splits of four data sets, for their
built-in names and for one list of synonyms (scripts/synonyms.json), each in three templates: the one whose worst
shortfall from both goals (at most 10 % of tiles refused wrongly, at least 85 % refused when the right class is taken
out of the labels; means over templates and lists, by data set) is least. Lists and rule were written before the fit.

Several labels. Truth from captions: a label holds where two of five captions name it (scripts/caption_labels.json).
Fitted on RSICD: the scale by logistic regression, the bias so that 0.5 is where micro-F1 is highest. Captions leave out
much of what is there, so 0.5 is a point of decision, not a frequency. Measured on UC Merced val.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import refresh_manifest
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from sattxt import SatTxt, label_set, list_label_sets
from sattxt.classify.fit import FitReference
from sattxt.data.dataset import Samples
from sattxt.data.registry import open_data
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.encoder import SatTxtEncoder
from sattxt.weights.directory import CONFIG_FILE, FIT_FILE

HERE = Path(__file__).parent
MODEL = HERE.parent / "src" / "sattxt" / "weights" / "bundled" / "sattxt-mini"
SETS = {
    "eurosat": "eurosat_rgb.zip",
    "resisc45": "resisc45_128.zip",
    "aid": "aid_128.zip",
    "ucmerced": "ucm.zip",
}
TEMPLATES = ("a satellite image of {}", "an aerial photograph of {}", "{}")
NONSENSE = (
    "unicorn",
    "happiness",
    "teapot",
    "love",
    "democracy",
    "a bowl of soup",
    "cat",
    "guitar",
    "mathematics",
    "keyboard",
)
GROUPS = 256
MOST_TILES = 3000  # of each training set
MOST_REFUSED, LEAST_REFUSED = 0.10, 0.85

Array = np.ndarray[Any, np.dtype[Any]]


def unit(vectors: Array) -> Array:
    """Rows of length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), dtype=np.float32)


def words() -> list[str]:
    """The wide vocabulary, every phrase once."""
    listed = [line.strip() for line in (HERE / "wide_vocabulary.txt").read_text().splitlines()]
    named = [label.name for name in list_label_sets() for label in label_set(name).labels]
    return list(dict.fromkeys(filter(None, [*listed, *named])))


def margins_of(model: SatTxt, embedder: Embedder, data: Path, reference: FitReference) -> dict[str, list[Any]]:
    """By data set: margins of the val tiles with all labels, and without the right one, a pair for each prompt list."""
    synonyms = json.loads((HERE / "synonyms.json").read_text())
    found: dict[str, list[Any]] = {}
    for name, file in SETS.items():
        samples, images = embedder(open_data(data / file, name).split("val"))
        keys = [label_set(name).find(key) for key in samples.classes]
        for listed in ([label.name for label in keys], [synonyms[name][label.key] for label in keys]):
            for template in TEMPLATES:
                weights = np.asarray(model.encode_text([template.replace("{}", label) for label in listed]))
                margins = reference.margins(images, images @ weights.T, reference.best_pictures(weights))
                without = margins.copy()
                without[np.arange(len(without)), samples.targets] = -np.inf
                found.setdefault(name, []).append((margins.max(axis=1), without.max(axis=1)))
    return found


def fit_threshold(found: dict[str, list[Any]]) -> tuple[float, float]:
    """Scale and bias: the logistic slope, and the threshold at 0.5."""
    present, absent = (np.concatenate([pair[i] for pairs in found.values() for pair in pairs]) for i in (0, 1))

    def shares(threshold: float, name: str) -> tuple[float, float]:
        refused = [[np.mean(side < threshold) for side in pair] for pair in found[name]]
        wrong, right = np.mean(refused, axis=0)
        return float(wrong), float(right)

    def reserve(threshold: float) -> float:
        each = [shares(threshold, name) for name in found]
        return min(min(MOST_REFUSED - wrong, right - LEAST_REFUSED) for wrong, right in each)

    threshold = float(max(np.quantile(present, np.linspace(0.001, 0.5, 500)), key=reserve))
    for name in found:
        wrong, right = shares(threshold, name)
        print(f"{name}: {100 * wrong:.1f} % refused wrongly, {100 * right:.1f} % refused without their class")
        for kind, pairs in (("own names", found[name][:3]), ("synonyms", found[name][3:])):
            wrong, right = np.mean([[np.mean(side < threshold) for side in pair] for pair in pairs], axis=0)
            print(f"  {kind}: {100 * wrong:.1f} %, {100 * right:.1f} %")
    logistic = LogisticRegression(C=1e3)
    logistic.fit(np.concatenate([present, absent])[:, None], np.repeat([1, 0], [len(present), len(absent)]))
    scale = float(logistic.coef_[0, 0])
    return scale, -scale * threshold


def share_of_nonsense_refused(model: SatTxt, embedder: Embedder, data: Path, reference: FitReference) -> float:
    """Share of val tiles that words nothing there looks like do not fit, a word at a time."""
    template = model.config.prompt_templates[0]
    weights = np.asarray(model.encode_text([template.replace("{}", word) for word in NONSENSE]))
    refused = []
    for name, file in SETS.items():
        _, images = embedder(open_data(data / file, name).split("val"))
        margins = reference.margins(images, images @ weights.T, reference.best_pictures(weights))
        refused.append(np.mean(reference.scale * margins + reference.bias < 0))
    return float(np.mean(refused))


def caption_truth(samples: Samples, named: dict[str, list[str]]) -> Array:
    """(N, K) whether two of a picture's captions name a label."""
    meant = [set(group) for group in named.values()]
    truth = np.zeros((len(samples), len(named)), dtype=bool)
    for row, sample in enumerate(samples.samples):
        told = [set(re.findall("[a-z]+", caption.lower())) for caption in sample.captions]
        truth[row] = [sum(not group.isdisjoint(said) for said in told) >= 2 for group in meant]
    return truth


def fit_multi_label(model: SatTxt, embedder: Embedder, data: Path) -> tuple[float, float]:
    """Scale and bias of several labels a tile, see the head of this file."""
    named = json.loads((HERE / "caption_labels.json").read_text())
    sides = {}
    for name, file, captions, split in (
        ("RSICD", "aid_128.zip", "rsicd_captions.jsonl", "all"),
        ("UC Merced val", "ucm.zip", "ucm_captions.jsonl", "val"),
    ):
        samples = open_data(data / file, "captions", captions=data / "captions" / captions).split(split)
        samples, images = embedder(samples)
        probs = model.classifier(list(named), multi_label=True)(images).probs
        now = np.log(probs.clip(1e-7, 1 - 1e-7) / (1 - probs.clip(1e-7, 1 - 1e-7)))
        contrast = (now - (model.config.multi_label_bias or 0)) / (model.config.multi_label_scale or 1)
        sides[name] = caption_truth(samples, named), contrast, probs
    truth, contrast, _ = sides["RSICD"]
    logistic = LogisticRegression(C=1e4).fit(contrast.reshape(-1, 1), truth.ravel())
    scale = float(logistic.coef_[0, 0])
    bounds = np.quantile(contrast, np.linspace(0.5, 0.995, 200))
    best = max(bounds, key=lambda bound: f1_score(truth, contrast >= bound, average="micro"))
    for name, (truth, contrast, probs) in sides.items():
        before, after = (f1_score(truth, found, average="micro") for found in (probs >= 0.5, contrast >= best))
        bare = 100 * np.mean(~(contrast >= best).any(axis=1))
        print(f"{name}: micro-F1 {before:.3f} before, {after:.3f} now; {bare:.1f} % of the tiles get no label")
    return scale, -scale * float(best)


def main() -> None:
    """Fit, write, and refresh what is written from it."""
    if not os.environ.get("SATTXT_DATA"):
        sys.exit("SATTXT_DATA must name the folder of data sets")
    data = Path(os.environ["SATTXT_DATA"])
    model = SatTxt.from_pretrained(dtype="float32")
    embedder = Embedder(SatTxtEncoder(model))
    template = model.config.prompt_templates[0]
    vocabulary = np.asarray(model.encode_text([template.replace("{}", word) for word in words()]))
    tiles = [embedder(open_data(data / file, name).split("train", MOST_TILES))[1] for name, file in SETS.items()]
    groups = KMeans(GROUPS, n_init=1, random_state=0).fit(np.concatenate(tiles)).cluster_centers_
    sides = [torch.from_numpy(vectors).half().float() for vectors in (vocabulary, unit(groups))]
    known = [template.replace("{}", label.name) for name in SETS for label in label_set(name)]
    floor = float((sides[1] @ torch.from_numpy(np.asarray(model.encode_text(known))).T).amax(dim=0).min())
    reference = FitReference(sides[0], sides[1], floor, 1.0, 0.0)
    scale, bias = fit_threshold(margins_of(model, embedder, data, reference))
    print(f"words {len(vocabulary)}, pictures {GROUPS}, floor {floor:.3f}, scale {scale:.2f}, bias {bias:.2f}")
    reference = replace(reference, scale=scale, bias=bias)
    refused = share_of_nonsense_refused(model, embedder, data, reference)
    print(f"words that nothing looks like: {100 * refused:.1f} % refused")
    numbers = {name: torch.tensor(getattr(reference, name)) for name in ("floor", "scale", "bias")}
    save_file({"words": reference.words.half(), "pictures": reference.pictures.half(), **numbers}, MODEL / FIT_FILE)
    config = json.loads((MODEL / CONFIG_FILE).read_text(encoding="utf-8"))
    scale, bias = fit_multi_label(model, embedder, data)
    config |= {"multi_label_scale": round(scale, 4), "multi_label_bias": round(bias, 4)}
    (MODEL / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    refresh_manifest.main()


if __name__ == "__main__":
    main()
