#!/usr/bin/env python3
"""Measure the bundled model on the validation splits, by `sattxt eval`, and write down what comes out.

    SATTXT_DATA=DATA .venv/bin/python scripts/measure_mini.py

Writes docs/evaluation.md with its pictures (docs/evaluation/), the metrics of sattxt-mini in weights_manifest.json,
and the bundled card. Takes about five minutes on two cores. Nothing here is trained; the splits are val, never seen in
training.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import refresh_manifest

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "evaluation"
MANIFEST = ROOT / "src" / "sattxt" / "weights" / "weights_manifest.json"
PHRASES = "src/sattxt/training/recipes/eurosat_paraphrases.json"
PERFECT = "upper bound of mean recall (some pictures share a caption)"


class Run(NamedTuple):
    """One command, the figures of it that are reported, and what its data are called."""

    arguments: str
    data: str
    figures: dict[str, str]
    pictures: tuple[tuple[str, str], ...] = ()


RUNS = {
    "eurosat": Run(
        "zero-shot --data $SATTXT_DATA/eurosat_rgb.zip --label-set eurosat",
        "EuroSAT RGB, val (4,320 tiles), own names",
        {"top1": "top-1 %", "top5": "top-5 %", "ece": "calibration error"},
        (("confusion.png", "eurosat_confusion.png"),),
    ),
    "phrases": Run(
        f"zero-shot --data $SATTXT_DATA/eurosat_rgb.zip --prompts {PHRASES}",
        "EuroSAT RGB, val, paraphrases not used as class prompts in training",
        {
            "top1": "top-1 %, one phrase a class, mean over draws of phrases",
            "top1_first": "top-1 %, the first phrase of each class (arable land, copse, scrubland, ...)",
            "top1_averaged": "top-1 %, six phrases averaged",
        },
    ),
    "resisc45": Run(
        "zero-shot --data $SATTXT_DATA/resisc45_128.zip --label-set resisc45",
        "RESISC45 at 128 px, val (3,188), own names",
        {"top1": "top-1 %", "top5": "top-5 %"},
        (("confusion.png", "resisc45_confusion.png"),),
    ),
    "aid": Run(
        "zero-shot --data $SATTXT_DATA/aid_128.zip --label-set aid",
        "AID at 128 px, val (869), own names",
        {"top1": "top-1 %", "top5": "top-5 %"},
    ),
    "ucm": Run(
        "zero-shot --data $SATTXT_DATA/ucm.zip --label-set ucmerced",
        "UC Merced, val (336), own names",
        {"top1": "top-1 %", "top5": "top-5 %"},
    ),
    "map": Run(
        "retrieval --data $SATTXT_DATA/eurosat_rgb.zip --label-set eurosat --queries classes",
        "EuroSAT RGB, val, class names as queries",
        {"map@100": "mAP@100 %"},
    ),
    "rsicd": Run(
        "retrieval --data $SATTXT_DATA/aid_128.zip --captions $SATTXT_DATA/captions/rsicd_captions.jsonl",
        "RSICD captions, val (869 pictures at 128 px)",
        {
            "mean_recall": "mean recall %",
            "mean_recall_perfect": PERFECT,
            "mean_recall_shared": "mean recall, equal captions right wherever they stand",
            "i2t_r@10": "image to text R@10 %",
            "t2i_r@10": "text to image R@10 %",
        },
    ),
    "ucm_captions": Run(
        "retrieval --data $SATTXT_DATA/ucm.zip --captions $SATTXT_DATA/captions/ucm_captions.jsonl",
        "UC Merced captions, val (336 pictures)",
        {
            "mean_recall": "mean recall %",
            "mean_recall_perfect": PERFECT,
            "mean_recall_shared": "mean recall, equal captions right wherever they stand",
            "i2t_r@10": "image to text R@10 %",
            "t2i_r@10": "text to image R@10 %",
        },
    ),
    "probe": Run(
        "probe --data $SATTXT_DATA/eurosat_rgb.zip",
        "EuroSAT RGB, linear probe on train embeddings, val",
        {"linear_top1": "top-1 %", "knn_top1": "k-NN top-1 %"},
        (("few_shot.png", "eurosat_few_shot.png"),),
    ),
    "dubai": Run(
        "segment --data $SATTXT_DATA/dubai.zip",
        "Dubai aerial tiles, 36 images, 5 classes",
        {"miou": "mIoU %"},
    ),
    "dubai_coarse": Run(
        "segment --data $SATTXT_DATA/dubai.zip --window 112",
        "the same in windows of the input size, a quarter of the work",
        {"miou": "mIoU %"},
    ),
    "spectral": Run(
        "spectral --data $SATTXT_DATA/eurosat_ms.zip --dataset eurosat",
        "EuroSAT-MS, 184 tiles fitted, 35 val tiles",
        {"r2": "mean R² of bands and indices", "r2_mean_rgb": "the same from mean colour"},
    ),
    "spectral_s2": Run(
        "spectral --data $SATTXT_DATA/s2_tiles.zip",
        "Sentinel-2 tiles, 3,650 fitted, 333 val tiles",
        {"r2": "mean R² of bands and indices", "r2_mean_rgb": "the same from mean colour"},
    ),
    "scale": Run(
        "scale --data $SATTXT_DATA/eurosat_rgb.zip --label-set eurosat --limit 1000",
        "EuroSAT RGB, val, 1,000 tiles, resolution degraded",
        {"top1_x1": "top-1 % at 10 m", "top1_x2": "at 20 m", "top1_x4": "at 40 m", "top1_x8": "at 80 m"},
        (("scale_gsd.png", "eurosat_scale.png"),),
    ),
}

PUBLISHED = """\
| zero-shot, published (%) | EuroSAT | EuroSAT mAP@100 |
|---|---|---|
| CLIP (RGB) | 46.90 | 56.92 |
| GeoRSCLIP (RGB) | 52.92 | 51.36 |
| DOFA-CLIP (multispectral) | 59.04 | 71.54 |
| Llama3-MS-CLIP (multispectral) | 67.86 | 75.26 |
| SATtxt, ViT-L/16 (RGB) | 73.40 | 78.97 |
"""


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Run one command, keep its pictures, return its result."""
    run = RUNS[name]
    out, report = folder / f"{name}.json", folder / name
    command = [*os.path.expandvars(run.arguments).split(), "--json", str(out)]
    if run.pictures:
        command += ["--report", str(report)]
    print(f"sattxt eval {run.arguments}", flush=True)
    sattxt = str(Path(sys.executable).parent / "sattxt")
    subprocess.run([sattxt, "eval", *command], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    for source, target in run.pictures:
        if (report / source).is_file():
            shutil.copyfile(report / source, PICTURES / target)
        else:
            print(f"  no {source} among {sorted(p.name for p in report.iterdir())}")
    return json.loads(out.read_text(encoding="utf-8"))


def shown(name: str, key: str, result: dict[str, Any]) -> str:
    """A figure with its 95 % interval."""
    digits = 3 if name.startswith("spectral") or key == "ece" else 1
    text = f"{result[key]:.{digits}f}"
    interval = result.get("ci95", {}).get(key)
    return f"{text} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})" if interval else text


def page(results: dict[str, dict[str, Any]]) -> str:
    """docs/evaluation.md."""
    first = results["eurosat"]
    machine = first["environment"]["machine"]
    model, ran_on = first["model"], f"{machine['cores']} core{'s' * (machine['cores'] != 1)}, {machine['cpu']}"
    about = (
        f"Written by `scripts/measure_mini.py` on {first['date'][:10]} ({ran_on}, {model['dtype']}); "
        f"model fingerprint `{model['fingerprint'][:16]}`. "
        "Every figure is measured on the **val** split, which no training saw; what was tuned on val is the "
        "temperature, the multi-label calibration, the weight of context in segmentation and the last run's share of "
        "the weights. In brackets: 95 % bootstrap intervals. `$SATTXT_DATA` is the folder of data sets."
    )
    lines = [
        "# What sattxt-mini measures",
        "",
        about,
        "",
        "| data | figure | value | command |",
        "|---|---|---|---|",
    ]
    for name, result in results.items():
        run = RUNS[name]
        for i, (key, title) in enumerate(run.figures.items()):
            command = f"`sattxt eval {run.arguments}`" if i == 0 else ""
            lines.append(f"| {run.data if i == 0 else ''} | {title} | {shown(name, key, result)} | {command} |")
    lines += ["", "EuroSAT, RESISC45, AID and UC Merced train tiles, their class names, and the captions were used in"]
    lines += ["training: these figures say how well the model does on new tiles **of data sets it knows**, not on a"]
    lines += [
        "stranger's. The published figures below are for models that never saw EuroSAT; the two do not compare.",
        "",
    ]
    lines += [
        PUBLISHED,
        "The published SATtxt weights' own accuracy could not be measured here: they cannot be had where this",
    ]
    lines += ["was written. The same command does it where they can: `--model sattxt-vitl16`.", ""]
    lines += [
        "## EuroSAT, class by class",
        "",
        "| class | name | tiles | accuracy % | precision % |",
        "|---|---|---|---|---|",
    ]
    for row in first["per_class"]:
        lines.append(
            f"| {row['class']} | {row['name']} | {row['n']} | {row['accuracy']:.1f} | {row['precision']:.1f} |"
        )
    lines += ["", "## Paraphrases", "", "Accuracy of each phrase on its class, over all draws that use it:", ""]
    lines += ["| class | phrases (accuracy %) |", "|---|---|"]
    by_class: dict[str, list[str]] = {}
    for row in results["phrases"]["per_phrase"]:
        by_class.setdefault(row["class"], []).append(f"{row['phrase']} {row['accuracy']:.0f}")
    lines += [f"| {label} | {', '.join(phrases)} |" for label, phrases in by_class.items()]
    lines += [
        "",
        "## Bands that RGB does not hold",
        "",
        "R² on Sentinel-2 val tiles, frozen features against mean colour:",
        "",
    ]
    lines += ["| target | features | mean RGB |", "|---|---|---|"]
    for row in results["spectral_s2"]["per_target"]:
        lines.append(f"| {row['target']} | {row['features']:.3f} | {row['mean_rgb']:.3f} |")
    lines += ["", "## Pictures", ""]
    for run in RUNS.values():
        for _, target in run.pictures:
            if (PICTURES / target).is_file():
                lines += [f"![{target[:-4].replace('_', ' ')}](evaluation/{target})", ""]
    return "\n".join(lines).rstrip() + "\n"


def write_metrics(results: dict[str, dict[str, Any]]) -> None:
    """The first figures of every run, in the manifest, its copy and the bundled card."""
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    entry = next(m for m in manifest["models"] if m["name"] == "sattxt-mini")
    entry["metrics"] = [
        {
            "task": result["task"],
            "metric": title,
            "value": round(float(result[key]), 3),
            "data": RUNS[name].data,
            "command": f"sattxt eval {RUNS[name].arguments}",
            "date": result["date"][:10],
        }
        for name, result in results.items()
        for key, title in RUNS[name].figures.items()
    ]
    MANIFEST.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    refresh_manifest.main()


def main() -> None:
    """Measure everything, then write."""
    if not os.environ.get("SATTXT_DATA"):
        sys.exit("SATTXT_DATA must name the folder of data sets")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        results = {name: measure(name, Path(folder)) for name in RUNS}
    (ROOT / "docs" / "evaluation.md").write_text(page(results), encoding="utf-8")
    write_metrics(results)
    print("wrote docs/evaluation.md and the manifest's metrics")


if __name__ == "__main__":
    main()
