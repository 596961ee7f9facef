"""Rasters as Cloud Optimized GeoTIFFs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from sattxt.io import atomic_write, check_new
from sattxt.scenes.handles import rasterio_module

_BLOCK = 512


def write_cog(
    path: str | os.PathLike[str],
    values: NDArray[Any],
    *,
    crs: Any,
    transform: Any,
    nodata: float,
    tags: Mapping[str, str] | None = None,
    band_tags: Mapping[str, str] | None = None,
    colours: Mapping[int, tuple[int, int, int]] | None = None,
    compress: Literal["deflate", "zstd"] = "deflate",
    overviews: Literal["nearest", "mode", "average", "bilinear"] = "nearest",
    overwrite: bool = False,
) -> Path:
    """Write a raster of one band as a COG, whole or not at all. It is compressed in memory, a strip at a time.

    Args:
        values: (H, W); of a ``numpy.memmap`` one strip is read at a time.
        crs: ``None`` without georeference. nodata: the value that means none; NaN is one.
        tags, band_tags: of the file and of its band. colours: of values, for uint8.
        compress: of the file; older readers know deflate alone. overviews: how the smaller copies are made.

    Raises:
        InputError: a file is there and ``overwrite`` was not asked for. DiskFullError: what was there is as it was.
    """
    target = Path(path)
    check_new(target, overwrite=overwrite)
    rasterio = rasterio_module()
    from rasterio.io import MemoryFile
    from rasterio.shutil import copy
    from rasterio.windows import Window

    height, width = values.shape
    facts = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": values.dtype, "nodata": nodata}
    options: dict[str, Any] = {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "deflate"}
    made: dict[str, Any] = {"compress": compress, "blocksize": _BLOCK}
    if values.dtype.kind == "f":
        made["predictor"] = "YES"
    with MemoryFile() as plain, MemoryFile() as whole, rasterio.Env(GDAL_PAM_ENABLED=False):
        with plain.open(**facts, crs=crs, transform=transform, zlevel=1, bigtiff="if_safer", **options) as file:
            for row in range(0, height, _BLOCK):
                rows = min(_BLOCK, height - row)
                file.write(values[row : row + rows], 1, window=Window(0, row, width, rows))
            if colours is not None:
                file.write_colormap(1, dict(colours))
            file.update_tags(**(tags or {}))
            file.update_tags(1, **(band_tags or {}))
        copy(plain.name, whole.name, driver="COG", overview_resampling=overviews, bigtiff="if_safer", **made)
        with atomic_write(target) as file:
            whole.seek(0)
            shutil.copyfileobj(whole, file)
    return target
