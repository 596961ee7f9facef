"""What a user calls scenes -> :class:`Scene` objects: files, folders, products, STAC items, mosaics."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from sattxt.errors import ImageError, InputError, SatTxtError, SceneError
from sattxt.images.bands import canonical, is_sentinel2, is_sentinel2_product, pick_bands
from sattxt.images.tiff import describe_dataset
from sattxt.io import first_line
from sattxt.scenes.find import find_products
from sattxt.scenes.products import RGB, Product, find_moment, read_clouds
from sattxt.scenes.raster import Band, Scene, measure_gsd, rasterio_module


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
        bounds = self.bounds
        if bounds is not None and self.crs is None:
            raise InputError("bounds= needs crs=, such as crs='EPSG:4326' for degrees")
        if bounds is not None and (len(bounds) != 4 or not bounds[0] < bounds[2] or not bounds[1] < bounds[3]):
            raise InputError(f"bounds={tuple(bounds)}: pass (west, south, east, north), west < east and south < north")

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
            with rasterio.open(chosen[0][1].path) as file:
                facts = _Facts.of(file)
        else:
            with rasterio.open(product.path) as file:
                page, facts = describe_dataset(file, product.source), _Facts.of(file)
            names = page.names or page.colours
            places = pick_bands(
                reading.bands, len(page.descriptions), names, where=where, declared_rgb=page.colours is not None
            )
            chosen = [(str(names[i] if names and names[i] else i + 1), Band(product.path, i + 1)) for i in places]
            sentinel2 = is_sentinel2(names) or is_sentinel2_product(page.tags, product.source)
            moment = product.start or find_moment(product.id, page.tags)
            added = page.offset(places[0])
            product = replace(
                product, sentinel2=product.sentinel2 or sentinel2, start=moment,
                added=product.added or ({} if added is None else {"": added}),
            )  # fmt: skip
    except SatTxtError as error:
        raise SceneError(str(error)) if isinstance(error, ImageError) else error from None
    except Exception as error:  # GDAL's own errors have no public base class
        raise SceneError(f"{where}: cannot be read as a raster ({first_line(error)})") from error
    clouds = product.clouds
    if reading.mask is not None:
        clouds = read_clouds(os.fsdecode(reading.mask).replace("{id}", item))
    offset = reading.offset
    taken = 0.0
    if offset == "auto" and facts.kind in "ui":
        told = {product.added.get(canonical(name), product.added.get("", 0.0)) for name, _ in chosen}
        if len(told) > 1:
            raise SceneError(f"{where}: its bands have different offsets ({sorted(told)}); pass offset=")
        taken = told.pop()
    elif offset not in ("auto", None):
        taken = float(offset)
    crs, transform = facts.crs, facts.transform
    if crs is None and reading.crs is not None:
        crs = _parse_crs(reading.crs)
        if reading.bounds is not None:
            transform = rasterio.transform.from_bounds(*reading.bounds, facts.width, facts.height)
    placed = _place_north_up(rasterio, crs, transform, facts.width, facts.height)
    files = [*product.files, *([clouds.band.path] if clouds and reading.mask is not None else [])]
    scene = Scene(
        id=item,
        source=where,
        signature=sign_files(files),
        start=product.start,
        end=product.end,
        crs=crs,
        gsd=measure_gsd(crs, placed["transform"], placed["height"]),
        bands=tuple(name for name, _ in chosen),
        rgb=tuple(band for _, band in chosen),  # type: ignore[arg-type]
        offset=taken,
        sentinel2=product.sentinel2,
        nodata=0 if product.sentinel2 and facts.kind in "ui" and not facts.declares_nodata else None,
        clouds=clouds,
        block=facts.block,
        **placed,
    )
    _check_files(rasterio, scene, facts)
    return scene


@dataclass(frozen=True)
class _Facts:
    """What the first file of a scene says."""

    crs: Any
    transform: Any
    width: int
    height: int
    kind: str
    declares_nodata: bool
    block: tuple[int, int]

    @classmethod
    def of(cls, file: Any) -> _Facts:
        from rasterio.enums import MaskFlags

        declares = any(flags != [MaskFlags.all_valid] for flags in file.mask_flag_enums)
        kind = str(file.dtypes[0]).lstrip("c")[0]
        return cls(file.crs, file.transform, file.width, file.height, kind, declares, tuple(file.block_shapes[0]))


def _choose_named(product: Product, wanted: Sequence[int | str] | None, where: str) -> list[tuple[str, Band]]:
    """Red, green and blue among named single bands."""
    names = list(product.bands)
    if wanted is None:
        wanted = RGB if set(RGB) <= set(names) else ("red", "green", "blue")
    if any(not isinstance(band, str) for band in wanted):
        raise SceneError(f"{where}: its bands are files of their own; pass their names, such as {', '.join(names[:3])}")
    missing = [str(band) for band in wanted if canonical(str(band)) not in names]
    if missing:
        raise SceneError(f"{where}: has no band {', '.join(missing)}; its bands are {', '.join(sorted(names))}")
    found = [(canonical(str(band)), product.bands[canonical(str(band))]) for band in wanted]
    return found * 3 if len(found) == 1 else found


def _place_north_up(rasterio: Any, crs: Any, transform: Any, width: int, height: int) -> dict[str, Any]:
    """The scene's own pixels: turned north up, or resampled where the file lies askew."""
    step = max(abs(transform.a), abs(transform.e), abs(transform.b), abs(transform.d))
    size = {"width": width, "height": height}
    if crs is None:
        return {"transform": rasterio.Affine.identity(), **size}
    if abs(transform.b) > 1e-9 * step or abs(transform.d) > 1e-9 * step:
        bounds = rasterio.transform.array_bounds(height, width, transform)
        moved, columns, rows = rasterio.warp.calculate_default_transform(crs, crs, width, height, *bounds)
        corners = [transform * corner for corner in ((0, 0), (width, 0), (0, height), (width, height))]
        xs, ys = zip(*corners, strict=True)
        side = (abs(transform.a * transform.e - transform.b * transform.d)) ** 0.5
        columns, rows = (max(1, round((max(v) - min(v)) / side)) for v in (xs, ys))
        moved = rasterio.Affine(side, 0, min(xs), 0, -side, max(ys))
        return {"transform": moved, "width": columns, "height": rows, "rotated": True}
    south_up, mirrored = transform.e > 0, transform.a < 0
    x = transform.c + (transform.a * width if mirrored else 0)
    y = transform.f + (transform.e * height if south_up else 0)
    turned = rasterio.Affine(abs(transform.a), 0, x, 0, -abs(transform.e), y)
    return {"transform": turned, "flip": (south_up, mirrored), **size}


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
            raise SceneError(f"{hide_credentials(path)}: cannot be read as a raster ({first_line(error)})") from error
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


def hide_credentials(source: str) -> str:
    """An address without user, password and signature."""
    if "://" not in source:
        return source
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def sign_files(files: Sequence[str]) -> str:
    """16 hex digits that change with any of the files: of size and time of change, or what a server calls a version."""
    lines = []
    for name in dict.fromkeys(files):
        if "://" in name:
            lines.append(f"{hide_credentials(name)} {_remote_version(name)}")
        else:
            state = os.stat(re.sub(r"^/vsizip/(.*?\.zip)(/.*)?$", r"\1", name))
            lines.append(f"{os.path.basename(name)} {state.st_size} {state.st_mtime_ns}")  # wherever it is moved to
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _remote_version(address: str) -> str:
    """ETag, or else size and date, of an address; nothing where a server does not say."""
    if not address.startswith(("http://", "https://")):
        return ""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=30) as answer:
            return str(
                answer.headers.get("ETag") or [answer.headers.get(k) for k in ("Content-Length", "Last-Modified")]
            )
    except OSError as error:
        raise SceneError(f"{hide_credentials(address)}: cannot be reached ({first_line(error)})") from error
