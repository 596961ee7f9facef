#!/usr/bin/env python3
"""Two studies of the mini recipe: what carries over to a data set left out of training, and what stage 1 and
instructions are worth.

    SATTXT_DATA=DATA .venv/bin/python scripts/studies.py leave-out --dataset eurosat --run runs/studies
    SATTXT_DATA=DATA .venv/bin/python scripts/studies.py ablation --run runs/studies

Each runs `sattxt` commands (--dry-run prints them), then prints a table and writes JSON under docs/studies/. What has
finished in the run's folder is not run again; a training that was stopped goes on from its checkpoint. Everything is
measured on val splits.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from sattxt.training import Recipe, read_recipe
from sattxt.training.scenes import SCENES

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "mini-third"

#: Archive and label set of each data set that can be left out or measured on.
DATASETS = {
    "eurosat": ("eurosat_rgb.zip", "eurosat"),
    "resisc45": ("resisc45_128.zip", "resisc45"),
    "ucm": ("ucm.zip", "ucmerced"),
}
S2 = "s2_tiles.zip"

#: Stage 1 of both studies, from the ImageNet backbone: Sentinel-2 tiles alone, so that it is the same whatever is left
#: out of stage 2.
STAGE1: dict[str, Any] = {"srd.pairs.eurosat-ms": None, "srd.steps": 200}

#: Stage 2 with a data set left out, from that stage 1: nothing that has seen the data set is a start.
LEAVE_OUT: dict[str, Any] = {
    "align.steps": 600,
    "align.warmup": 50,
    "align.frozen_layers": 0,  # stage 1 is short: the early layers have not met aerial tiles yet
    "align.initial_scale": 20.0,
    "align.backbone_lr": 6e-4,
    "align.head_lr": 1e-3,
    "align.ema": 0.995,
}
LEAVE_OUT_SEED = 0
#: What holds for one data set only: 10 m tiles are to be met through Sentinel-2 tiles, and aerial ones in their style.
LEAVE_OUT_OF: dict[str, dict[str, Any]] = {
    "eurosat": {
        "image.size": 64,
        "align.sizes": [64],
        "align.size_weights": [1.0],
        "align.steps": 1400,
        "align.sets.s2.count": 44,
        "align.class_prior": 1.0,
        "align.restyle": 0.4,
        "align.restyle_from": "s2",
        "align.sets.fields.count": 8,
        "align.augment.noise": 0.004,  # grain would hide how smooth water is beside forest
        "align.augment.coarse_probability": 0.4,
        "align.augment.atmosphere_probability": 0.6,
    },
    "resisc45": {
        "image.size": 96,
        "align.sizes": [64, 96],
        "align.size_weights": [0.6, 0.4],
        "align.steps": 1800,
        "align.warmup": 60,
        "align.tile_mix": 0.4,  # what is left is little, and learnt by heart in 1,800 steps
        "align.tile_mix_in": ["aid", "ucm"],
        "align.captions": 3,
        "align.contrast": "set",
        "align.ema": 0.997,
        "align.sets.eurosat.count": 6,
        "align.sets.aid.count": 58,
        "align.sets.ucm.count": 16,
        "align.sets.s2.count": 4,
        "align.sets.fields.count": 1,
        "align.sets.scenes": {
            "kind": "scenes",
            "tiles": 4200,
            "count": 14,
            "vocabulary": "scenes",
            "scenes": [scene for scene in SCENES if scene not in ("annual_crops", "orchards")],
        },
    },
    "ucm": {
        "image.size": 96,
        "align.sizes": [64, 96],
        "align.size_weights": [0.5, 0.5],
        "align.sets.eurosat.count": 12,
        "align.sets.resisc45.count": 56,
        "align.sets.s2.count": 8,
        "align.sets.fields.count": 2,
        "align.steps": 900,
    },
}
#: Further runs of stage 2, each from the one before and with a seed of its own: what differs from the first.
FURTHER: dict[str, tuple[dict[str, Any], ...]] = {
    "eurosat": (
        {"align.backbone_lr": 3e-4, "align.head_lr": 6e-4},
        {
            "align.backbone_lr": 3e-4,
            "align.head_lr": 6e-4,
            "align.steps": 1150,
            "align.sets.scenes": {"kind": "scenes", "tiles": 4800, "size": 64, "count": 16, "vocabulary": "scenes"},
        },
    ),
    "resisc45": (
        {
            "image.size": 112,
            "align.sizes": [80, 112],
            "align.size_weights": [0.5, 0.5],
            "align.backbone_lr": 3e-4,
            "align.head_lr": 6e-4,
            "align.steps": 950,
        },
    ),
}
#: Data sets for which the last two runs' models are averaged, half and half.
AVERAGED = frozenset({"eurosat", "resisc45"})
ADAPT_TILES = 2000
#: How scores are read: the flag of `sattxt eval zero-shot`, and what it takes from the evaluated tiles, unlabelled.
READINGS = {
    "each by itself": ("", ""),
    "centred": ("--centre-scores", "mean scores"),
    "together": ("--together", "embeddings"),
}
#: What a class is called: its own name in the data set, or all that the recipe's vocabulary calls it, averaged. The
#: phrases of the data set that is left out are no part of training.
NAMES, PHRASES = "own names", "phrases"
#: The readings of each.
WORDS = {NAMES: tuple(READINGS), PHRASES: ("each by itself", "together")}

#: Stage 2 of the ablation. The paper freezes the backbone; so is this one but for its last convolution, which the
#: ImageNet checkpoint lacks (it would stay random). No captions written from bands: spectral knowledge can come from
#: stage 1 alone. Tiles are read as needed, since each run sees few of them.
ABLATION: dict[str, Any] = {
    "image.size": 64,
    "align.sizes": [64],
    "align.size_weights": [1.0],
    "align.frozen_layers": 25,
    "align.steps": 120,
    "align.warmup": 20,
    "align.ema": 0.98,
    "align.sets.s2": None,
    "align.sets.fields": None,
    "align.sets.eurosat.memory": False,
    "align.sets.resisc45.memory": False,
    "align.sets.aid.memory": False,
    "align.sets.ucm.memory": False,
}
SEEDS = (0, 1, 2)
#: Backbone and instructions. ``s2-statistics`` is the control: stage 1 with learning rates of 0, so that only its
#: BatchNorm statistics are measured on the Sentinel-2 tiles and nothing is learnt (of a teacher of random weights).
ARMS = (
    ("imagenet", "none"),
    ("s2-statistics", "none"),
    ("stage1", "none"),
    ("stage1", "default"),
)
INSTRUCTIONS: dict[str, Any] = {"none": [], "default": "default"}
NOTHING_LEARNT: dict[str, Any] = {
    "srd.teacher": {"kind": "random", "bands": ["B02", "B03", "B04"], "width": 128, "patch": 8},
    "srd.teacher_cache": False,
    "srd.backbone_lr": 0.0,
    "srd.head_lr": 0.0,
    "srd.steps": 60,
}
MEASURED = ("eurosat", "resisc45")
MEASURED_TILES = 1000
TARGETS = ("NDVI", "NIR B08", "SWIR B11", "SWIR B12")
NORM_BATCHES = 20

Settings = dict[str, Any]


SATTXT, AVERAGE = "sattxt", "scripts/average_models.py"


class Part(NamedTuple):
    """One command. folder: of a training run, which can be resumed. program: sattxt, or a script of this repository."""

    name: str
    arguments: list[str]
    folder: Path | None = None
    program: str = SATTXT


class Study:
    """The commands of a study, run in order, each once."""

    def __init__(self, data: str, run: Path) -> None:
        self.data, self.run = data, run
        self.parts: list[Part] = []

    # -- commands --------------------------------------------------------------------------------------------------

    def file(self, name: str) -> str:
        """A file of the data folder."""
        return f"{self.data}/{name}"

    def result(self, name: str) -> Path:
        """Where an evaluation's JSON goes."""
        return self.run / "results" / f"{name}.json"

    def add(self, name: str, *arguments: str | Path, folder: Path | None = None, program: str = SATTXT) -> None:
        """A command, unless it is there already."""
        if name not in [part.name for part in self.parts]:
            self.parts.append(Part(name, [str(argument) for argument in arguments], folder, program))

    def stage1(self, seed: int, *, learns: bool = True) -> Path:
        """Stage 1 from the ImageNet backbone; returns its folder."""
        name = f"{'stage1' if learns else 's2-statistics'}-{seed}"
        settings = STAGE1 if learns else {**STAGE1, **NOTHING_LEARNT}
        read_recipe(RECIPE, settings)
        folder = self.run / name
        common = ("--config", RECIPE, "--data", self.data, "--run", folder, "--seed", str(seed))
        self.add(name, "train", "srd", *common, *_set(settings), folder=folder)
        return folder

    def align(self, name: str, settings: Settings, seed: int, init: Path | None) -> Path:
        """Stage 2 and its export; returns the model's folder."""
        folder, model = self.run / name, self.run / f"{name}-model"
        start = () if init is None else ("--init", init)
        common = ("--config", RECIPE, "--data", self.data, "--run", folder, "--seed", str(seed), *start)
        self.add(name, "train", "align", *common, *_set(settings), "--validate-every", "100000", folder=folder)
        self.add(
            f"{name}-export", "train", "export", *common, *_set(settings), "--out", model, "--overwrite",
            "--norm-batches", str(NORM_BATCHES),
        )  # fmt: skip
        return model

    def average(self, name: str, first: Path, second: Path) -> Path:
        """Two models' weights, half and half; returns the model's folder."""
        out = self.run / name
        self.add(name, first, second, "--share", "0.5", "--out", out, program=AVERAGE)
        return out

    def adapt(self, name: str, model: Path, archive: str, kind: str) -> Path:
        """A model with its statistics adapted to an archive's train split; returns its folder."""
        out = self.run / name
        self.add(
            name, "train", "adapt", "--model", model, "--images", self.file(archive), "--kind", kind,
            "--split", "train", "--limit", str(ADAPT_TILES), "--out", out, "--overwrite",
        )  # fmt: skip
        return out

    def zero_shot(self, name: str, model: Path, dataset: str, *more: str, words: Path | None = None) -> None:
        """Zero-shot on a val split with the data set's own class names, or those of a file."""
        archive, labels = DATASETS[dataset]
        called = ("--label-set", labels) if words is None else ("--names", words)
        self.add(
            name, "eval", "zero-shot", "--data", self.file(archive), *called, "--split", "val",
            "--model", model, "--dtype", "float32", "--json", self.result(name), *more,
        )  # fmt: skip

    def spectral(self, name: str, model: Path) -> None:
        """How well frozen features predict bands, fitted on Sentinel-2 train tiles, measured on val tiles."""
        self.add(
            name, "eval", "spectral", "--data", self.file(S2), "--split", "val", "--model", model,
            "--dtype", "float32", "--json", self.result(name),
        )  # fmt: skip

    # -- running ---------------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Print the commands."""
        for part in self.parts:
            print(_line(part))

    def execute(self) -> None:
        """Run what has not finished yet, in order."""
        (self.run / "results").mkdir(parents=True, exist_ok=True)
        (self.run / "done").mkdir(exist_ok=True)
        for number, part in enumerate(self.parts, 1):
            done = self.run / "done" / f"{part.name}.json"
            if done.is_file():
                if json.loads(done.read_text(encoding="utf-8")) != part.arguments:
                    sys.exit(
                        f"{done}: {part.name} was run with other settings; pass another --run, or delete that file"
                    )
                continue
            print(f"[{number}/{len(self.parts)}] {_line(part)}", flush=True)
            self._one(part)
            done.write_text(json.dumps(part.arguments), encoding="utf-8")

    def _one(self, part: Part) -> None:
        arguments, shared = part.arguments, self.run / "texts.sqlite3"
        own = None if part.folder is None or "align" not in arguments else part.folder / "texts.sqlite3"
        if part.folder is not None and (part.folder / "last.ckpt").is_file():
            arguments = [*arguments, "--resume"]
        if own is not None and shared.is_file() and not own.exists():
            _copy_database(shared, own)
        program = [str(Path(sys.executable).parent / "sattxt")]
        if part.program != SATTXT:
            program = [sys.executable, str(ROOT / part.program)]
            shutil.rmtree(arguments[arguments.index("--out") + 1], ignore_errors=True)  # of a run that was killed
        code = subprocess.run([*program, *arguments], cwd=ROOT).returncode
        if code:
            sys.exit(f"{part.name}: exit code {code}; the same command goes on from here")
        if own is not None:
            _copy_database(own, shared)  # each text is embedded once for all runs

    def commands(self) -> list[str]:
        """The commands as they go into the JSON: no folder of this machine."""
        lines = [_line(part) for part in self.parts]
        folders = ((str(self.run), "RUN"), (self.data, "$SATTXT_DATA"))
        for folder, word in folders:
            lines = [line.replace(folder, word) for line in lines]
        return lines

    def read(self, name: str) -> dict[str, Any]:
        """An evaluation's JSON."""
        found: dict[str, Any] = json.loads(self.result(name).read_text(encoding="utf-8"))
        return found


