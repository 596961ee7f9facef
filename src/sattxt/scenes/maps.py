"""The label map of a scene: as a raster and as polygons that a GIS opens, and as a picture."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import sattxt
from sattxt.errors import InputError, SceneError
from sattxt.io import atomic_write, check_new, to_json
from sattxt.pictures import Colour, draw_legend, html_picture, label_colours
from sattxt.scenes.cog import write_cog
from sattxt.scenes.outlines import (
    NODATA,
    bring_within_world,
    build_polygons,
    measure_ground,
    place_points,
    share_points,
    space_points,
    sum_areas,
    to_degrees,
    trace_areas,
)
from sattxt.scenes.polygons import POLYGON_SUFFIXES, check_polygon_file, write_polygons
from sattxt.vision.embeddings import FloatArray

#: What a map can be saved as.
MAP_SUFFIXES = (".tif", ".tiff", ".png", *POLYGON_SUFFIXES)
_PREVIEW = 1024  # side of a picture at most
_ROWS = 1024  # of a map that are looked at together


@dataclass(frozen=True, repr=False, eq=False)
class SceneSegmentation:
    """A label map of a scene of H x W pixels, north up. The arrays lie in temporary files and are read on use.

    label_map: (H, W) uint8, index into ``labels``; 255 where the scene has no data.
    probs: (H, W) float16, probability of that label among ``labels``; NaN where there is no data.
    picture: (h, w, 3) uint8, every n-th pixel of the scene. crs, transform: of the pixels, ``crs`` ``None`` without
    georeference. gsd: metres a pixel, or NaN. source: of the scene. start: when it was taken, in UTC, where that is
    known. model: its name.
    """

    labels: tuple[str, ...]
    label_map: NDArray[np.uint8]
    probs: NDArray[np.float16]
    picture: NDArray[np.uint8]
    crs: Any
    transform: Any
    gsd: float
    source: str
    start: datetime | None
    model: str

    @property
    def shares(self) -> dict[str, float]:
        """Share of the ground with data that each label covers, in [0, 1]."""
        counts = np.zeros(NODATA + 1, np.int64)
        for row in range(0, len(self.label_map), _ROWS):
            counts += np.bincount(self.label_map[row : row + _ROWS].reshape(-1), minlength=NODATA + 1)
        known = max(1, counts[:NODATA].sum())
        return {label: float(count / known) for label, count in zip(self.labels, counts, strict=False)}

    @property
    def legend(self) -> dict[str, Colour]:
        """The colour of each label in pictures and rasters: by what it means where that is known."""
        return label_colours(self.labels)

    def to_image(
        self, opacity: float = 0.55, legend: bool = True, colours: Mapping[str, Any] | None = None
    ) -> Image.Image:
        """The label map drawn over the scene, 1,024 pixels a side at most, white where there is no data.

        Args:
            opacity, legend, colours: as in :meth:`sattxt.Segmentation.to_image`.
        """
        if isinstance(opacity, (str, bool)) or not 0 <= opacity <= 1:
            raise InputError(f"opacity={opacity!r}: pass a number in [0, 1]")
        chosen = label_colours(self.labels, colours)
        table = np.full((NODATA + 1, 3), 255, np.float32)
        table[: len(chosen)] = list(chosen.values())
        step = preview_step(self.label_map.shape)
        shown = self.label_map[::step, ::step]
        share = np.where(shown == NODATA, 1, opacity).astype(np.float32)[..., None]
        picture = Image.fromarray(((1 - share) * self.picture + share * table[shown]).round().astype(np.uint8))
        return draw_legend(picture, chosen, self.shares) if legend else picture

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        min_pixels: int = 16,
        colours: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write the map, whole or not at all; the suffix names what is written.

        ``.tif``: a Cloud Optimized GeoTIFF of label numbers with colours, 255 where there is no data. The labels' names
        are in its tags, and for a GIS in ``.tif.aux.xml`` and ``.qml`` (QGIS) beside it.
        ``.png``: :meth:`to_image`.
        ``.geojson``, ``.parquet`` (GeoParquet), ``.gpkg``, ``.fgb``: an outline for each area of one label, along the
        pixels' edges, so that neighbours share every point. Properties: ``label``; ``prob``, the mean probability of
        its pixels; ``area_m2``, on the ground. GeoJSON and GeoParquet are in longitude and latitude (OGC:CRS84);
        GeoPackage and FlatGeobuf in the scene's own CRS, where outlines lie on the raster exactly.

        Args:
            min_pixels: of an outlined area; smaller ones join the largest one beside them. 1 keeps all.
            colours: of labels, as in :meth:`to_image`.

        Raises:
            InputError: another suffix, or a file is there and ``overwrite`` was not asked for.
            SceneError: polygons of a scene without georeference, or around a pole.
            MissingExtraError: ``.gpkg`` and ``.fgb`` need the extra ``gis``. DiskFullError: what was there is as it
                was.
        """
        target = check_map_file(path, overwrite=overwrite)
        suffix = target.suffix.lower()
        if suffix in POLYGON_SUFFIXES:
            return self._save_polygons(target, min_pixels, overwrite=overwrite)
        if suffix == ".png":
            picture = self.to_image(colours=colours)
            with atomic_write(target) as file:
                picture.save(file, format="PNG")
            return target
        tags = {"labels": to_json(self.labels), "model": self.model, "source": self.source}
        tags["TIFFTAG_SOFTWARE"] = f"sattxt {sattxt.__version__}"
        if self.start is not None:
            tags["date"] = f"{self.start:%Y-%m-%d}"
        write_cog(
            target,
            self.label_map,
            crs=self.crs,
            transform=self.transform,
            nodata=NODATA,
            tags=tags,
            band_tags={f"CLASS_{number}": label for number, label in enumerate(self.labels)},
            colours=dict(enumerate(label_colours(self.labels, colours).values())),
            overviews="mode",
            overwrite=overwrite,
        )
        for name, content in self._describe(target, label_colours(self.labels, colours)).items():
            with atomic_write(target.with_name(name)) as file:
                file.write(content.encode())
        return target

    @staticmethod
    def _describe(target: Path, legend: Mapping[str, Colour]) -> dict[str, str]:
        """What lies beside a raster: the labels' names for GDAL, and for QGIS these with their colours."""
        names = "".join(f"<Category>{escape(label)}</Category>" for label in legend)
        entries = "".join(
            f'<paletteEntry value="{number}" label={quoteattr(label)} color="#{bytes(colour).hex()}" alpha="255"/>'
            for number, (label, colour) in enumerate(legend.items())
        )
        band = f'<PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames></PAMRasterBand>'
        palette = f'<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1"><colorPalette>{entries}'
        return {
            f"{target.name}.aux.xml": f"<PAMDataset>{band}</PAMDataset>",
            f"{target.stem}.qml": (
                '<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM">\n'
                '<qgis version="3.22" styleCategories="AllStyleCategories"><pipe>'
                f"{palette}</colorPalette></rasterrenderer></pipe></qgis>\n"
            ),
        }

    def _save_polygons(self, target: Path, min_pixels: int, *, overwrite: bool) -> Path:
        if self.crs is None:
            raise SceneError(
                f"{self.source}: has no georeference, which polygons need; pass crs= and bounds=, or save a .tif"
            )
        outlines, smoothed = trace_areas(self.label_map, min_pixels)

        def count(top: int, bottom: int) -> FloatArray:
            """Pixels that keep their label, and their probabilities."""
            kept = (smoothed[top:bottom] == self.label_map[top:bottom]) & (smoothed[top:bottom] != NODATA)
            return np.stack([kept, np.where(kept, self.probs[top:bottom], 0)]).astype(np.float32)

        pixels, prob = sum_areas(outlines, count, len(self.label_map)).reshape(-1, 2).T
        outlines = share_points(outlines, space_points(self.gsd))
        points = place_points(outlines.points, self.transform)
        degrees = to_degrees(outlines, points, self.crs, self.source)
        shapes = build_polygons(outlines, degrees)
        columns = {
            "label": [self.labels[value] for value in outlines.values],
            "prob": (prob / np.maximum(pixels, 1)).round(4).tolist(),
            "area_m2": measure_ground(shapes).round(2).tolist(),
        }
        if target.suffix.lower() in (".gpkg", ".fgb"):
            return write_polygons(target, build_polygons(outlines, points), columns, crs=self.crs, overwrite=overwrite)
        return write_polygons(target, bring_within_world(shapes), columns, overwrite=overwrite)

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        ranked = sorted(self.shares.items(), key=lambda item: -item[1])[:5]
        shown = ", ".join(f"{label} {100 * share:.1f} %" for label, share in ranked)
        more = f", {len(self.labels) - 5} more" if len(self.labels) > 5 else ""
        return f"SceneSegmentation({self.source}, {height} x {width}: {shown}{more})"

    def _repr_html_(self) -> str:
        return html_picture(self.to_image())


def check_map_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The path, if a map can be written there; errors as :meth:`SceneSegmentation.save` has them."""
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in MAP_SUFFIXES:
        raise InputError(f"{target}: maps are written as {', '.join(MAP_SUFFIXES)}; pass one of these")
    if suffix in POLYGON_SUFFIXES:
        return check_polygon_file(target, overwrite=overwrite)
    check_new(target, overwrite=overwrite)
    return target


def preview_step(shape: tuple[int, ...]) -> int:
    """Every how many pixels one is shown."""
    return max(1, math.ceil(max(shape) / _PREVIEW))
