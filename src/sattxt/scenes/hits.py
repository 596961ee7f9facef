"""What a search finds: chips of a store, best first, with their scores and places."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sattxt.classify.results import FITS
from sattxt.errors import import_extra
from sattxt.io import atomic_write, to_json
from sattxt.scenes.filters import Box
from sattxt.vision.embeddings import FloatArray

#: What a hit needs of a store's rows.
HIT_COLUMNS = (
    "id",
    "grid_cell",
    "item_id",
    "source",
    "start_datetime",
    "end_datetime",
    "geometry",
    "crs",
    "pixel_bbox",
    "gsd",
    "valid",
    "cloud",
)


@dataclass(frozen=True)
class Hit:
    """A chip that matches.

    id: the item's and the grid cell's. score: dot product of its embedding with the query, in [-1, 1].
    exact: whether every chip that the filter leaves was compared. fit: in [0, 1], how sure it is that the text fits the
    chip at all; ``None`` where the query has no text or the model cannot tell.
    bbox: west, south, east, north in degrees; geometry: GeoJSON, longitude and latitude; both ``None`` without
    georeference. crs, pixel_bbox: where in the scene (``source``): first column and row, and one beyond the last.
    gsd: metres a pixel, or ``None``. valid, cloud: shares of the chip; ``cloud`` is ``None`` where nobody said.
    """

    id: str
    score: float
    exact: bool
    fit: float | None
    grid_cell: str
    item_id: str
    source: str
    start_datetime: datetime | None
    end_datetime: datetime | None
    bbox: Box | None
    geometry: dict[str, Any] | None
    crs: str | None
    pixel_bbox: tuple[int, int, int, int]
    gsd: float | None
    valid: float
    cloud: float | None

    @property
    def fits(self) -> bool | None:
        """Whether the text fits the chip: ``fit`` is 0.5 at least; ``None`` where nothing tells."""
        return None if self.fit is None else self.fit >= FITS

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict, moments as ISO 8601, without the geometry."""
        row = {name: value for name, value in self.__dict__.items() if name != "geometry"}
        for name in ("start_datetime", "end_datetime"):
            row[name] = None if row[name] is None else row[name].isoformat().replace("+00:00", "Z")
        return row | {"bbox": self.bbox and list(self.bbox), "pixel_bbox": list(self.pixel_bbox)}


class Hits(list[Hit]):
    """Hits, best first: a list.

    query: what was asked, in words. matches: chips that the filter leaves. exact: whether all of them were compared.
    note: why there is none, or ``None``.
    """

    def __init__(self, hits: Iterable[Hit], query: str, matches: int, exact: bool, note: str | None = None) -> None:
        super().__init__(hits)
        self.query = query
        self.matches = matches
        self.exact = exact
        self.note = note

    @property
    def ids(self) -> list[str]:
        """What ``like=`` and ``unlike=`` take."""
        return [hit.id for hit in self]

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat dict a hit, for ``pandas.DataFrame``."""
        return [hit.to_dict() for hit in self]

    def to_geojson(self, path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        """A FeatureCollection in longitude and latitude; with ``path`` also written there, over what is there.

        Raises:
            DiskFullError: no space is left.
        """
        features = [
            {"type": "Feature", "id": hit.id, "geometry": hit.geometry, "properties": {"rank": rank, **hit.to_dict()}}
            for rank, hit in enumerate(self, 1)
        ]
        collection = {"type": "FeatureCollection", "features": features}
        if path is not None:
            with atomic_write(Path(path)) as file:
                file.write(to_json(collection).encode())
        return collection

    def __str__(self) -> str:
        if not self:
            return f"no hits: {self.note}"
        lines = [f"{hit.score:.3f}  {hit.id}{' (weak match)' * (hit.fits is False)}" for hit in self[:10]]
        return "\n".join(lines) + (f"\n... and {len(self) - 10} more" if len(self) > 10 else "")

    __repr__ = __str__


def make_hits(table: Any, scores: FloatArray, fits: Sequence[float | None], *, exact: bool) -> list[Hit]:
    """Hits of the rows of a table with ``HIT_COLUMNS``, and their scores."""
    shapely = import_extra("shapely", "geo", "shapely", "a store")
    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    hits = []
    for row, score, fit, shape in zip(table.to_pylist(), scores.tolist(), fits, shapes, strict=True):
        row["pixel_bbox"] = tuple(row["pixel_bbox"])
        place = {"bbox": None, "geometry": None}
        if shape is not None:
            place = {"bbox": shape.bounds, "geometry": json.loads(shapely.to_geojson(shape))}
        hits.append(Hit(**(row | place), score=score, fit=fit, exact=exact))
    return hits
