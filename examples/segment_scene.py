"""Draw an open-vocabulary label map of a scene.

    python examples/segment_scene.py scene.tif --labels "water,forest,buildings" --out map.png

Without a path it maps the Mediterranean on NASA's Blue Marble (needs the extra: pip install 'sattxt[demo]').
"""

import argparse

from sattxt import SatTxt
from sattxt.demo import blue_marble

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("image", nargs="?")
parser.add_argument("--labels", default="sea,desert,green vegetation")
parser.add_argument("--window", type=int, default=None, help="smaller windows give finer maps")
parser.add_argument("--out", default="map.png")
arguments = parser.parse_args()

scene = arguments.image or blue_marble()[600:1100, 2550:3300]
model = SatTxt.from_pretrained()
result = model.segment(scene, [label.strip() for label in arguments.labels.split(",")], window=arguments.window)
result.save_png(arguments.out)
for label, share in result.shares.items():
    print(f"{label:<20} {100 * share:5.1f} %")
print(f"wrote {arguments.out}")
