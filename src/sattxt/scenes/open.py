"""What a user calls scenes -> :class:`Scene` objects: files, folders, products, STAC items, mosaics."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sattxt.errors import ImageError, InputError, SatTxtError, SceneError
from sattxt.images.bands import canonical, is_sentinel2, is_sentinel2_product, pick_bands
from sattxt.images.options import ImageOptions
from sattxt.images.tiff import Page, describe_dataset
from sattxt.io import first_line
from sattxt.scenes.address import hide_credentials, local_file, sign_files
from sattxt.scenes.find import find_products
from sattxt.scenes.handles import rasterio_module, try_often
from sattxt.scenes.products import RGB, Product, find_moment, read_clouds
from sattxt.scenes.raster import Band, Scene, measure_gsd


@dataclass(frozen=True)
class SceneReading:
    """The arguments of :func:`open_scenes`."""

    bands: Sequence[int | str] | None = None
    offset: float | Literal["auto"] | None = "auto"
    mask: str | os.PathLike[str] | None = None
    crs: Any = None
    bounds: Sequence[float] | None = None
    item_id: str | None = None

    def __post_init__(self) -> None:
        ImageOptions(bands=self.bands, offset=self.offset, stretch="sentinel2")
        if self.bounds is None:
            return
        if self.crs is None:
            raise InputError("bounds= needs crs=, such as crs='EPSG:4326' for degrees")
        try:
            west, south, east, north = (float(side) for side in self.bounds)
        except (TypeError, ValueError):
            west, south, east, north = (math.nan,) * 4
        if not (west < east and south < north and all(map(math.isfinite, (west, south, east, north)))):
            raise InputError(f"bounds={self.bounds!r}: pass (west, south, east, north), west < east and south < north")

    def check_one(self, found: int) -> None:
        """Refuse an ``item_id`` for several scenes."""
        if self.item_id is not None and found > 1:
            raise InputError(f"item_id={self.item_id!r} names one scene, {found} were found; pass them one by one")


def open_scenes(
    sources: Any,
    *,
    bands: Sequence[int | str] | None = None,
    offset: float | Literal["auto"] | None = "auto",
    mask: str | os.PathLike[str] | None = None,
    crs: Any = None,
    bounds: Sequence[float] | None = None,
    item_id: str | None = None,
) -> list[Scene]:
    """Open scenes. Pixels are read later, window by window.

    Args:
        sources: a GeoTIFF or any raster GDAL reads (``s3://`` and ``https://`` too); a ``.SAFE`` folder or its zip; a
            STAC item's JSON file; a folder or zip of these, or of single-band files, which are one item; a glob; a list
            of all these. A list inside the list is a mosaic: rasters of one item side by side.
        bands: red, green and blue (or one) by number from 1, or name; default: B04, B03, B02 where names tell.
        offset: taken off reflectance; ``"auto"``: what the metadata say was added.
        mask: a raster of clouds, 0 where it is clear; ``{id}`` in it stands for the item. Scene classifications (SCL in
            the name) go by their classes. Default: the product's own.
        crs, bounds: of a raster without georeference: its CRS, and (west, south, east, north) in it.
        item_id: of the one scene there is; default: the item's or product's own, else the file's or folder's name.

    Raises:
        SceneError: a scene cannot be read, or placed without a guess. InputError: an argument means nothing.
        MissingExtraError: rasterio is not installed (extra ``geo``).
    """
    rasterio_module()
    reading = SceneReading(bands, offset, mask, crs, bounds, item_id)
    listed = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    products = [product for source in listed for product in find_products(source)]
    if not products:
        raise SceneError(f"{', '.join(map(str, listed)) or 'nothing'}: holds no scene that can be read")
    reading.check_one(len(products))
    return [make_scene(product, reading) for product in products]


def make_scene(product: Product, reading: SceneReading) -> Scene:
    """The scene of a product.

    Raises:
        SceneError: it cannot be read, its bands are not known, or its files do not lie on one another.
    """
    rasterio = rasterio_module()
    where, item = hide_credentials(product.source), reading.item_id or product.id
    try:
        if product.path is None:
            chosen = _choose_named(product, reading.bands, where)
            facts = _look(rasterio, chosen[0][1].path)[0]
        else:
            facts, page = _look(rasterio, product.path, product.source)
            names = page.names or page.colours
            places = pick_bands(
                reading.bands, len(page.descriptions), names, where=where, declared_rgb=page.colours is not None
            )
            chosen = [(str(names[i] if names and names[i] else i + 1), Band(product.path, i + 1)) for i in places]
            sentinel2 = is_sentinel2(names) or is_sentinel2_product(page.tags, product.source)
            moment = product.start or find_moment(product.id, page.tags)
            added = {canonical(name): page.offset(i) for (name, _), i in zip(chosen, places, strict=True)}
            product = replace(
                product, sentinel2=product.sentinel2 or sentinel2, start=moment,
                added=product.added or {band: told for band, told in added.items() if told is not None},
            )  # fmt: skip
    except SatTxtError as error:
        raise SceneError(str(error)) if isinstance(error, ImageError) else error from None
    except Exception as error:  # GDAL's own errors have no public base class
        raise _unreadable(where, product.path or chosen[0][1].path, error) from error
    clouds = product.clouds
    if reading.mask is not None:
        clouds = read_clouds(os.fsdecode(reading.mask).replace("{id}", item))
    placed = _place(rasterio, facts, reading, where)
    files = [*product.files, *facts.files, *([clouds.band.path] if clouds and reading.mask is not None else [])]
    scene = Scene(
        id=item,
        source=where,
        signature=sign_files(files),
        start=product.start,
        end=product.end,
        bands=tuple(name for name, _ in chosen),
        rgb=tuple(band for _, band in chosen),  # type: ignore[arg-type]
        offset=_find_offset(reading.offset, facts, product, [name for name, _ in chosen], where),
        sentinel2=product.sentinel2,
        nodata=0 if product.sentinel2 and facts.kind in "ui" and not facts.declares_nodata else None,
        clouds=clouds,
        block=facts.block,
        overviews=facts.overviews,
        gsd=measure_gsd(placed["crs"], placed["transform"], placed["height"]),
        **placed,
    )
    _check_files(rasterio, scene, facts)
    return scene


def _look(rasterio: Any, path: str, source: str = "") -> tuple[_Facts, Page]:
    """What a file says of itself and of its bands; ``source``: what it is called."""

    def look() -> tuple[_Facts, Page]:
        with rasterio.open(path) as file:
            return _Facts.of(file), describe_dataset(file, source)

    return try_often(look, [path])


def _unreadable(where: str, path: str, error: Exception) -> SceneError:
    return SceneError(f"{where}: cannot be read as a raster ({hide_credentials(first_line(error), path)})")


def _find_offset(wanted: Any, facts: _Facts, product: Product, names: Sequence[str], where: str) -> float:
    """What is to be taken off the values of some bands."""
    if wanted != "auto":
        return float(wanted or 0)
    if facts.kind not in "ui":
        return 0.0
    told = {product.added.get(canonical(name), product.added.get("", 0.0)) for name in names}
    if len(told) > 1:
        raise SceneError(f"{where}: its bands have different offsets ({sorted(told)}); pass offset=")
    return told.pop()


@dataclass(frozen=True)
class _Facts:
    """What the first file of a scene says. files: what it is read from, on this machine."""

    crs: Any
    transform: Any
    width: int
    height: int
    kind: str
    declares_nodata: bool
    block: tuple[int, int]
    overviews: bool
    files: tuple[str, ...]

    @classmethod
    def of(cls, file: Any) -> _Facts:
        from rasterio.enums import MaskFlags

        declares = any(flags != [MaskFlags.all_valid] for flags in file.mask_flag_enums)
        kind = str(file.dtypes[0]).lstrip("c")[0]
        # What viewers note beside a file (.aux.xml) is none of the scene.
        listed = [] if local_file(file.name) is None else file.files
        files = tuple(name for name in listed if os.path.isfile(name) and not name.endswith(".aux.xml"))
        on_earth = file.crs is not None and (file.crs.is_geographic or file.crs.is_projected)
        return cls(
            file.crs if on_earth else None, file.transform, file.width, file.height, kind, declares,
            tuple(file.block_shapes[0]), bool(file.overviews(1)), files,
        )  # fmt: skip


def _choose_named(product: Product, wanted: Sequence[int | str] | None, where: str) -> list[tuple[str, Band]]:
    """Red, green and blue among named single bands."""
    names = list(product.bands)
    if wanted is None:
        wanted = RGB
        if not product.known:
            raise SceneError(
                f"{where}: its bands are {', '.join(names)}, of which sensor is not said; pass bands=('B04', 'B03', "
                "'B02') if they are Sentinel-2's"
            )
    if any(not isinstance(band, str) for band in wanted):
        raise SceneError(f"{where}: its bands are files of their own; pass their names, such as {', '.join(names[:3])}")
    missing = [str(band) for band in wanted if canonical(str(band)) not in names]
    if missing:
        raise SceneError(f"{where}: has no band {', '.join(missing)}; its bands are {', '.join(sorted(names))}")
    found = [(canonical(str(band)), product.bands[canonical(str(band))]) for band in wanted]
    return found * 3 if len(found) == 1 else found


def _place(rasterio: Any, facts: _Facts, reading: SceneReading, where: str) -> dict[str, Any]:
    """Where a scene lies: its own pixels turned north up, or resampled where its files lie askew."""
    crs, at, size = facts.crs, facts.transform, {"width": facts.width, "height": facts.height}
    if reading.crs is not None:
        given = _parse_crs(reading.crs)
        if crs is not None and (crs != given or reading.bounds is not None):
            raise SceneError(
                f"{where}: has a georeference of its own, in {crs.to_string()}; leave crs= and bounds= out"
            )
        if crs is None and reading.bounds is not None:
            at = rasterio.transform.from_bounds(*reading.bounds, facts.width, facts.height)
        elif crs is None and at.is_identity:
            raise SceneError(f"{where}: does not say where it lies; pass bounds= with crs=")
        crs = given
    if crs is None:
        return {"crs": None, "transform": rasterio.Affine.identity(), **size}
    step = max(abs(at.a), abs(at.e), abs(at.b), abs(at.d))
    if abs(at.b) > 1e-9 * step or abs(at.d) > 1e-9 * step:
        corners = [(x, y) for x in (0, facts.width) for y in (0, facts.height)]
        xs, ys = zip(*(at * corner for corner in corners), strict=True)
        side = abs(at.a * at.e - at.b * at.d) ** 0.5
        columns, rows = (max(1, round((max(v) - min(v)) / side)) for v in (xs, ys))
        turned = rasterio.Affine(side, 0, min(xs), 0, -side, max(ys))
        placed = {"crs": crs, "transform": turned, "width": columns, "height": rows, "rotated": True}
    else:
        south_up, mirrored = at.e > 0, at.a < 0
        x = at.c + (at.a * facts.width if mirrored else 0)
        y = at.f + (at.e * facts.height if south_up else 0)
        turned = rasterio.Affine(abs(at.a), 0, x, 0, -abs(at.e), y)
        placed = {"crs": crs, "transform": turned, "flip": (south_up, mirrored), **size}
    if facts.crs is None:
        placed["given"] = crs, rasterio.transform.array_bounds(facts.height, facts.width, at)
    return placed


def _check_files(rasterio: Any, scene: Scene, facts: _Facts) -> None:
    """Every file covers the ground of the first one, in its CRS."""
    first = scene.rgb[0].path
    paths = dict.fromkeys([*(band.path for band in scene.rgb[1:]), *([scene.clouds.band.path] if scene.clouds else [])])
    for path in paths:
        if path == first:
            continue
        try:
            with rasterio.open(path) as file:
                other = _Facts.of(file)
        except Exception as error:  # GDAL's own errors have no public base class
            raise SceneError(
                f"{hide_credentials(path)}: cannot be read as a raster ({hide_credentials(first_line(error))})"
            ) from error
        ours, theirs = (
            rasterio.transform.array_bounds(each.height, each.width, each.transform) for each in (facts, other)
        )
        slack = 1.01 * max(abs(each) for each in (other.transform.a, other.transform.e, facts.transform.a))
        apart = any(abs(a - b) > slack for a, b in zip(ours, theirs, strict=True))
        if facts.crs is not None and (other.crs != facts.crs or apart):
            raise SceneError(
                f"{hide_credentials(first)} and {hide_credentials(path)} do not cover the same ground in the same CRS; "
                "pass files of one scene"
            )


def _parse_crs(crs: Any) -> Any:
    from rasterio.crs import CRS

    try:
        return CRS.from_user_input(crs)
    except Exception as error:  # GDAL's own errors have no public base class
        raise InputError(f"crs={crs!r}: is no CRS ({first_line(error)}); pass 'EPSG:32633', say") from error
