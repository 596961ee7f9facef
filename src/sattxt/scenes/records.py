"""The JSON beside a store's parts, in the field's formats: a STAC Item a scene (the record that commits its parts), a
STAC Collection with the embeddings extension v0.0.1, and the model as an item of the MLM extension v1.5.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import sattxt
from sattxt.errors import StoreError, import_extra
from sattxt.scenes.parts import footprints
from sattxt.scenes.settings import StoreSettings, chip_layout
from sattxt.vision.tower import count_parameters

if TYPE_CHECKING:
    from sattxt.model import SatTxt
    from sattxt.scenes.files import Files

STAC = "1.0.0"  # what v0.0.1 of the embeddings extension refers to
_SCHEMAS = "https://stac-extensions.github.io"
EMBEDDINGS = f"{_SCHEMAS}/embeddings/v0.0.1/schema.json"
PROCESSING = f"{_SCHEMAS}/processing/v1.2.0/schema.json"
MLM = f"{_SCHEMAS}/mlm/v1.5.2/schema.json"
EO = f"{_SCHEMAS}/eo/v1.1.0/schema.json"
PARQUET = "application/vnd.apache.parquet"
#: STAC has no word for an unknown time: an interval open at both ends, as the MLM extension has it.
_EVER = {"datetime": None, "start_datetime": "1900-01-01T00:00:00Z", "end_datetime": "9999-12-31T23:59:59Z"}


@dataclass(frozen=True)
class PartRecord:
    """A part that an item names: its unit's key, its file below the store, and its rows."""

    unit: str
    name: str
    rows: int


@dataclass(frozen=True)
class ItemRecord:
    """A scene whose parts are all there.

    source: without credentials. signature: of the files that it was read from, and how. start, end: in UTC.
    bounds: west, south, east, north of its chips in degrees; ``None`` without georeference.
    """

    id: str
    source: str
    signature: str
    start: datetime | None
    end: datetime | None
    bounds: tuple[float, float, float, float] | None
    parts: tuple[PartRecord, ...]

    @property
    def rows(self) -> int:
        """Chips of all parts."""
        return sum(part.rows for part in self.parts)


