"""Multispectral tiles with their band names for stage 1: GeoTIFFs and npz, in a folder, zip or tar; or RGB alone."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from sattxt.data.tables import split_of
from sattxt.errors import InputError, MissingExtraError
from sattxt.images.bands import canonical, reflectance_offset
from sattxt.io import first_line
from sattxt.training.data import LazyTiles, TileSet, log
from sattxt.training.pairs import LazyPairs, PairSet, check_rgb, read_eurosat_ms, read_s2_pairs
from sattxt.training.sources.archives import Files, chosen, held_in_memory
from sattxt.training.sources.entry import IMAGE_KEYS, Entry
from sattxt.training.sources.folders import open_folder

GEOTIFF_KEYS = frozenset({"path", "bands", "scale", "offset", "size", "memory", "val_share"})
NPZ_KEYS = frozenset({"path", "bands", "array", "scale", "offset", "size", "val_share"})
RGB_KEYS = frozenset({"path", "size", "val_share"}) | IMAGE_KEYS
ARCHIVE_KEYS = frozenset({"path"})

#: A tile of floats that never reaches this holds reflectance in 0-1: rounded, nothing would be left of it.
_LEAST_FLOAT = 2


def open_eurosat_ms(entry: Entry, split: str) -> PairSet:
    """See :func:`sattxt.training.pairs.read_eurosat_ms`; in memory."""
    return read_eurosat_ms(entry.path("path"), split, name=entry.name)


def open_s2(entry: Entry, split: str) -> PairSet:
    """See :func:`sattxt.training.pairs.read_s2_pairs`; in memory."""
    return read_s2_pairs(entry.path("path"), split, name=entry.name)


def open_rgb(entry: Entry, split: str) -> PairSet:
    """Class folders of RGB tiles that have EuroSAT's stretch; in memory. See :meth:`PairSet.from_rgb`."""
    tiles = open_folder(entry, split)
    return PairSet.from_rgb(tiles if isinstance(tiles, TileSet) else _decoded(tiles))


def _decoded(tiles: LazyTiles) -> TileSet:
    log.warning("%s: kind rgb holds all of its %d tiles in memory", tiles.name, len(tiles))
    return tiles.in_memory()


def open_geotiff(entry: Entry, split: str) -> PairSet | LazyPairs:
    """Multi-band GeoTIFFs, one a tile, anywhere below a folder or in an archive.

    Reflectance x 10,000 is ``(value - offset) * scale``. ``bands``: all band names in order; without it, those in the
    files' band descriptions, and the first tile that can be read says which bands, in which order, the set has.
    ``offset``: a number, or ``auto`` (the default): what a tile's tags or its name say was added, else 0. ``size``: the
    side that tiles are resampled to (bilinear); without it, that of the first tile. The split is that of a folder of
    this name, else see ``val_share``. Skipped and counted: tiles that cannot be read, that hold NaN, infinity or
    pixels that the file calls nodata, of other bands or another size.

    Raises:
        InputError: no tile in the split; bands without names, or without B02, B03 and B04.
        MissingExtraError: rasterio is not installed.
    """
    files, names = _listed(entry, split, (".tif", ".tiff"))
    offset = entry.raw("offset", "auto")
    tiles = _GeoTiffs(
        files,
        names,
        bands=_bands(entry),
        scale=entry.number("scale", 1.0),
        offset=None if offset == "auto" else entry.number("offset", 0.0),
        size=entry.integer("size", low=8) if "size" in entry else None,
    )
    tiles.settle(entry)
    lazy = LazyPairs(entry.name, names, tiles, tiles.bands or (), tiles.size or 0)
    return lazy.in_memory() if held_in_memory(entry, lazy.nbytes) else lazy


