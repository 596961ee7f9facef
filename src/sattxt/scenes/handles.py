"""The files of scenes, kept open in each thread, as rasterio reads them."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import SatTxtError, import_extra
from sattxt.scenes.address import local_file

if TYPE_CHECKING:
    from sattxt.scenes.raster import Scene

_Found = TypeVar("_Found")

_OPEN_FILES = 16  # kept open in each thread
_TRIES, _PAUSE = 3, 0.5
_CACHE = 128 << 20  # bytes of blocks, in all threads


def rasterio_module() -> Any:
    """rasterio, which scenes are read with."""
    found = import_extra("rasterio", "geo", "rasterio", "scenes")
    for part in ("vrt", "warp", "transform", "windows"):
        import_extra(f"rasterio.{part}", "geo", "rasterio", "scenes")
    from rasterio.errors import NotGeoreferencedWarning

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    return found


def try_often(work: Callable[[], _Found], paths: Iterable[str]) -> _Found:
    """What reading files gives; tried three times, after a pause where a file is not on this machine."""
    away = any(local_file(path) is None for path in paths)
    # GDAL's cache of blocks is 5 % of memory, however much that is.
    cache = {} if "GDAL_CACHEMAX" in os.environ else {"GDAL_CACHEMAX": _CACHE}
    with rasterio_module().Env(**cache, GDAL_HTTP_MAX_RETRY=3, GDAL_HTTP_RETRY_DELAY=_PAUSE):
        for attempt in range(1, _TRIES):
            try:
                return work()
            except (SatTxtError, MemoryError):
                raise
            except Exception:  # GDAL's own errors have no public base class
                close_files()
                if away:
                    time.sleep(_PAUSE * 2**attempt)
        return work()


_files = threading.local()


def open_file(scene: Scene, path: str, *, nearest: bool) -> Any:
    """The handle of a scene's file, one a thread; where the scene is resampled, it gives the scene's pixels."""
    handles: OrderedDict[Any, Any] = _files.__dict__.setdefault("handles", OrderedDict())
    key: Any = (path, scene.signature)  # a file that was replaced is opened anew
    if scene.rotated:
        key = (*key, str(scene.crs), tuple(scene.transform), scene.width, scene.height, nearest)
    if key not in handles:
        rasterio = rasterio_module()
        file = rasterio.open(path)
        if scene.rotated:
            file = _resample(rasterio, scene, file, nearest=nearest)
        handles[key] = file
    handles.move_to_end(key)
    while len(handles) > _OPEN_FILES:
        handles.popitem(last=False)[1].close()
    return handles[key]


def _resample(rasterio: Any, scene: Scene, file: Any, *, nearest: bool) -> Any:
    """A file as the scene's pixels see it."""
    options: dict[str, Any] = {}
    if file.nodata is None and scene.nodata is not None:
        options = {"src_nodata": scene.nodata, "nodata": scene.nodata}
    elif file.nodata is None and not any(_is_alpha(file)):
        options = {"add_alpha": True}
    if scene.given is not None:
        crs, bounds = scene.given
        given = rasterio.transform.from_bounds(*bounds, file.width, file.height)
        options |= {"src_crs": crs, "src_transform": given if file.transform.is_identity else file.transform}
    how = rasterio.enums.Resampling.nearest if nearest else _resampling(file)
    return rasterio.vrt.WarpedVRT(
        file, crs=scene.crs, transform=scene.transform, width=scene.width, height=scene.height, resampling=how,
        **options,
    )  # fmt: skip


def read_bands(file: Any, indexes: list[int], where: Any, shape: tuple[int, int, int]) -> NDArray[Any]:
    """(bands, H, W) of a window, resampled (bilinear; numbers of colours by the nearest pixel) to ``shape``."""
    whole = (where.width, where.height) == (file.width, file.height) == (shape[2], shape[1])
    if file.driver == "PNG" and whole and file.height > 1:
        # Read whole and at once, GDAL takes what a truncated PNG lacks for black; read in parts, it notices.
        half = file.height // 2
        parts = [((0, half), (0, file.width)), ((half, file.height), (0, file.width))]
        return np.concatenate([file.read(indexes, window=part) for part in parts], axis=1)
    return np.asarray(file.read(indexes, window=where, out_shape=shape, resampling=_resampling(file)))


def close_files() -> None:
    """Close what this thread has open."""
    handles = _files.__dict__.pop("handles", {})
    for file in handles.values():
        file.close()


def _is_alpha(file: Any) -> list[bool]:
    from rasterio.enums import ColorInterp

    return [each == ColorInterp.alpha for each in file.colorinterp]


def all_valid(file: Any, index: int) -> bool:
    """Whether a band has no pixel without data."""
    from rasterio.enums import MaskFlags

    return file.mask_flag_enums[index - 1] == [MaskFlags.all_valid]


def palette(file: Any) -> NDArray[np.uint8] | None:
    """(256, 3) colours of a file's numbers; ``None``: they are no numbers of colours."""
    from rasterio.enums import ColorInterp

    if file.count != 1 or file.colorinterp[0] != ColorInterp.palette:
        return None
    table = np.zeros((256, 3), np.uint8)
    for number, colour in file.colormap(1).items():
        table[number] = colour[:3]
    return table


def _resampling(file: Any) -> Any:
    from rasterio.enums import Resampling

    return Resampling.bilinear if palette(file) is None else Resampling.nearest
