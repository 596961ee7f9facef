"""Files with random faults: opened, or refused by a typed error; never a crash, a hang, or memory without bounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
#: Damaged files of one process; it is started anew for the next ones.
CHUNK = 500
MOST_MEMORY = 2 << 30


def torment(kind: str, first: int, last: int) -> dict[str, Any]:
    """One process of ``victim.py``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])}
    command = [sys.executable, str(HERE / "victim.py"), kind, str(first), str(last)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{kind} {first}..{last}: exit {done.returncode}\n{done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("kind", "count", "what"),
    [
        ("images", 10_000, "damaged images: 20 files of JPEG, PNG, WebP, AVIF, JPEG 2000, BMP, GIF, TIFF"),
        ("tensors", 1000, "damaged safetensors of a model, checksums forged to match"),
        ("configs", 1000, "damaged config.json, checksum forged to match"),
        ("sums", 1000, "damaged SHA256SUMS"),
        ("banks", 1000, "damaged label banks"),
        ("caches", 1000, "damaged text caches"),
        ("recipes", 1000, "damaged recipes"),
        ("label_files", 1000, "damaged label files"),
    ],
)
def test_damaged_files_are_opened_or_refused(
    kind: str, count: int, what: str, record: Callable[[str, str, str], None]
) -> None:
    with ThreadPoolExecutor(2) as pool:
        starts = range(0, count, CHUNK)
        results = list(pool.map(lambda start: torment(kind, start, min(start + CHUNK, count)), starts))
    opened, refused = (sum(r[key] for r in results) for key in ("opened", "refused"))
    untyped = [line for r in results for line in r["untyped"]]
    hangs = [line for r in results for line in r["hangs"]]
    memory = max(r["memory"] for r in results)
    assert untyped == []
    assert hangs == []
    assert memory < MOST_MEMORY
    outcome = f"{opened} opened, {refused} refused by a typed error, no hang, at most {memory >> 20} MB more memory"
    record(what, f"{count:,}", outcome)
