"""Scenes (GeoTIFF, Sentinel-2 products) to stores that are searched by words, and to maps.

>>> from sattxt.scenes import Store
>>> store = Store.create("places")
>>> store.add("scenes/*.tif")
>>> store.search("solar farm", k=10).to_geojson("hits.geojson")

The names are imported on first use. Needs the extra ``geo``; ``search`` for an index over many chips.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sattxt.scenes.change import ChangedArea, Changes
    from sattxt.scenes.heatmap import HeatLayer, HeatMap, heatmap_scene
    from sattxt.scenes.hits import Hit, Hits
    from sattxt.scenes.maps import SceneSegmentation
    from sattxt.scenes.open import open_scenes
    from sattxt.scenes.raster import Scene
    from sattxt.scenes.segmentation import segment_scene
    from sattxt.scenes.store import Store

_HOMES = {
    "ChangedArea": "sattxt.scenes.change",
    "Changes": "sattxt.scenes.change",
    "HeatLayer": "sattxt.scenes.heatmap",
    "HeatMap": "sattxt.scenes.heatmap",
    "Hit": "sattxt.scenes.hits",
    "Hits": "sattxt.scenes.hits",
    "Scene": "sattxt.scenes.raster",
    "SceneSegmentation": "sattxt.scenes.maps",
    "Store": "sattxt.scenes.store",
    "heatmap_scene": "sattxt.scenes.heatmap",
    "open_scenes": "sattxt.scenes.open",
    "segment_scene": "sattxt.scenes.segmentation",
}

__all__ = [
    "ChangedArea",
    "Changes",
    "HeatLayer",
    "HeatMap",
    "Hit",
    "Hits",
    "Scene",
    "SceneSegmentation",
    "Store",
    "heatmap_scene",
    "open_scenes",
    "segment_scene",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sattxt.scenes' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