def file_name(item_id: str) -> str:
    """A name for an item's files: its id where that is one, else what is left of it and a hash."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}", item_id):
        return item_id
    left = re.sub(r"[^A-Za-z0-9_-]+", "_", item_id)[:100].strip("_")
    return f"{left}-{hashlib.sha256(item_id.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def write_failure(files: Files, item_id: str, source: str, error: str) -> None:
    """Remember that a scene could not be read, or that a part of it is damaged: the next run makes it anew."""
    now = datetime.now(timezone.utc).isoformat()
    record = {"item": item_id, "source": source, "error": error, "time": now}
    files.write(f"failed/{file_name(item_id)}.json", _dump(record))


def list_failures(files: Files) -> set[str]:
    """The file names (without their ending) of the items to make anew."""
    return {PurePosixPath(entry.name).stem for entry in files.list("failed") if "/." not in entry.name}


def write_item(record: ItemRecord, settings: StoreSettings, corners: NDArray[np.float64], gsd: float | None) -> bytes:
    """The STAC Item of a scene.

    Args:
        corners: (N, 5, 2) rings of longitude and latitude of all its chips, those left out too.
    """
    geometry = _outline(corners)
    parts = {
        "embeddings" if place == 0 else f"embeddings-{place + 1}": {
            "href": f"../{part.name}",
            "type": PARQUET,
            "roles": ["data"],
            "sattxt:unit": part.unit,
            "sattxt:rows": part.rows,
        }
        for place, part in enumerate(record.parts)
    }
    steps = {"bands": settings.bands, "stretch": settings.stretch, "resize": "bilinear, antialiased"}
    properties: dict[str, Any] = {
        **_times(record.start, record.end),
        **({} if gsd is None else {"gsd": gsd}),
        "processing:datetime": _iso(datetime.now(timezone.utc).replace(microsecond=0)),
        "processing:software": {"sattxt": sattxt.__version__},
        "emb:runtime_parameters": {
            key: getattr(settings, key)
            for key in ("grid", "chip", "stride", "min_valid", "max_cloud", "backend", "precision")
        },
        "emb:preprocessing": {"format": "sattxt", "expression": steps},
        "emb:postprocessing": {"format": "sattxt", "expression": "l2_normalize"},
        "sattxt:source": record.source,
        "sattxt:signature": record.signature,
        "sattxt:rows": record.rows,
    }
    if record.start is None and record.end is None:
        properties["sattxt:undated"] = True
    item = {
        "type": "Feature",
        "stac_version": STAC,
        "stac_extensions": [EMBEDDINGS, PROCESSING],
        "id": record.id,
        "collection": collection_id(settings),
        "geometry": geometry,
        **({} if record.bounds is None else {"bbox": list(record.bounds)}),
        "properties": properties,
        "links": [
            {"rel": "root", "href": "../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
            {"rel": "emb:source-data", "href": _as_link(record.source)},
        ],
        "assets": parts,
    }
    return _dump(item)


def read_item(content: bytes, where: str) -> ItemRecord:
    """Read what :func:`write_item` wrote.

    Raises:
        StoreError: it is damaged.
    """
    try:
        item = json.loads(content)
        properties = item["properties"]
        undated = properties.get("sattxt:undated", False)
        start, end = (
            None if undated else _moment(properties.get(f"{side}_datetime") or properties["datetime"])
            for side in ("start", "end")
        )
        return ItemRecord(
            id=item["id"],
            source=properties["sattxt:source"],
            signature=properties["sattxt:signature"],
            start=start,
            end=end,
            bounds=tuple(item["bbox"]) if "bbox" in item else None,
            parts=tuple(
                PartRecord(asset["sattxt:unit"], asset["href"].removeprefix("../"), asset["sattxt:rows"])
                for asset in item["assets"].values()
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{where}: is a damaged record ({error}); remove it and add its scene again") from error


def write_collection(settings: StoreSettings, items: Sequence[ItemRecord]) -> bytes:
    """The STAC Collection over a store's items."""
    known = np.array([item.bounds for item in items if item.bounds is not None]).reshape(-1, 4)
    box = [*known[:, :2].min(axis=0), *known[:, 2:].max(axis=0)] if len(known) else [-180, -90, 180, 90]
    starts = [item.start for item in items if item.start is not None]
    ends = [item.end for item in items if item.end is not None]
    interval = [_iso(min(starts)) if starts else _EVER["start_datetime"], _iso(max(ends)) if ends else None]
    names = [f"./items/{file_name(item.id)}.json" for item in items]
    collection = {
        "type": "Collection",
        "stac_version": STAC,
        "stac_extensions": [EMBEDDINGS],
        "id": collection_id(settings),
        "title": f"Embeddings of {settings.model}",
        "description": f"Chips of scenes, embedded with {settings.model} (fingerprint {settings.fingerprint}) by "
        f"sattxt {settings.package}. The terms of use are those of the imagery.",
        "license": "various",
        "extent": {"spatial": {"bbox": [[float(side) for side in box]]}, "temporal": {"interval": [interval]}},
        "summaries": {"sattxt:items": {"minimum": 0, "maximum": len(items)}},
        **emb_fields(settings),
        "emb:temporal_resolution": "single_acquisition",
        "emb:fit_for_use": ["retrieval", "similarity_search", "classification", "change_detection"],
        "item_assets": {"embeddings": {"type": PARQUET, "roles": ["data"], "title": "Embeddings of chips"}},
        "links": [
            {"rel": "root", "href": "./collection.json", "type": "application/json"},
            {"rel": "emb:model", "href": "./model.json", "type": "application/geo+json"},
            {"rel": "emb:source-data", "href": "./items/", "title": "Each item links to its scene"},
            *({"rel": "item", "href": name, "type": "application/geo+json"} for name in names),
        ],
    }
    return _dump(collection)


def emb_fields(settings: StoreSettings) -> dict[str, Any]:
    """The embeddings extension's fields of a collection, which a part carries too."""
    gsd = {} if settings.gsd is None else {"gsd": settings.gsd}
    layout = {"emb:chip_layout": dict(chip_layout(settings))}
    kind = {"emb:type": "chip", "emb:dimensions": settings.dimensions, "data_type": settings.stored}
    return {**kind, **gsd, **layout}


