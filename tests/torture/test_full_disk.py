"""Every writer on a disk that is full: one line, exit code 4, and what was there before stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from release_files import ADAPTERS, BACKBONE, LLM, TEXT_HEAD, VISION_HEAD
from tile_files import class_files, write, write_png

pytestmark = pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare(1) is needed to mount a small disk")
SATTXT = f"{sys.executable} -m sattxt"
#: Mounts 64 KB at $1, fills it but for what is written first, and runs the rest.
SCRIPT = """
mount -t tmpfs -o size=64k none "$1" || exit 99
cd "$1"
older="old.npy old.safetensors old.parquet old.png old.json old.csv"
for name in $older; do echo older > "$name"; done
head -c 1m /dev/zero > filler 2> /dev/null
eval "$2"
code=$?
for name in $older; do [ "$(cat "$name" 2> /dev/null)" = older ] || { echo "$name was lost" >&2; exit 98; }; done
exit $code
"""


def run_full(disk: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A shell command in a folder on a full disk of its own."""
    disk.mkdir(exist_ok=True)
    arguments = ["unshare", "-rm", "bash", "-c", SCRIPT, "bash", str(disk), command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 99 or "Operation not permitted" in done.stderr:
        pytest.skip("no small disk can be mounted here")
    return done


def commands(tiles: Path) -> dict[str, str]:
    """Every command that writes, by what it writes; its target is there already or new."""
    adapters = " ".join(f"--adapter {a}" for a in ADAPTERS)
    convert = f"--dinov3 {BACKBONE} --vision-head {VISION_HEAD} --text-head {TEXT_HEAD} --llm {LLM} {adapters}"
    one = next(tiles.rglob("*.png"))
    return {
        "embed, .npy": f"{SATTXT} embed {tiles} -o old.npy --overwrite",
        "embed, .safetensors": f"{SATTXT} embed {tiles} -o old.safetensors --overwrite",
        "embed, .parquet": f"{SATTXT} embed {tiles} -o old.parquet --overwrite",
        "embed, a new file": f"{SATTXT} embed {tiles} -o new.npy",
        "segment, a picture": f"{SATTXT} segment {one} --labels forest,river -o old.png --overwrite",
        "segment, a map": f"{SATTXT} segment {one} --labels forest,river --map old.npy --overwrite",
        "segment, scores": f"{SATTXT} segment {one} --labels forest,river --scores old.npy --overwrite",
        "labels build": f"{SATTXT} labels build --label-set eurosat -o old.safetensors --overwrite",
        "convert": f"{SATTXT} convert {convert} -o model",
        "classify --csv": f"{SATTXT} classify {tiles} --labels forest,river --csv > out.csv",
        "classify --json, /dev/full": f"{SATTXT} classify {tiles} --labels forest,river --json > /dev/full",
        "models, /dev/full": f"{SATTXT} models > /dev/full",
        "labels sets, /dev/full": f"{SATTXT} labels sets > /dev/full",
        "eval --json": f"{SATTXT} eval zero-shot --data {tiles} --json old.json --overwrite",
        "eval --report": f"{SATTXT} eval zero-shot --data {tiles} --report report",
        "demo": f"{SATTXT} demo --out pictures",
    }


def test_a_full_disk_under_every_command(tmp_path: Path, record: Callable[[str, str, str], None]) -> None:
    tiles = write(tmp_path / "tiles", class_files(4))
    wrong = {}
    tried = commands(tiles)
    for name, command in tried.items():
        done = run_full(tmp_path / "disk", command)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        if done.returncode != 4 or len(lines) != 1 or "no space left" not in lines[0].lower():
            wrong[name] = (done.returncode, done.stderr[-600:])
    assert wrong == {}
    record("a full disk", f"{len(tried)} commands", "one line, exit code 4, older files untouched")


CACHE = """
import warnings
from sattxt import SatTxt, SatTxtError
model = SatTxt.from_pretrained(dtype="float32", text_cache="cache.sqlite3")
try:
    print(model.encode_text(["river", "forest"]).shape)
except SatTxtError as error:
    print(type(error).__name__)
"""


def test_a_full_disk_under_the_text_cache(tmp_path: Path, record: Callable[[str, str, str], None]) -> None:
    program = tmp_path / "program.py"
    program.write_text(CACHE)
    done = run_full(tmp_path / "disk", f"{sys.executable} {program}")
    assert done.returncode == 0, done.stderr
    assert "(2, 640)" in done.stdout, (done.stdout, done.stderr)
    record("a full disk under the text cache", "1", "the vectors are given, with a warning that they are not kept")


def test_the_older_picture_stays(tmp_path: Path) -> None:
    """What the shell's check of the older files rests on: it fails where one is lost."""
    write_png(tmp_path / "a.png")
    done = run_full(tmp_path / "disk", "rm old.npy; true")
    assert done.returncode == 98
