#!/usr/bin/env python3
"""Measure which window suits segmentation with the bundled model: the table in docs/cli.md.

    SATTXT_DATA=DATA .venv/bin/python scripts/measure_windows.py

Sentinel-2: ten mosaics of 4 x 4 EuroSAT val tiles of different classes, 256 px at 10 m; the share of pixels that get
the name of their tile's class. Aerial: mIoU of `sattxt eval segment` on Dubai val. Takes about ten minutes on a
core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from sattxt import SatTxt
from sattxt.data.registry import open_data

WINDOWS = (28, 40, 56, 80, 112, 160)
MOSAICS, SIDE, TILE = 10, 4, 64


def measure_mosaics(model: SatTxt, eurosat: Path) -> dict[int, float]:
    """Per cent of pixels named right, by window."""
    data = open_data(eurosat, "eurosat").split("val")
    rng = np.random.default_rng(0)
    right: dict[int, list[float]] = {window: [] for window in WINDOWS}
    for _ in range(MOSAICS):
        chosen = rng.choice(len(data), SIDE * SIDE, replace=False)
        tiles = np.stack([data.image(int(i)) for i in chosen]).reshape(SIDE, SIDE, TILE, TILE, 3)
        mosaic = tiles.swapaxes(1, 2).reshape(SIDE * TILE, SIDE * TILE, 3)
        truth = np.array([data.samples[int(i)].labels[0] for i in chosen]).reshape(SIDE, SIDE)
        truth = truth.repeat(TILE, axis=0).repeat(TILE, axis=1)
        for window in WINDOWS:
            found = model.segment(mosaic, label_set="eurosat", window=window).label_map
            right[window].append(100 * float((found == truth).mean()))
    return {window: float(np.mean(shares)) for window, shares in right.items()}


def measure_dubai(data: Path, window: int) -> float:
    """Per cent mIoU over the five classes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dubai.json"
        command = [sys.executable, "-m", "sattxt", "eval", "segment", "--data", str(data), "--window", str(window)]
        subprocess.run([*command, "--json", str(out)], check=True, stdout=subprocess.DEVNULL)
        return float(json.loads(out.read_text())["miou"])


def main() -> None:
    """Print the table."""
    data = Path(os.environ["SATTXT_DATA"])
    mosaics = measure_mosaics(SatTxt.from_pretrained(dtype="float32"), data / "eurosat_rgb.zip")
    print("| window | Sentinel-2 mosaics, pixels named right | Dubai, mIoU |\n|---|---|---|")
    for window in WINDOWS:
        print(f"| {window} | {mosaics[window]:.1f} % | {measure_dubai(data / 'dubai.zip', window):.1f} % |", flush=True)


if __name__ == "__main__":
    main()
