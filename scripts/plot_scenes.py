#!/usr/bin/env python3
"""A sheet of the drawn scenes that training can take, a column each.

.venv/bin/python scripts/plot_scenes.py --out docs/studies/scenes.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from sattxt.training.scenes import SCENES, draw_scenes

SIDE = 64


def main() -> None:
    """Write one picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5, help="tiles of each scene")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="image file to write")
    given = parser.parse_args()
    if given.rows < 1:
        parser.error(f"--rows {given.rows}: pass 1 or more")
    columns = len(SCENES)
    tiles = draw_scenes(given.rows * columns, seed=given.seed, size=SIDE).images
    grid = tiles.view(given.rows, columns, 3, SIDE, SIDE).permute(0, 3, 1, 4, 2)
    Image.fromarray(grid.reshape(given.rows * SIDE, columns * SIDE, 3).numpy()).save(given.out)
    print(given.out)


if __name__ == "__main__":
    main()
