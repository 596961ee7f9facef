"""STAC items (1.0 and 1.1): a JSON file that names a scene's bands, date and offsets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sattxt.errors import SceneError
from sattxt.images.bands import canonical
from sattxt.io import first_line
from sattxt.scenes.products import SCL_CLOUDS, Product, parse_moment
from sattxt.scenes.raster import Band, CloudMask

_SPECTRAL = (*(f"B{number:02d}" for number in range(1, 13)), "B8A")
_SINCE_0400 = 1000.0


def is_item(path: Path) -> bool:
    """Whether a JSON file is a STAC item."""
    try:
        content = path.read_bytes()
        return b'"stac_version"' in content and json.loads(content).get("type") == "Feature"
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def read_item(path: Path) -> Product:
    """The product of a STAC item with its assets at hand.

    A band is an asset of one band that is named for it (``eo:bands``, ``bands``, or its key). What was added to
    reflectance: ``raster:bands`` scale and offset, unless ``earthsearch:boa_offset_applied`` says it was taken off;
    else the processing baseline.

    Raises:
        SceneError: it is no STAC item, or names no asset that holds a band.
    """
    try:
        item = json.loads(path.read_bytes())
        assets, properties, name = item["assets"], item.get("properties") or {}, str(item["id"])
        listed = [(str(key), asset, str(asset["href"])) for key, asset in assets.items()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SceneError(f"{path}: cannot be read as a STAC item ({first_line(error)})") from error
    bands: dict[str, Band] = {}
    added: dict[str, float] = {}
    whole: list[str] = []
    clouds = None
    for key, asset, href in listed:
        place = _locate(href, path)
        described = asset.get("eo:bands") or asset.get("bands") or []
        named = [str(d.get("common_name") or d.get("eo:common_name") or d.get("name") or "") for d in described]
        form = canonical(named[0] if len(named) == 1 and named[0] else key)
        if key.lower() in ("scl", "scl_20m"):
            clouds = CloudMask(Band(place), SCL_CLOUDS)
        elif len(named) <= 1 and form in _SPECTRAL and not key.lower().endswith(("-jp2", "_jp2")):
            bands.setdefault(form, Band(place))
            told = _added(asset, properties)
            if told is not None:
                added.setdefault(form, told)
        elif "data" in asset.get("roles", ()) and len(named) != 1:
            whole.append(place)
    if not bands and len(whole) != 1:
        raise SceneError(
            f"{path}: names no assets that hold red, green and blue; it has {', '.join(k for k, *_ in listed)}"
        )
    start = properties.get("start_datetime") or properties.get("datetime")
    end = properties.get("end_datetime") or properties.get("datetime")
    used = [band.path for band in bands.values()] or whole
    return Product(
        id=name,
        source=str(path),
        files=(str(path), *used),
        path=None if bands else whole[0],
        bands=bands,
        start=parse_moment(str(start or "")),
        end=parse_moment(str(end or "")),
        added=added,
        sentinel2=bool({"B04", "B03", "B02"} <= set(bands)) and "sentinel-2" in json.dumps(item).lower(),
        clouds=clouds,
    )


def _locate(href: str, item: Path) -> str:
    if "://" in href or href.startswith("/"):
        return href.removeprefix("file://")
    return str((item.parent / href).resolve())


def _added(asset: Mapping[str, Any], properties: Mapping[str, Any]) -> float | None:
    """What was added to an asset's reflectance x 10,000; ``None``: the item does not say."""
    if properties.get("earthsearch:boa_offset_applied") is True:
        return 0.0
    first = (asset.get("raster:bands") or asset.get("bands") or [asset])[0]
    scale, offset = (
        first.get(key, first.get(f"raster:{key}", asset.get(f"raster:{key}"))) for key in ("scale", "offset")
    )
    if scale and offset is not None:
        return round(-float(offset) / float(scale), 6)
    baseline = str(properties.get("s2:processing_baseline") or properties.get("processing:version") or "")
    try:
        return _SINCE_0400 if float(baseline) >= 4 else 0.0
    except ValueError:
        return None
