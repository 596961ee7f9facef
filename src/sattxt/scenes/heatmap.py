"""Heat maps: how probable it is at every place that a text says what is there, as rasters that a GIS opens."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

import sattxt
from sattxt.errors import InputError, SceneError
from sattxt.images.options import check_count
from sattxt.io import atomic_write
from sattxt.pictures import RAMP, draw_scale, ramp_colours
from sattxt.scenes.batches import read_ahead
from sattxt.scenes.cog import write_cog
from sattxt.scenes.filters import Filter
from sattxt.scenes.grids import plan_chips
from sattxt.scenes.handles import rasterio_module
from sattxt.scenes.ingest import encode
from sattxt.scenes.paint import PLACES, Places, bring_together, fit_patches, paint, place_chips
from sattxt.scenes.raster import Scene
from sattxt.scenes.records import file_name
from sattxt.scenes.scan import read_blocks
from sattxt.scenes.search import Rows, query_classifier, why_empty
from sattxt.scenes.settings import make_settings
from sattxt.vision.embeddings import FloatArray

if TYPE_CHECKING:
    from sattxt.model import SatTxt
    from sattxt.scenes.settings import StoreSettings


@dataclass(frozen=True, repr=False)
class HeatLayer:
    """One raster of a heat map, north up.

    name: tells it from the others: the EPSG code of its CRS, or the item without georeference.
    probs: (H, W) float32 in [0, 1], NaN where there is no chip. crs, transform: of its pixels; without georeference
    ``crs`` is ``None``, and x and y are the image's columns and its rows counted down from 0.
    """

    name: str
    probs: FloatArray
    crs: Any
    transform: Any


@dataclass(frozen=True, repr=False)
class HeatMap:
    """How probable a text is at every place, contrasted with "none of these".

    query: the text. model: its name. start, end: when the first and the last scene was taken; ``None``: not known.
    layers: one, or for a store one a UTM zone, and one an item without georeference.
    """

    query: str
    model: str
    start: datetime | None
    end: datetime | None
    layers: tuple[HeatLayer, ...]

    def save_cog(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write cloud-optimised GeoTIFFs of float32, NaN without data, tagged with query, model and date, and beside
        each a ``.qml`` that QGIS draws it by. What is there is replaced, each file in one move.

        Returns:
            the files' paths: ``path``, or for several layers ``heat_32632.tif``, ``heat_32633.tif``, ...

        Raises:
            DiskFullError: no space is left.
        """
        written = []
        for layer, target in self._targets(Path(path)):
            write_cog(
                target, layer.probs, crs=layer.crs, transform=layer.transform, nodata=np.nan, tags=self._tags(),
                compress="zstd", overviews="average", overwrite=True,
            )  # fmt: skip
            with atomic_write(target.with_suffix(".qml")) as file:
                file.write(_qml().encode())
            written.append(target)
        return written

    def save_png(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write pictures with a colour scale, one a layer, named as by :meth:`save_cog`; small ones are enlarged."""
        written = []
        for layer, target in self._targets(Path(path)):
            with atomic_write(target) as file:
                draw_scale(ramp_colours(layer.probs), f'"{self.query}"').save(file, format="PNG")
            written.append(target)
        return written

    def to_image(self) -> Image.Image:
        """The picture of the first layer."""
        return draw_scale(ramp_colours(self.layers[0].probs), f'"{self.query}"')

    def _targets(self, path: Path) -> Iterator[tuple[HeatLayer, Path]]:
        for layer in self.layers:
            yield layer, path if len(self.layers) == 1 else path.with_stem(f"{path.stem}_{layer.name}")

    def _tags(self) -> dict[str, str]:
        tags = {"query": self.query, "model": self.model, "TIFFTAG_SOFTWARE": f"sattxt {sattxt.__version__}"}
        if self.start is not None and self.end is not None:
            days = [f"{moment:%Y-%m-%d}" for moment in (self.start, self.end)]
            tags["date"] = "/".join(dict.fromkeys(days))
        return tags

    def __repr__(self) -> str:
        sizes = [f"{layer.name} {layer.probs.shape[0]} x {layer.probs.shape[1]}" for layer in self.layers]
        return f"HeatMap({self.query!r}: {', '.join(sizes)})"

    def _repr_png_(self) -> bytes:
        sink = io.BytesIO()
        self.to_image().save(sink, format="PNG")
        return sink.getvalue()


def heatmap_store(
    rows: Rows,
    settings: StoreSettings,
    model: SatTxt,
    text: str,
    chosen: Filter,
    *,
    templates: str | Sequence[str] | None = None,
) -> HeatMap:
    """The heat map of a store; arguments and errors as in :meth:`sattxt.scenes.Store.heatmap`."""
    classifier = query_classifier(model, text, templates)
    found: dict[tuple[str, str], list[tuple[Places, FloatArray]]] = {}
    moments: list[datetime] = []
    for table, embeddings in read_blocks(rows.files, rows.items, chosen, [*PLACES, "start_datetime"]):
        places = place_chips(table, settings)
        found.setdefault((places.name, str(places.crs)), []).append((places, classifier.compare(embeddings)[1][:, 0]))
        if table["start_datetime"][0].as_py() is not None:
            moments += table["start_datetime"].unique().to_pylist()
    if not found:
        raise InputError(f"no chips to draw: {why_empty(rows, chosen)}")
    layers = []
    for _, parts in sorted(found.items()):
        boxes = np.concatenate([each.boxes for each, _ in parts])
        first, _ = parts[0]
        layers.append(_layer(first.name, first.crs, boxes, np.concatenate([probs for _, probs in parts])))
    return HeatMap(text, model.config.name, min(moments, default=None), max(moments, default=None), tuple(layers))


def heatmap_scene(
    model: SatTxt,
    scene: Any,
    text: str,
    *,
    chip: int | None = None,
    stride: int | None = None,
    templates: str | Sequence[str] | None = None,
    bands: Sequence[int | str] | None = None,
    stretch: Any = None,
    progress: bool = False,
) -> HeatMap:
    """The heat map of one scene, without a store.

    Args:
        scene: a :class:`sattxt.scenes.Scene`, or what :func:`sattxt.scenes.open_scenes` takes, if that is one scene.
        chip: side in pixels of the squares that are looked at. stride: pixels between them, and of the map. By default
            squares are as wide as in :meth:`sattxt.SatTxt.segment`, and a pixel of the map is one patch of them (for
            sattxt-mini 8 pixels), which is finer and less sure: a patch is judged by itself.
        templates: as in :meth:`sattxt.SatTxt.classifier`. stretch: as in :class:`sattxt.ImageOptions`.
        bands: as in :func:`sattxt.scenes.open_scenes`, where the scene is not open yet.
        progress: show a bar on stderr if that is a terminal.

    Raises:
        SceneError: the scene cannot be read, or is smaller than a chip. InputError: an argument means nothing.
    """
    classifier = query_classifier(model, text, templates)
    opened = _open_one(scene, bands)
    patches = 1
    if stride is None:
        image = model.config.image
        grid = model.image_tokens(np.zeros((1, image.size, image.size, 3), np.uint8)).grid
        patches = grid[0]
        chip = fit_patches(chip or image.window or image.size, patches)
        stride = chip // patches * max(1, patches // 2)
    settings = make_settings(
        model, grid="pixels", chip=chip or 64, stride=check_count("stride", stride), stretch=stretch, min_valid=0.5,
        max_cloud=1.0,
    )  # fmt: skip
    chips = plan_chips(opened, "pixels", settings.chip, settings.stride)
    boxes, probs = [], []
    with (
        closing(read_ahead(opened, chips, settings, lambda rgb: rgb)) as batches,
        tqdm(total=len(chips), unit=" chips", disable=None if progress else True, leave=False) as bar,
    ):
        for indices, rgb, _, _ in batches:
            vectors = _embed_patches(model, rgb) if patches > 1 else encode(model, rgb)
            probs.append(classifier.compare(vectors)[1][:, 0])
            boxes.append(_divide(chips.pixel_bbox[indices].astype(np.float64), patches, settings.stride))
            bar.update(len(indices))
    if not boxes:
        raise SceneError(f"{opened.source}: no square of {settings.chip} pixels holds data by half")
    left, top, right, bottom = np.concatenate(boxes).T
    at = opened.transform if opened.crs is not None else rasterio_module().Affine.scale(1, -1)
    (west, north), (east, south) = at * (left, top), at * (right, bottom)
    layer = _layer(_name(opened), opened.crs, np.stack([west, south, east, north], axis=1), np.concatenate(probs))
    return HeatMap(text, model.config.name, opened.start or opened.end, opened.end or opened.start, (layer,))


def _layer(name: str, crs: Any, boxes: NDArray[np.float64], probs: FloatArray) -> HeatLayer:
    if crs is not None and crs.is_geographic:
        boxes = bring_together(boxes)
    raster, transform = paint(boxes, probs)
    return HeatLayer(name, raster, crs, transform)


def _open_one(scene: Any, bands: Sequence[int | str] | None) -> Scene:
    if isinstance(scene, Scene):
        return scene
    from sattxt.scenes.open import open_scenes

    opened = open_scenes(scene, bands=bands)
    if len(opened) > 1:
        raise InputError(f"{scene}: is {len(opened)} scenes; pass one of them, or make a store of them all")
    return opened[0]


def _name(scene: Scene) -> str:
    return file_name(scene.id) if scene.crs is None else str(scene.crs.to_epsg() or "crs")


def _embed_patches(model: SatTxt, rgb: NDArray[np.uint8]) -> FloatArray:
    """(n, H, W, 3) squares to the embeddings of their patches, (n P, D), row by row."""
    from sattxt.segment import patch_embeddings

    local = patch_embeddings(model.vision.tokens(model.vision.preprocess(rgb)))
    return local.flatten(0, 1).cpu().numpy()


def _divide(boxes: NDArray[np.float64], patches: int, stride: int) -> NDArray[np.float64]:
    """Pixel boxes of the patches of squares, row by row; of squares without, their share a stride wide."""
    corners, sides = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    if patches == 1:
        start = corners + (sides - stride) / 2
        return np.concatenate([start, start + stride], axis=1)
    rows, columns = np.divmod(np.arange(patches**2), patches)
    steps = np.stack([columns, rows], axis=1)
    side = sides[:, None] / patches
    start = (corners[:, None] + steps * side).reshape(-1, 2)
    return np.concatenate([start, start + side[0, 0]], axis=1)


def _qml() -> str:
    """A QGIS style: colours that start transparent."""
    items = "".join(
        f'<item value="{share:g}" label="{share:.2f}" color="#{red:02x}{green:02x}{blue:02x}" alpha="{alpha}"/>'
        for share, (red, green, blue), alpha in RAMP
    )
    ends = [f"{red},{green},{blue},{alpha}" for _, (red, green, blue), alpha in (RAMP[0], RAMP[-1])]
    stops = ":".join(f"{share:g};{r},{g},{b},{alpha}" for share, (r, g, b), alpha in RAMP[1:-1])
    ramp = "".join(
        f'<Option type="QString" name="{name}" value={quoteattr(value)}/>'
        for name, value in (("color1", ends[0]), ("color2", ends[1]), ("discrete", "0"), ("stops", stops))
    )
    return (
        '<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM">\n'
        '<qgis version="3.22" styleCategories="AllStyleCategories"><pipe>'
        '<rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" nodataColor="" '
        'classificationMin="0" classificationMax="1">'
        "<rasterTransparency/><rastershader>"
        '<colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" minimumValue="0" '
        f'maximumValue="1"><colorramp type="gradient" name="[source]"><Option type="Map">{ramp}</Option></colorramp>'
        f"{items}</colorrampshader></rastershader></rasterrenderer></pipe></qgis>\n"
    )
