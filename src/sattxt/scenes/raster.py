"""A scene: one item at one time, in raster files on disk, as red, green and blue seen north up."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import SceneError
from sattxt.images.bands import log_once
from sattxt.io import first_line
from sattxt.scenes.address import hide_credentials
from sattxt.scenes.handles import all_valid, close_files, open_file, palette, read_bands, try_often
from sattxt.scenes.handles import rasterio_module as rasterio_module  # which others take from here

Pixels = NDArray[Any]
Mask = NDArray[np.bool_]

#: Reflectance x 10,000 that no scene has: below it the offset was taken off twice, above it not at all.
_TOO_LOW, _TOO_HIGH = -200.0, 900.0
_SAMPLE = 256  # side in pixels of what is looked at for that
_PIECES = 8  # a side, of a scene without overviews that is too large to be looked at whole
METRES_A_DEGREE = 111_195.0  # of latitude, on a sphere


@dataclass(frozen=True)
class Band:
    """A band of a file. path: as GDAL opens it. index: counted from 1."""

    path: str
    index: int = 1


@dataclass(frozen=True)
class CloudMask:
    """Where clouds are. values: those of ``band`` that mean one; none: every value but 0."""

    band: Band
    values: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene, seen north up whatever its files' orientation; made by :func:`sattxt.scenes.open_scenes`.

    id: the item's. source: its file or folder, without credentials. signature: changes with any of its files.
    start, end: when it was taken, in UTC; ``None``: not known.
    crs, transform: of its pixels; ``crs`` is ``None`` and the transform the identity without georeference.
    width, height: in pixels. gsd: metres a pixel; NaN without georeference. bands: the names of red, green and blue.
    rgb: the bands themselves. flip: whether the files' rows run from the south, and columns from the east.
    rotated: the files lie askew and are resampled (bilinear). offset: taken off every value. sentinel2: values are
    certainly reflectance x 10,000. nodata: value without data where the files name none. clouds: where they are told.
    given: CRS and (west, south, east, north) that files without a CRS were given. block: rows and columns that are
    decoded together. overviews: whether the files hold smaller copies of themselves.

    A pixel has data where each of its three bands has, or, where 0 means none, where any is not 0: black in one colour
    alone is a colour.
    """

    id: str
    source: str
    signature: str
    start: datetime | None
    end: datetime | None
    crs: Any
    transform: Any
    width: int
    height: int
    gsd: float
    bands: tuple[str, ...]
    rgb: tuple[Band, Band, Band]
    flip: tuple[bool, bool] = (False, False)
    rotated: bool = False
    offset: float = 0.0
    sentinel2: bool = False
    nodata: float | None = None
    clouds: CloudMask | None = None
    given: tuple[Any, tuple[float, float, float, float]] | None = None
    block: tuple[int, int] = (256, 256)
    overviews: bool = False

    def read(self, window: Any, size: tuple[int, int] | None = None) -> tuple[Pixels, Mask, Mask | None]:
        """Read a window.

        Args:
            window: a ``rasterio.windows.Window`` inside the scene, in whole pixels.
            size: rows and columns to resample it to (bilinear; masks by the nearest pixel).

        Returns:
            (H, W, 3) values, in the files' dtype or, once an offset is taken off, float32; (H, W) where there is data;
            (H, W) where there are clouds, ``None``: not told.

        Raises:
            SceneError: a file cannot be read, after three tries. It is never taken for missing data.
        """
        paths = dict.fromkeys(band.path for band in (*self.rgb, *([self.clouds.band] if self.clouds else [])))
        try:
            return try_often(lambda: self._read(window, size), paths)
        except (SceneError, MemoryError):
            raise
        except Exception as error:  # GDAL's own errors have no public base class
            close_files()
            reason = first_line(error)
            for path in paths:
                reason = hide_credentials(reason, path)
            raise SceneError(f"{self.source}: cannot be read ({reason}); nothing of it was kept") from error

    def _read(self, window: Any, size: tuple[int, int] | None) -> tuple[Pixels, Mask, Mask | None]:
        rows, columns = size or (int(window.height), int(window.width))
        values: Pixels = np.empty((rows, columns, 3), np.uint8)
        seen = np.ones((rows, columns, 3), bool)
        black_is_none = self.nodata == 0
        for path in dict.fromkeys(band.path for band in self.rgb):
            places = [place for place, band in enumerate(self.rgb) if band.path == path]
            file, where = self._file(path), self._place(path, window)
            indexes = [self.rgb[place].index for place in places]
            table = palette(file)
            shape = (len(indexes), rows, columns)
            found = read_bands(file, indexes, where, shape)
            if not all(all_valid(file, index) for index in indexes):
                masks = file.read_masks(indexes, window=where, out_shape=shape)
                seen[..., places] = (masks > 0).transpose(1, 2, 0)
                black_is_none = black_is_none or file.nodata == 0
            if table is not None:
                found, places = table[found[0]].transpose(2, 0, 1), [0, 1, 2]
            values = values.astype(np.result_type(values, found), copy=False)
            values[..., places] = found.transpose(1, 2, 0)
        if self.nodata is not None:
            seen &= values != self.nodata
        valid = np.asarray((np.any if black_is_none and values.dtype.kind in "ui" else np.all)(seen, axis=-1))
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=-1)
        if self.offset:
            values = values.astype(np.float32) - np.float32(self.offset)
        cloud = None
        if self.clouds is not None:
            band, kinds = self.clouds.band, self.clouds.values
            told = self._file(band.path, nearest=True).read(
                band.index, window=self._place(band.path, window), out_shape=(rows, columns)
            )
            cloud = np.asarray(np.isin(told, kinds) if kinds else told != 0)
        turn = slice(None, None, -1 if self.flip[0] else 1), slice(None, None, -1 if self.flip[1] else 1)
        return values[turn], valid[turn], None if cloud is None else cloud[turn]

    def _file(self, path: str, *, nearest: bool = False) -> Any:
        return open_file(self, path, nearest=nearest)

    def _place(self, path: str, window: Any) -> Any:
        """A window in a file's own rows and columns, which may be coarser."""
        from rasterio.windows import Window

        column, row, width, height = window.col_off, window.row_off, window.width, window.height
        if self.flip[0]:
            row = self.height - row - height
        if self.flip[1]:
            column = self.width - column - width
        file = self._file(path)
        x, y = file.width / self.width, file.height / self.height
        return Window(column * x, row * y, width * x, height * y)

    @cached_property
    def sample(self) -> Pixels:
        """(N, 3) float32 values with data, from all over the scene: the same ones each time.

        The scene at 256 pixels a side, where it is small or holds smaller copies of itself; else of 64 places, evenly
        spread, at full size.
        """
        from rasterio.windows import Window

        whole, side = Window(0, 0, self.width, self.height), _SAMPLE
        if self.overviews or max(self.width, self.height) <= _PIECES * side:
            scale = min(1.0, side / max(self.width, self.height))
            size = max(1, round(self.height * scale)), max(1, round(self.width * scale))
            pieces = [self.read(whole, size)]
        else:
            width, height = min(side, self.width), min(side // 4, self.height)
            lefts, tops = (
                np.linspace(0, length - part, min(_PIECES, length // part)).astype(int)
                for length, part in ((self.width, width), (self.height, height))
            )
            pieces = [self.read(Window(int(x), int(y), width, height)) for y in tops for x in lefts]
        return np.concatenate([values[valid] for values, valid, _ in pieces]).astype(np.float32)

    def check_offset(self) -> None:
        """Look whether the offset that metadata told is there.

        Raises:
            SceneError: once it is taken off, reflectance is below zero: it had been taken off already.
        """
        if not self.sentinel2:
            return
        seen = self.sample
        if not len(seen):
            return
        if self.offset and float(np.percentile(seen, 5, axis=0).min()) < _TOO_LOW:
            raise SceneError(
                f"{self.source}: its metadata tell of an offset of {self.offset:g} that was taken off already; pass "
                "offset=0"
            )
        if not self.offset and float(np.percentile(seen, 1, axis=0).min()) >= _TOO_HIGH:
            log_once(
                "%s: no pixel is darker than %s: an offset of 1000 may still be in it; pass offset=1000 if so",
                self.source, f"{_TOO_HIGH:g}",
            )  # fmt: skip

    def warp(self, crs: Any, transform: Any, width: int, height: int) -> Scene:
        """The same scene resampled (bilinear) to other pixels."""
        return replace(
            self, crs=crs, transform=transform, width=width, height=height, flip=(False, False), rotated=True
        )


def measure_gsd(crs: Any, transform: Any, height: int) -> float:
    """Metres a pixel: the root of the ground that one covers, in the middle of a raster; NaN without a CRS."""
    if crs is None:
        return math.nan
    area = abs(transform.a * transform.e - transform.b * transform.d)
    if crs.is_geographic:
        _, latitude = transform * (0, height / 2)
        return math.sqrt(area * max(0.0, math.cos(math.radians(latitude)))) * METRES_A_DEGREE
    return math.sqrt(area) * float(crs.linear_units_factor[1])
