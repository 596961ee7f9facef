"""From nothing to the first answer: every stage's wall time and memory, each run in a fresh interpreter."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.isolate import ROOT, ChildError, environment
from benchmarks.settings import Result, Settings

_STAGES = (
    "interpreter",
    "import sattxt",
    "from sattxt import SatTxt",
    "from_pretrained",
    "first answer",
    "second answer",
)
_LABELS = ["forest", "river", "city", "farmland", "sea"]

# Each stage's end on the wall clock and the high-water mark of memory then; the model's path is the first argument.
_CHILD = """
import json, sys, time
stamps = [time.time()]
peaks = []
def mark():
    stamps.append(time.time())
    with open('/proc/self/status') if sys.platform == 'linux' else open('/dev/null') as status:
        found = [line.split()[1] for line in status if line.startswith('VmHWM:')]
    peaks.append(int(found[0]) * 1024 if found else 0)
import sattxt
mark()
from sattxt import SatTxt
mark()
model = SatTxt.from_pretrained(sys.argv[1], device=sys.argv[2])
mark()
model.zero_shot(sys.argv[3], sys.argv[4].split(','))
mark()
model.zero_shot(sys.argv[3], sys.argv[4].split(','))
mark()
print(json.dumps({'stamps': stamps, 'peaks': peaks, 'transformers': 'transformers' in sys.modules}))
"""


def run(**arguments: Any) -> dict[str, Any]:
    """All of it, as a :class:`Result` in JSON form."""
    from benchmarks import models

    settings = Settings(**arguments)
    result = Result("cold-start", settings.device)
    with models.small_model(settings) as (location, name), TemporaryDirectory(prefix="sattxt-bench-") as folder:
        tile = Path(folder) / "tile.jpg"
        _write_tile(tile)
        _stages(settings, result, location, name, tile, Path(folder))
        _imports(result)
    return result.to_dict()


def _stages(settings: Settings, result: Result, location: str, name: str, tile: Path, folder: Path) -> None:
    threads = {} if settings.threads is None else {"OMP_NUM_THREADS": str(settings.threads)}
    child = [sys.executable, "-c", _CHILD, location, settings.device, str(tile), ",".join(_LABELS)]
    command = [sys.executable, "-m", "sattxt", "classify", str(tile), "--labels", ",".join(_LABELS), "--json"]
    command += ["--model", location, "--device", settings.device]
    whole = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        "sattxt --help": [sys.executable, "-m", "sattxt", "--help"],
        "sattxt classify, text new": command,
        "sattxt classify, text cached": command,
    }
    warm = environment(SATTXT_CACHE=str(folder / "warm"), **threads)
    stages: dict[str, list[list[float]]] = {"text new": [], "text cached": []}
    peaks: dict[str, list[list[int]]] = {"text new": [], "text cached": []}
    walls: dict[str, list[float]] = defaultdict(list)
    rounds = settings.pick(7, 3, 1)
    for turn in range(rounds + (settings.size != "tiny")):  # the first fills the disk's cache and does not count
        cold = environment(SATTXT_CACHE=str(folder / f"cold-{turn}"), **threads)
        counts = turn > 0 or settings.size == "tiny"
        if turn == 0:
            _run(child, warm)
        for label, env in (("text new", cold), ("text cached", warm)):
            start = time.time()
            told = json.loads(_run(child, env))
            if counts:
                stamps = [start, *told["stamps"]]
                stages[label].append([end - begin for begin, end in pairwise(stamps)])
                peaks[label].append(told["peaks"])
                loaded = told["transformers"]
        cold = environment(SATTXT_CACHE=str(folder / f"cold-cli-{turn}"), **threads)
        for label, line in whole.items():
            start = time.perf_counter()
            _run(line, cold if label.endswith("new") else warm)
            if counts:
                walls[label].append(time.perf_counter() - start)
    base = statistics.median(walls["python -c 'import torch'"])
    totals = {label: [sum(stage[:5]) for stage in found] for label, found in stages.items()}
    rows = []
    for index, stage in enumerate(_STAGES):
        row: dict[str, Any] = {"stage": stage}
        for label in stages:
            row[f"ms, {label}"] = 1e3 * statistics.median(found[index] for found in stages[label])
        row["peak MB"] = statistics.median(found[index - 1] for found in peaks["text new"]) / 1e6 if index else ""
        rows.append(row)
    rows.append(
        {
            "stage": "process start to first answer",
            **{f"ms, {label}": 1e3 * statistics.median(found) for label, found in totals.items()},
            "peak MB": statistics.median(found[3] for found in peaks["text new"]) / 1e6,
        }
    )
    result.tables[f"Cold start, {name}"] = rows
    result.tables["Whole processes"] = [
        {"command": label, "ms": 1e3 * statistics.median(found), "× import torch": statistics.median(found) / base}
        for label, found in walls.items()
    ]
    result.panel(
        f"Cold start, {settings.device}", "ms", [(str(row["stage"]), float(row["ms, text new"])) for row in rows]
    )
    result.goal(
        f"{name}: first answer after process start",
        5,
        statistics.median(totals["text new"]),
        at_least=False,
        unit=" s",
    )
    result.notes.append("files are in the operating system's cache: the first round is not counted")
    result.notes.append(f"transformers is {'' if loaded else 'not '}imported on the way to the first answer")


def _imports(result: Result) -> None:
    """What ``from sattxt import SatTxt`` spends on which package, from one run of ``-X importtime``."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "from sattxt import SatTxt"],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        check=False,
    )
    own: dict[str, float] = defaultdict(float)
    for line in done.stderr.splitlines():
        match = re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", line)
        if match:
            own[match.group(2).split(".")[0]] += int(match.group(1)) / 1e3
    total = sum(own.values()) or 1.0
    result.tables["What importing SatTxt costs, by package (its own modules, one run under -X importtime)"] = [
        {"package": package, "ms": spent, "share": spent / total}
        for package, spent in sorted(own.items(), key=lambda item: -item[1])[:10]
    ]


def _run(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False)
    if done.returncode != 0:
        raise ChildError(f"{' '.join(command)[:80]} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def _write_tile(path: Path) -> None:
    from PIL import Image

    pixels = bytes((x * 3 + y * 5 + c * 40) % 256 for y in range(64) for x in range(64) for c in range(3))
    Image.frombytes("RGB", (64, 64), pixels).save(path, quality=90)
