"""kill -9 at every step, two processes at once, shards, Ctrl-C: the rows are a clean run's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from store_files import write_scene

HERE = Path(__file__).parents[1]


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


@pytest.mark.parametrize(
    ("every", "least"), [(17, 4), pytest.param(1, 60, marks=pytest.mark.slow)], ids=["some steps", "every step"]
)
def test_nothing_is_lost_and_nothing_is_twice(tmp_path: Path, golden_model_dir: Path, every: int, least: int) -> None:
    write_scene(tmp_path / "scenes" / "two-units.tif", seed=1)
    write_scene(tmp_path / "scenes" / "one.tif", seed=2, size=(64, 40), east=2000)
    arguments = [golden_model_dir, tmp_path / "scenes", tmp_path, every]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    done = subprocess.run(
        [sys.executable, HERE / "killed_store.py", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.match(r"killed at (\d+) steps\ntwo at once\nthree shards\nCtrl-C\n$", done.stdout)
    assert found, done.stdout
    assert int(found[1]) >= least
