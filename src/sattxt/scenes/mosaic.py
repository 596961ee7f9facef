"""Rasters side by side as one: a GDAL virtual raster, written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from sattxt.errors import SceneError
from sattxt.io import first_line
from sattxt.scenes.handles import rasterio_module

_TYPES = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32", "uint32": "UInt32"}


class _Tile(NamedTuple):
    """One file of a mosaic."""

    path: str
    crs: Any
    transform: Any
    width: int
    height: int
    dtype: str
    nodata: float | None
    names: Sequence[str | None]


def mosaic_vrt(paths: Sequence[str]) -> str:
    """The text of a virtual raster over files of one CRS, pixel size, data type and number of bands, the last on top.

    Where no file has data, it has none.

    Raises:
        SceneError: a file cannot be read, or differs from the first; names both.
    """
    rasterio = rasterio_module()
    tiles = []
    for path in paths:
        try:
            with rasterio.open(path) as file:
                facts = (file.crs, file.transform, file.width, file.height, file.dtypes[0], file.nodata)
                tiles.append(_Tile(path, *facts, file.descriptions))
        except Exception as error:  # GDAL's own errors have no public base class
            raise SceneError(f"{path}: cannot be read as a raster ({first_line(error)})") from error
    for other in tiles[1:]:
        for what, ours in _shared(tiles[0]).items():
            theirs = _shared(other)[what]
            if str(ours) != str(theirs):
                raise SceneError(
                    f"{tiles[0].path} and {other.path} make no mosaic: their {what} differs ({ours}, {theirs}); pass "
                    "them apart"
                )
    across, down = tiles[0].transform.a, tiles[0].transform.e
    if tiles[0].transform.b or tiles[0].transform.d or across <= 0 or down >= 0:
        raise SceneError(f"{tiles[0].path}: is not north up, which rasters of a mosaic must be")
    west, north = min(tile.transform.c for tile in tiles), max(tile.transform.f for tile in tiles)
    places = [
        (tile, round((tile.transform.c - west) / across), round((tile.transform.f - north) / down)) for tile in tiles
    ]
    width = max(column + tile.width for tile, column, _ in places)
    height = max(row + tile.height for tile, _, row in places)

    def sources(band: str) -> str:
        return "".join(_source(*place, band) for place in places)

    kind = _TYPES.get(tiles[0].dtype, "Float32")
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{number}">'
        f"{f'<Description>{escape(name)}</Description>' if name else ''}{sources(str(number))}</VRTRasterBand>"
        for number, name in enumerate(tiles[0].names, 1)
    )
    wkt = escape(tiles[0].crs.to_wkt()) if tiles[0].crs else ""
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{wkt}</SRS>'
        f"<GeoTransform>{west!r}, {across!r}, 0, {north!r}, 0, {down!r}</GeoTransform>{bands}"
        f'<MaskBand><VRTRasterBand dataType="Byte">{sources("mask,1")}</VRTRasterBand></MaskBand></VRTDataset>'
    )


def _shared(tile: _Tile) -> dict[str, Any]:
    """What tiles of a mosaic have in common."""
    size = round(tile.transform.a, 9), round(tile.transform.e, 9)
    return {
        "CRS": tile.crs, "pixel size": size, "data type": tile.dtype, "number of bands": len(tile.names),
        "nodata": tile.nodata,
    }  # fmt: skip


def _source(tile: _Tile, column: int, row: int, band: str) -> str:
    """One file's share of a band; where it has no data, it hides nothing below."""
    plain = band.startswith("mask") or tile.nodata is None
    kind, hole = ("SimpleSource", "") if plain else ("ComplexSource", f"<NODATA>{tile.nodata}</NODATA>")
    size = f'xSize="{tile.width}" ySize="{tile.height}"'
    return (
        f'<{kind}><SourceFilename relativeToVRT="0">{escape(tile.path)}</SourceFilename><SourceBand>{band}</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="{column}" yOff="{row}" {size}/>{hole}</{kind}>'
    )