def open_npz(entry: Entry, split: str) -> PairSet:
    """``.npz`` files, one or those in a folder or archive, of one tile (C, H, W) or several (N, C, H, W) each.

    ``array``: the key of the tiles, by default the only one of 3 or 4 axes. Band names: an array ``bands`` in the file,
    or the entry's. Scale, offset (a number, default 0), size, splits and what is skipped: as :func:`open_geotiff`. All
    tiles are held in memory, as an npz can only be unpacked whole.

    Raises: as :func:`open_geotiff`.
    """
    files, names = _listed(entry, split, (".npz",))
    bands, key = _bands(entry), entry.text("array")
    scale, offset = entry.number("scale", 1.0), entry.number("offset", 0.0)
    size = entry.integer("size", low=8) if "size" in entry else None
    tiles: list[NDArray[np.int16]] = []
    keys: list[str] = []
    skipped: list[tuple[str, str]] = []
    for name in names:
        try:
            stack, written = _npz(files.read(name), key)
            found = bands or written
            if found is None:
                raise ValueError("has no band names; give bands: [...] in order")
        except Exception as error:  # numpy and zipfile raise many kinds
            skipped.append((name, first_line(error)))
            continue
        for number, stored in enumerate(stack):
            where = name if len(stack) == 1 else f"{name}#{number}"
            try:
                if bands is None:
                    check_rgb(found, f"data set {entry.name!r}")
                    bands = found
                values = _ordered(stored, found, bands).astype(np.float32)
                tile = fit_bands((values - np.float32(offset)) * np.float32(scale), size or stored.shape[-1])
                if tiles and tile.shape != tiles[0].shape:
                    raise ValueError(f"is {_shape(tile)} pixels, the tiles before it {_shape(tiles[0])}; pass size")
            except ValueError as error:
                if isinstance(error, InputError):
                    raise
                skipped.append((where, str(error)))
                continue
            tiles.append(tile)
            keys.append(where)
    if not tiles or bands is None:
        raise InputError(f"data set {entry.name!r}: no tile can be used, {skipped[0][0]} {skipped[0][1]}")
    lazy = LazyPairs(entry.name, keys, tiles.__getitem__, bands, tiles[0].shape[-1], skipped=skipped)
    return lazy.in_memory()


def fit_bands(values: NDArray[Any], size: int) -> NDArray[np.int16]:
    """(C, size, size) int16, rounded, of (C, H, W) square tiles, resampled bilinearly where they are of another size.

    Raises:
        ValueError: not square, NaN or infinity among the values, or floats that rounding would make 0 or 1.
    """
    if values.ndim != 3 or values.shape[1] != values.shape[2] or values.shape[1] == 0:
        raise ValueError(f"is {_shape(values)} pixels, not square")
    if not np.isfinite(values).all():
        raise ValueError("holds NaN or infinity")
    if values.dtype.kind == "f" and 0 < (largest := float(np.abs(values).max())) < _LEAST_FLOAT:
        raise ValueError(f"holds reflectance in 0-1 (at most {largest:.3g}) where 0-10000 is due; pass scale: 10000")
    if values.shape[1] != size:
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None]
        shrinks = size < values.shape[1]
        resized = F.interpolate(tensor, size=(size, size), mode="bilinear", antialias=shrinks, align_corners=False)
        values = resized[0].numpy()
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)


class _GeoTiffs:
    """Decodes the GeoTIFFs of a list by their position in it."""

    def __init__(
        self,
        files: Files,
        names: Sequence[str],
        *,
        bands: tuple[str, ...] | None,
        scale: float,
        offset: float | None,
        size: int | None,
    ) -> None:
        self._files, self._names = files, list(names)
        self.bands, self._scale, self._offset, self.size = bands, scale, offset, size
        self._resizes = size is not None

    def settle(self, entry: Entry) -> None:
        """Take from the first tile that can be read what the entry leaves open."""
        if self.bands is not None and self.size is not None:
            return
        first = ""
        for name in self._names:
            try:
                values, written, _ = self._read(name)
                bands = self.bands or written
                if bands is None:
                    raise InputError(
                        f"data set {entry.name!r}: {name}: its {len(values)} bands have no names; "
                        "give bands: [...] in order"
                    )
                check_rgb(bands, f"data set {entry.name!r}: {name}")
                _ordered(values, bands, bands)
                if self.size is None:
                    fit_bands(np.nan_to_num(values), values.shape[1])  # square?
                self.bands, self.size = bands, self.size or values.shape[1]
                return
            except (InputError, MissingExtraError):
                raise
            except Exception as error:  # rasterio's errors have no common base below Exception
                first = first or f"{name}: {first_line(error)}"
        raise InputError(f"data set {entry.name!r}: none of {len(self._names)} tiles can be read, first {first}")

    def __call__(self, index: int) -> NDArray[np.int16]:
        values, written, offset = self._read(self._names[index])
        wanted = self.bands or ()
        found = written if written is not None and set(wanted) <= set(written) else wanted
        values = _ordered(values, found, wanted)
        if not self._resizes and values.shape[1:] != (self.size, self.size):
            raise ValueError(f"is {_shape(values)} pixels instead of {self.size}x{self.size}; pass size to resample")
        return fit_bands((values - np.float32(offset)) * np.float32(self._scale), self.size or 0)

    def _read(self, name: str) -> tuple[NDArray[np.float32], tuple[str, ...] | None, float]:
        with _rasterio().MemoryFile(self._files.read(name)) as memory, memory.open() as file:
            if not file.count:
                raise ValueError("holds no band in its first page")
            read = file.read(masked=True)
            written = file.descriptions
            tags = file.tags()
        if np.ma.getmaskarray(read).any():
            raise ValueError("holds pixels that it calls nodata")
        values = np.ma.getdata(read).astype(np.float32)
        named = tuple(canonical(text) for text in written) if all(written) else None
        offset = self._offset if self._offset is not None else reflectance_offset(tags, name) or 0.0
        return values, named, offset


