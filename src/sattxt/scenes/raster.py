"""A scene: one item at one time, in raster files on disk, as red, green and blue seen north up."""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import SceneError, import_extra
from sattxt.images.bands import log_once
from sattxt.io import first_line

Pixels = NDArray[Any]
Mask = NDArray[np.bool_]

#: Times that a read is tried; a file that is not on this machine is given time to come back.
_TRIES, _PAUSE = 3, 0.5
_OPEN_FILES = 16  # kept open in each thread
#: Reflectance x 10,000 that no scene has: below it the offset was taken off twice, above it not at all.
_TOO_LOW, _TOO_HIGH = -200.0, 900.0
_SAMPLE = 256  # side in pixels of what is looked at for that
_METRES_A_DEGREE = 111_195.0  # of latitude, on a sphere


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
    block: tuple[int, int] = field(default=(256, 256))  # rows and columns that are decoded together

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
        failed: Exception | None = None
        for attempt in range(_TRIES):
            if attempt and any("://" in band.path or band.path.startswith("/vsi") for band in self.rgb):
                time.sleep(_PAUSE * 2**attempt)
            try:
                return self._read(window, size)
            except (SceneError, MemoryError):
                raise
            except Exception as error:  # GDAL's own errors have no public base class
                failed = error
                _close_files()
        raise SceneError(
            f"{self.source}: cannot be read ({first_line(failed or '')}); nothing of it was kept"
        ) from failed

    def _read(self, window: Any, size: tuple[int, int] | None) -> tuple[Pixels, Mask, Mask | None]:
        rows, columns = size or (int(window.height), int(window.width))
        values: Pixels = np.empty((rows, columns, 3), np.uint8)
        valid = np.ones((rows, columns), bool)
        paths = list(dict.fromkeys(band.path for band in self.rgb))
        for path in paths:
            places = [place for place, band in enumerate(self.rgb) if band.path == path]
            file, where = self._file(path), self._place(path, window)
            indexes = [self.rgb[place].index for place in places]
            found = file.read(indexes, window=where, out_shape=(len(indexes), rows, columns), resampling=_bilinear())
            if file.count == 1 and (table := _palette(file)) is not None:
                found, places = table[found[0]].transpose(2, 0, 1), [0, 1, 2]
            values = values.astype(np.result_type(values, found), copy=False)
            values[..., places] = found.transpose(1, 2, 0)
            if not all(_all_valid(file, index) for index in indexes):
                masks = file.read_masks(indexes, window=where, out_shape=(len(indexes), rows, columns))
                valid &= (masks > 0).all(axis=0)
        if self.nodata is not None:
            valid &= (values != self.nodata).all(axis=-1)
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
            cloud = np.isin(told, kinds) if kinds else told != 0
        turn = slice(None, None, -1 if self.flip[0] else 1), slice(None, None, -1 if self.flip[1] else 1)
        return values[turn], valid[turn], None if cloud is None else cloud[turn]

    def _file(self, path: str, *, nearest: bool = False) -> Any:
        return _open(path, self if self.rotated else None, nearest=nearest)

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
    def sample(self) -> tuple[Pixels, Mask]:
        """(h, w, 3) float32 values of the whole scene, at most 256 pixels a side, and where there is data."""
        from rasterio.windows import Window

        scale = min(1.0, _SAMPLE / max(self.width, self.height))
        size = max(1, round(self.height * scale)), max(1, round(self.width * scale))
        values, valid, _ = self.read(Window(0, 0, self.width, self.height), size)
        return values.astype(np.float32), valid

    def check_offset(self) -> None:
        """Look whether the offset that metadata told is there.

        Raises:
            SceneError: once it is taken off, reflectance is below zero: it had been taken off already.
        """
        if not self.sentinel2:
            return
        values, valid = self.sample
        seen = values[valid]
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
        from dataclasses import replace

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
        return math.sqrt(area * math.cos(math.radians(latitude))) * _METRES_A_DEGREE
    return math.sqrt(area) * float(crs.linear_units_factor[1])


def rasterio_module() -> Any:
    """rasterio, which scenes are read with."""
    found = import_extra("rasterio", "geo", "rasterio", "scenes")
    for part in ("vrt", "warp", "transform", "windows"):
        import_extra(f"rasterio.{part}", "geo", "rasterio", "scenes")
    from rasterio.errors import NotGeoreferencedWarning

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    return found


_files = threading.local()


def _open(path: str, warped: Scene | None, *, nearest: bool) -> Any:
    """A file's handle, one a thread; resampled to the pixels of ``warped``."""
    handles: OrderedDict[Any, Any] = _files.__dict__.setdefault("handles", OrderedDict())
    key: Any = path
    if warped is not None:
        key = (path, str(warped.crs), tuple(warped.transform), warped.width, warped.height, nearest)
    if key not in handles:
        rasterio = rasterio_module()
        # A cache of GDAL's default size, 5 % of memory, would grow with every thread's files.
        with rasterio.Env(GDAL_CACHEMAX=128, GDAL_HTTP_MAX_RETRY=3, GDAL_HTTP_RETRY_DELAY=1):
            file = rasterio.open(path)
            if warped is not None:
                options = {} if file.nodata is not None or any(_is_alpha(file)) else {"add_alpha": True}
                file = rasterio.vrt.WarpedVRT(
                    file, crs=warped.crs, transform=warped.transform, width=warped.width, height=warped.height,
                    resampling=rasterio.enums.Resampling.nearest if nearest else _bilinear(), **options,
                )  # fmt: skip
        handles[key] = file
    handles.move_to_end(key)
    while len(handles) > _OPEN_FILES:
        handles.popitem(last=False)[1].close()
    return handles[key]


def _close_files() -> None:
    handles = _files.__dict__.pop("handles", {})
    for file in handles.values():
        file.close()


def _is_alpha(file: Any) -> list[bool]:
    from rasterio.enums import ColorInterp

    return [each == ColorInterp.alpha for each in file.colorinterp]


def _all_valid(file: Any, index: int) -> bool:
    from rasterio.enums import MaskFlags

    return file.mask_flag_enums[index - 1] == [MaskFlags.all_valid]


def _palette(file: Any) -> NDArray[np.uint8] | None:
    """(256, 3) colours of a file's numbers."""
    from rasterio.enums import ColorInterp

    if file.colorinterp[0] != ColorInterp.palette:
        return None
    table = np.zeros((256, 3), np.uint8)
    for number, colour in file.colormap(1).items():
        table[number] = colour[:3]
    return table


def _bilinear() -> Any:
    from rasterio.enums import Resampling

    return Resampling.bilinear
