"""Adds scenes to a store on Ray, on two CPUs, while an actor is killed in the middle.

python ray_store.py MODEL SCENES FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import ray
from store_files import all_rows

from sattxt import SatTxt
from sattxt.scenes import Store


def kill_an_actor(folder: Path, killed: list[int]) -> None:
    """Kill the process of the first actor that has written a part."""
    while not killed:
        if list(folder.glob("parts/*/*.parquet")):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    words = (process / "cmdline").read_bytes()
                except OSError:
                    continue
                if words.startswith(b"ray::") and b"EmbedUnits" in words:
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))
                    return
        time.sleep(0.005)


def main() -> None:
    model_dir, scenes, folder = (Path(argument) for argument in sys.argv[1:])
    model = SatTxt.from_pretrained(model_dir, dtype="float32", text_cache=False)
    sources = sorted(map(str, scenes.glob("*.tif")))
    local, far = (Store.create(folder / name, model, chip=32) for name in ("local", "far"))
    local.add(sources)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    killed: list[int] = []
    watcher = threading.Thread(target=kill_an_actor, args=(folder / "far", killed), daemon=True)
    watcher.start()
    report = far.add(sources, engine="ray")
    assert report.failures == []
    assert all_rows(local) == all_rows(far)
    assert far.add(sources, engine="ray").done == len(sources)
    print(f"{len(killed)} killed, {report.rows} rows")
    ray.shutdown()


if __name__ == "__main__":
    main()