@lru_cache(maxsize=1)
def _rasterio() -> Any:
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError as error:
        raise MissingExtraError("geo", "rasterio", "reading multispectral GeoTIFFs") from error
    # Once and not around each read, as catch_warnings is not safe in threads.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    return rasterio


def _listed(entry: Entry, split: str, suffixes: tuple[str, ...]) -> tuple[Files, list[str]]:
    path = entry.path("path")
    if path.suffix.lower() in suffixes:
        return Files(path.parent), [path.name]
    files = Files(path)
    names = [name for name in files.names() if PurePosixPath(name).suffix.lower() in suffixes]
    if not names:
        raise entry.error("path", f"{path}: holds no file ending in {' or '.join(suffixes)}")
    found, unknown = chosen(entry, {name: split_of(name) for name in names}, split, where=path)
    if unknown:
        log.warning("%s: %d tiles lie in no folder of a split, first %s", entry.name, len(unknown), unknown[0][0])
    return files, found


def _bands(entry: Entry) -> tuple[str, ...] | None:
    given = entry.texts("bands")
    if given is None:
        return None
    bands = tuple(canonical(band) for band in given)
    check_rgb(bands, f"data set {entry.name!r}: bands")
    return bands


def _ordered(values: NDArray[Any], found: Sequence[str], wanted: Sequence[str]) -> NDArray[Any]:
    """The wanted bands, in their order, of a tile that has the found ones."""
    if len(values) != len(found):
        raise ValueError(f"has {len(values)} bands, {len(found)} are named ({', '.join(found)})")
    missing = [band for band in wanted if band not in found]
    if missing:
        raise ValueError(f"lacks the bands {', '.join(missing)}")
    return values if tuple(found) == tuple(wanted) else values[[list(found).index(band) for band in wanted]]


def _npz(blob: bytes, key: str | None) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    """The tiles (N, C, H, W) of an npz, and its band names."""
    with np.load(io.BytesIO(blob), allow_pickle=False) as packed:
        arrays = {name: packed[name] for name in packed.files}
    written = arrays.pop("bands", None)
    if key is None:
        several = [name for name, array in arrays.items() if array.ndim in (3, 4)]
        if len(several) != 1:
            raise ValueError(
                f"holds {len(several) or 'no'} arrays of 3 or 4 axes ({', '.join(arrays)}); name one with array: ..."
            )
        key = several[0]
    if key not in arrays:
        raise ValueError(f"has no array {key!r}; it has {', '.join(arrays)}")
    stack = arrays[key]
    if stack.ndim not in (3, 4) or stack.dtype.kind not in "uif":
        raise ValueError(f"{key!r} is {stack.dtype} {stack.shape}; (C, H, W) or (N, C, H, W) numbers are due")
    names = None if written is None else tuple(canonical(str(band)) for band in written.reshape(-1))
    return stack if stack.ndim == 4 else stack[None], names


def _shape(values: NDArray[Any]) -> str:
    return "x".join(str(side) for side in values.shape[1:])
