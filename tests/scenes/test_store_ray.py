"""Ray: the same rows as the local engine, though an actor is killed in the middle."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from store_files import write_scene

HERE = Path(__file__).parents[1]


@pytest.mark.slow
def test_an_actor_that_dies_changes_nothing(tmp_path: Path, golden_model_dir: Path) -> None:
    for number in range(8):
        write_scene(tmp_path / "scenes" / f"s{number}.tif", seed=number, size=(320, 320), east=number * 5000)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    done = subprocess.run(
        [sys.executable, HERE / "ray_store.py", golden_model_dir, tmp_path / "scenes", tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"^1 killed, \d{3,} rows$", done.stdout, re.MULTILINE), done.stdout