def _line(part: Part) -> str:
    return shlex.join([*([] if part.program == SATTXT else ["python"]), part.program, *part.arguments])


def _set(settings: Settings) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={_yaml(value)}")]


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _copy_database(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(target)) as here:
        there.backup(here)


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _write(out: Path, name: str, document: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\nwrote {path}")


# -- leave one data set out ------------------------------------------------------------------------------------------


def leave_out(dataset: str, data: str, run: Path, out: Path, *, dry_run: bool) -> None:
    """Zero-shot on a data set of which training has seen no picture, label or caption."""
    study, seed = Study(data, run), LEAVE_OUT_SEED
    archive = DATASETS[dataset][0]
    settings = {"leave_out": dataset, **LEAVE_OUT, **LEAVE_OUT_OF[dataset]}
    recipe = _without(dataset, settings)
    exported = study.align(f"without-{dataset}", settings, seed, study.stage1(seed))
    further, before = FURTHER.get(dataset, ()), exported
    for number, changed in enumerate(further, 2):
        recipe, before = _without(dataset, {**settings, **changed}), exported
        exported = study.align(f"without-{dataset}-{number}", {**settings, **changed}, seed + number - 1, exported)
    if dataset in AVERAGED:
        exported = study.average(f"without-{dataset}-average", before, exported)
    models = {
        "as exported": (exported, ""),
        "of s2_tiles": (study.adapt(f"without-{dataset}-s2", exported, S2, "s2"), "s2_tiles train: statistics"),
        f"of {dataset}": (
            study.adapt(f"without-{dataset}-own", exported, archive, "images"),
            f"{dataset} train, at most {ADAPT_TILES:,} tiles: statistics",
        ),
    }
    plan = []
    phrases = run / f"{dataset}-phrases.json"
    for number, (statistics_, (model, unlabelled)) in enumerate(models.items()):
        for words, reading in ((words, reading) for words, readings in WORDS.items() for reading in readings):
            flag, seen = READINGS[reading]
            which = (
                ("exported", "s2", "own")[number],
                *([reading] if flag else []),
                *([words] if words != NAMES else []),
            )
            name = f"without-{dataset}-{'-'.join(which)}-zero-shot"
            study.zero_shot(name, model, dataset, *([flag] if flag else []), words=phrases if words != NAMES else None)
            val = f"{dataset} val, the evaluated tiles: {seen} (transductive)" if flag else ""
            plan.append((name, statistics_, words, reading, "; ".join(filter(None, (unlabelled, val))) or "none"))
    if dry_run:
        study.show()
        return
    run.mkdir(parents=True, exist_ok=True)
    phrases.write_text(json.dumps(read_recipe(RECIPE).vocabulary[dataset]), encoding="utf-8")
    study.execute()
    rows = []
    for name, statistics_, words, reading, unlabelled in plan:
        found = study.read(name)
        rows.append(
            {
                "statistics": statistics_,
                "classes_called": words,
                "tiles": reading,
                "top1": found["top1"],
                "ci95": found["ci95"]["top1"],
                "balanced_accuracy": found["balanced_accuracy"],
                "n": found["n"],
                "unlabelled_data_seen": unlabelled,
                "transductive": bool(READINGS[reading][0]),
            }
        )
    shown = [
        ["statistics", "classes called", "tiles", "top-1 %", "95 %", "unlabelled data seen beside the training data"]
    ]
    shown += [
        [
            row["statistics"],
            row["classes_called"],
            row["tiles"],
            f"{row['top1']:.1f}",
            "{:.1f} to {:.1f}".format(*row["ci95"]),
            row["unlabelled_data_seen"],
        ]
        for row in rows
    ]
    print(f"\nzero-shot on {dataset} val, nothing of {dataset} in training (seed {seed})\n\n{_table(shown)}")
    document = {
        "study": "leave-out",
        "dataset": dataset,
        "measured_on": f"{archive}, val split, class names of the label set {DATASETS[dataset][1]}, or the phrases of "
        "the recipe's vocabulary, all of a class averaged",
        "trained_on": {
            "stage 1": "s2_tiles train (all bands), from the ImageNet backbone",
            "stage 2": [entry["name"] for entry in recipe.sets],
        },
        "notes": [
            f"No picture, label, caption or vocabulary of {dataset} is in training. s2_tiles train tiles are in both "
            "stages, in stage 2 with captions written from their bands and our own land cover labels (s2_covers.json), "
            "whose classes have much in common with EuroSAT's.",
            "Centred scores use the evaluated tiles, unlabelled, and assume about balanced classes; tiles classified "
            "together use them too, and assume that every class is among them.",
            "One seed (a further run has the next): the interval is over tiles (bootstrap), not over runs.",
        ],
        "settings": {
            "stage 1": STAGE1,
            "stage 2": settings,
            "further runs": list(further),
            "last two averaged": dataset in AVERAGED,
            "seed": seed,
            "adapt_tiles": ADAPT_TILES,
        },
        "rows": rows,
        "commands": study.commands(),
    }
    _write(out, f"leave-out-{dataset}", document)


def _without(dataset: str, settings: Settings) -> Recipe:
    """The recipe of stage 2, checked: nothing of the data set is in it."""
    recipe, archive = read_recipe(RECIPE, settings), DATASETS[dataset][0]
    told = [entry["name"] for entry in recipe.sets if entry.get("path") == archive or entry["name"] == dataset]
    if told:
        sys.exit(f"{dataset} is still in training: {', '.join(told)}")
    return recipe


# -- ablation --------------------------------------------------------------------------------------------------------


def ablation(data: str, run: Path, out: Path, seeds: Sequence[int] = SEEDS, *, dry_run: bool) -> None:
    """What stage 1 and instructions are worth: arms that differ in nothing else, over several seeds."""
    study = Study(data, run)
    for seed in seeds:
        starts = {
            "imagenet": None,
            "stage1": study.stage1(seed),
            "s2-statistics": study.stage1(seed, learns=False),
        }
        for backbone, instructions in ARMS:
            settings = {**ABLATION, "align.instructions": INSTRUCTIONS[instructions]}
            read_recipe(RECIPE, settings)
            name = _arm(backbone, instructions, seed)
            model = study.align(name, settings, seed, starts[backbone])
            for dataset in MEASURED:
                study.zero_shot(f"{name}-{dataset}", model, dataset, "--limit", str(MEASURED_TILES))
            if instructions == "none":
                study.spectral(f"{name}-spectral", model)
    if dry_run:
        study.show()
        return
    study.execute()
    values = {arm: _figures(study, *arm, seeds) for arm in ARMS}
    baseline = {
        row["target"]: row["mean_rgb"]
        for row in study.read(f"{_arm('imagenet', 'none', seeds[0])}-spectral")["per_target"]
        if row["target"] in TARGETS
    }
    columns = [*MEASURED, *TARGETS]
    header = ["backbone", "instructions", *(f"{c} top-1 %" for c in MEASURED), *(f"{c} R²" for c in TARGETS)]
    shown = [header, *([*arm, *(_spread(values[arm].get(c)) for c in columns)] for arm in ARMS)]
    shown.append(["mean colour", "", *("" for _ in MEASURED), *(f"{baseline[c]:.3f}" for c in TARGETS)])
    print(f"\nmean ± standard deviation over seeds {', '.join(map(str, seeds))}\n\n{_table(shown)}")
    differences = [
        (("stage1", "none"), ("imagenet", "none")),
        (("stage1", "none"), ("s2-statistics", "none")),
        (("s2-statistics", "none"), ("imagenet", "none")),
        (("stage1", "default"), ("stage1", "none")),
    ]
    apart = [
        {
            "what": f"{'/'.join(one)} less {'/'.join(other)}",
            **{
                c: _differ(values[one][c], values[other][c]) for c in columns if c in values[one] and c in values[other]
            },
        }
        for one, other in differences
        if one in values and other in values
    ]
    shown = [["difference, seed by seed", *columns]]
    shown += [[row["what"], *(_spread(row[c]["by_seed"]) if c in row else "" for c in columns)] for row in apart]
    print(f"\n{_table(shown)}")
    document = {
        "study": "ablation",
        "measured_on": {
            **{d: f"{DATASETS[d][0]}, val split, {MEASURED_TILES:,} tiles evenly spaced" for d in MEASURED},
            "spectral": f"{S2}: ridge regressions on frozen embeddings, fitted on train, R² on val; no tile of val is "
            "in stage 1",
        },
        "notes": [
            "Both data sets' train splits are in stage 2 of every arm: what counts is how arms differ.",
            "Backbone frozen but for its last convolution, which the ImageNet checkpoint lacks; 64 px; no captions "
            "written from bands; prompts are plain (no instruction) wherever accuracy is measured.",
            "s2-statistics is stage 1 with learning rates of 0: its BatchNorm statistics, and nothing learnt.",
            "Standard deviations are over seeds (n - 1); a seed sets stage 1, heads, batches and augmentation.",
        ],
        "settings": {
            "stage 1": STAGE1,
            "stage 2": ABLATION,
            "instructions": INSTRUCTIONS,
            "s2-statistics": NOTHING_LEARNT,
            "seeds": list(seeds),
            "norm_batches": NORM_BATCHES,
        },
        "arms": [
            {
                "backbone": backbone,
                "instructions": instructions,
                **{c: _summary(v) for c, v in values[backbone, instructions].items()},
            }
            for backbone, instructions in ARMS
        ],
        "differences": apart,
        "r2_of_mean_colour": baseline,
        "commands": study.commands(),
    }
    _write(out, "ablation", document)


def _arm(backbone: str, instructions: str, seed: int) -> str:
    return f"ablation-{backbone}-{instructions}-{seed}"


def _figures(study: Study, backbone: str, instructions: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Each figure's values, one a seed."""
    names = [_arm(backbone, instructions, seed) for seed in seeds]
    found = {d: [float(study.read(f"{name}-{d}")["top1"]) for name in names] for d in MEASURED}
    if instructions == "none":
        tables = [study.read(f"{name}-spectral")["per_target"] for name in names]
        by_target = [{row["target"]: float(row["features"]) for row in rows} for rows in tables]
        found |= {target: [rows[target] for rows in by_target] for target in TARGETS}
    return found


def _summary(values: list[float]) -> dict[str, Any]:
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {
        "mean": round(statistics.mean(values), 4),
        "std": None if spread is None else round(spread, 4),
        "by_seed": [round(value, 4) for value in values],
    }


def _differ(one: list[float], other: list[float]) -> dict[str, Any]:
    return _summary([a - b for a, b in zip(one, other, strict=True)])


def _spread(values: list[float] | None) -> str:
    if not values:
        return ""
    digits = 3 if max(map(abs, values)) <= 1 else 1
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def main(arguments: list[str] | None = None) -> None:
    """Run one study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("leave-out", "ablation"))
    parser.add_argument("--dataset", choices=tuple(DATASETS), help="leave-out: the data set that is left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="ablation: seeds to run (all: 0 1 2)")
    parser.add_argument("--run", type=Path, required=True, help="folder of runs, models and results")
    parser.add_argument("--data", default=os.environ.get("SATTXT_DATA"), help="default: $SATTXT_DATA")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "studies", help="where the JSON goes")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    given = parser.parse_args(arguments)
    if given.data is None and not given.dry_run:
        parser.error("pass --data, or set SATTXT_DATA to the folder of data sets")
    if (given.study == "leave-out") != (given.dataset is not None):
        parser.error("--dataset goes with leave-out, and leave-out needs it")
    data, run = (given.data or "$SATTXT_DATA").rstrip("/"), given.run if given.dry_run else given.run.resolve()
    if not given.dry_run:
        data = str(Path(data).resolve())
    if given.study == "leave-out":
        leave_out(given.dataset, data, run, given.out, dry_run=given.dry_run)
    else:
        ablation(data, run, given.out, tuple(given.seeds), dry_run=given.dry_run)


if __name__ == "__main__":
    main()