def collection_id(settings: StoreSettings) -> str:
    """The collection's id: the model, and what makes these rows."""
    return f"{settings.model}-{settings.key}"


def write_model(settings: StoreSettings, model: SatTxt) -> bytes:
    """The model as a STAC Item with the MLM extension."""
    import torch

    image, config = model.config.image, model.config
    bands = settings.bands or ("red", "green", "blue")
    colours = ("red", "green", "blue")[: len(bands)]
    scaling = [
        {"type": "z-score", "mean": mean / image.rescale, "stddev": std / image.rescale}
        for mean, std in zip(image.mean, image.std, strict=True)
    ]
    shape = {"shape": [-1, 3, image.size, image.size], "dim_order": ["batch", "bands", "height", "width"]}
    properties: dict[str, Any] = {
        "description": "RGB satellite imagery and text in one embedding space. Input pixels are in 0-255.",
        **_EVER,
        "license": config.licence or "other",
        "mlm:name": config.name,
        "mlm:architecture": {"mobilenet_v1": "MobileNet-v1", "dinov3_vit": "DINOv3 ViT"}[
            config.vision.backbone.model_type
        ],
        "mlm:tasks": ["similarity-search", "scene-classification", "semantic-segmentation"],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": str(torch.__version__),
        "mlm:total_parameters": count_parameters(config.vision),
        "mlm:pretrained": True,
        "mlm:input": [
            {
                "name": "a chip in RGB",
                "bands": list(bands),
                "input": {**shape, "data_type": "float32"},
                "value_scaling": scaling,
                "resize_type": "interpolation-linear",
            }
        ],
        "mlm:output": [
            {
                "name": "embedding",
                "tasks": ["similarity-search"],
                "result": {"shape": [-1, settings.dimensions], "dim_order": ["batch", "embedding"]}
                | {"data_type": "float32"},
            }
        ],
        "mlm:hyperparameters": {"fingerprint": settings.fingerprint, "precision": settings.precision},
        "eo:bands": [{"name": n, "common_name": c} for n, c in zip(bands, colours, strict=True)],
    }
    weights = {
        "href": f"urn:sattxt:{settings.model}:{settings.fingerprint}",
        "title": "the weights: SatTxt.from_pretrained opens them",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": "safetensors.torch.save_file",
    }
    item = {
        "type": "Feature",
        "stac_version": STAC,
        "stac_extensions": [MLM, EO],
        "id": f"{settings.model}-{settings.fingerprint}",
        "geometry": None,
        "properties": properties,
        "links": [{"rel": "root", "href": "./collection.json", "type": "application/json"}],
        "assets": {"model": weights},
    }
    return _dump(item)


def _outline(corners: NDArray[np.float64]) -> dict[str, Any] | None:
    """The convex hull of rings as GeoJSON, in one piece a side of the antimeridian."""
    shapely = import_extra("shapely", "geo", "shapely", "a store")
    known = corners[~np.isnan(corners).any(axis=(1, 2))]
    if not len(known):
        return None
    pieces, whole = shapely.get_parts(shapely.from_wkb(footprints(known)[0]), return_index=True)
    in_west = shapely.bounds(pieces)[:, 0] < 0
    crossing = len(np.unique(whole)) < len(pieces)
    sides = (in_west, ~in_west) if crossing else (slice(None),)
    hulls = [shapely.convex_hull(shapely.multipoints(shapely.get_coordinates(pieces[side]))) for side in sides]
    outline = shapely.multipolygons(hulls) if crossing else hulls[0]
    return dict(json.loads(shapely.to_geojson(outline)))


def _times(start: datetime | None, end: datetime | None) -> dict[str, Any]:
    if start is None and end is None:
        return dict(_EVER)
    first, last = start or end, end or start
    if first == last:
        return {"datetime": _iso(first)}
    return {"datetime": None, "start_datetime": _iso(first), "end_datetime": _iso(last)}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _as_link(source: str) -> str:
    from urllib.parse import quote

    if "://" in source:
        return quote(source, safe=":/?&=%#")
    return Path(source).absolute().as_uri()


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode()
