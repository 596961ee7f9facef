"""Eight processes on one text cache, and on one label bank, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

PROCESSES = 8
HERE = Path(__file__).parent
Record = Callable[[str, str, str], None]


def run_together(program: str, arguments: list[str]) -> list[str]:
    """What eight processes of a program print that all start at one moment; each gets its number."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(number), *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    ended = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-2000:]
        ended.append(out)
    return ended


CACHE = """
import sys
import numpy as np
from sattxt import TextCache
def vectors_of(texts):
    return np.stack([np.random.default_rng(list(t.encode())).standard_normal(64) for t in texts]).astype("f4")
number, path = sys.argv[1:]
cache = TextCache(path)
print("ready", flush=True)
sys.stdin.readline()
for i in range(100):
    texts = [f"{number} {i} {j}" for j in range(5)] + [f"shared {i} {j}" for j in range(5)]
    cache.put_many("space", texts, vectors_of(texts))
    found = cache.get_many("space", texts)
    assert np.array_equal(np.stack([found[text] for text in texts]), vectors_of(texts))
"""


def test_eight_processes_share_a_cache(tmp_path: Path, record: Record) -> None:
    from sattxt import TextCache

    path = tmp_path / "text.sqlite3"
    run_together(CACHE, [str(path)])
    texts = [f"{who} {i} {j}" for who in (*range(PROCESSES), "shared") for i in range(100) for j in range(5)]
    with TextCache(path) as cache:
        found = cache.get_many("space", texts)
    assert set(found) == set(texts)
    for text in texts[::37]:
        assert np.array_equal(found[text], np.random.default_rng(list(text.encode())).standard_normal(64).astype("f4"))
    record("eight processes on one text cache", "800 writes", f"all {len(texts):,} vectors there and equal")


BANK = """
import sys
from sattxt import SatTxt
number, path = sys.argv[1:]
model = SatTxt.from_pretrained(dtype="float32", text_cache=False)
labels = ["forest", "river", "city"]
print("ready", flush=True)
sys.stdin.readline()
for i in range(10):
    model.export_labels(path, labels, overwrite=True)
    bank = model.import_labels(path)
    assert list(bank.prompts) == labels
print(bank.vectors.tobytes().hex()[:64])
"""


def test_eight_processes_share_a_bank(tmp_path: Path, record: Record) -> None:
    path = tmp_path / "labels.safetensors"
    printed = run_together(BANK, [str(path)])
    assert len(set(printed)) == 1
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []
    record("eight processes that write and read one label bank", "80 writes", "every reading whole, all equal")
