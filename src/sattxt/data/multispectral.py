"""Sentinel-2 tiles with all their bands: GeoTIFFs of one or several pages, and npz, in a folder, zip or tar."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sattxt.data.archive import FolderStore, Store, open_store
from sattxt.data.dataset import Dataset, Sample, Samples, by_split, data_name, split_of
from sattxt.errors import ImageError, InputError
from sattxt.images.bands import canonical
from sattxt.images.options import MAX_PIXELS, ImageOptions
from sattxt.images.stretch import SENTINEL2_RANGE
from sattxt.images.tiff import read_pages
from sattxt.io import first_line

#: The bands that RGB is rendered from, in its order.
RGB_BANDS = ("B04", "B03", "B02")
#: What a page's JSON description says of 8-bit values that are square-root coded.
_SQUARE_ROOT = "(v/255)**2"
#: A tile of floats that never reaches this holds reflectance in 0-1.
_LEAST_FLOAT = 2

Bands = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class BandSamples(Samples):
    """Samples with all their bands, seen as pictures through the RGB rendering of these.

    scale: what makes reflectance x 10,000 of stored values, once the offset of ``options`` is taken off.
    """

    scale: float = 1.0

    def bands(self, index: int) -> Bands:
        """Reflectance x 10,000 of a sample: (H, W) float32 by Sentinel-2 name, each band at its own resolution.

        Raises:
            ImageError: it cannot be read, has no data somewhere, or its bands or their unit are not known.
            MissingExtraError: rasterio is not installed.
        """
        name = self.samples[index].files[0]
        where, options = f"{self.store.path}/{name}", self.options
        offset = None if options.offset == "auto" else options.offset or 0.0
        return read_bands(self.read(name), where, names=options.band_names, offset=offset, scale=self.scale)

    def image(self, index: int) -> NDArray[Any]:
        """(H, W, 3) uint8: red, green and blue with EuroSAT's stretch."""
        return picture(self.bands(index), self._where(index))

    def _where(self, index: int) -> str:
        return f"{self.store.path}/{self.samples[index].id}"


def with_bands(data: Samples) -> BandSamples:
    """The same samples with all the bands in their files; ``options`` may have their names and the offset."""
    if isinstance(data, BandSamples):
        return data
    return BandSamples(**{f.name: getattr(data, f.name) for f in fields(Samples)})


def picture(bands: Bands, where: str) -> NDArray[np.uint8]:
    """(H, W, 3): red, green and blue of a tile with EuroSAT's stretch.

    Raises:
        ImageError: one of them is not among the bands.
    """
    missing = [band for band in RGB_BANDS if band not in bands]
    if missing:
        raise ImageError(f"{where}: has no band {missing[0]}; its bands are {', '.join(bands)}")
    return render(np.stack([bands[band] for band in RGB_BANDS], axis=-1))


def render(reflectance: NDArray[Any]) -> NDArray[np.uint8]:
    """EuroSAT's stretch (Helber et al. 2019), value by value: reflectance x 10,000 from 0 to 2750 becomes 0 to 255."""
    low, high = SENTINEL2_RANGE
    scaled = (np.asarray(reflectance, np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.asarray(np.clip(scaled, 0, 255).round(), dtype=np.uint8)


def read_bands(
    content: bytes, where: str, *, names: Sequence[str] | None = None, offset: float | None = None, scale: float = 1.0
) -> Bands:
    """The bands of a Sentinel-2 TIFF of one page, or of several, each of a resolution; as :meth:`BandSamples.bands`.

    Args:
        names: of all bands in order. By default those in the bands' descriptions, or in a JSON image description with
            ``bands`` (where ``"reflectance": "(v/255)**2"`` says that 8-bit values are square-root coded).
        offset: taken off stored values; ``None``: what the file's tags or its name say was added.

    Raises: as :meth:`BandSamples.bands`.
    """
    found: Bands = {}
    for page in read_pages(content, max_pixels=MAX_PIXELS, where=where):
        if np.ma.getmaskarray(page.values).any():
            raise ImageError(f"{where}: holds pixels that it calls nodata")
        values = np.ma.getdata(page.values)
        own: Sequence[str | None] | None = names if names is not None else page.names
        if own is None or not all(own):
            raise ImageError(
                f"{where}: the names of its {len(values)} bands are not known; pass them all in order (--band-names, "
                "or bands: in a recipe), or --dataset eurosat"
            )
        if names is not None:  # of the pages one after another
            own, names = names[: len(values)], names[len(values) :]
        coding = _coding(page.description)
        if coding == _SQUARE_ROOT:
            reflectance = np.square(values.astype(np.float32) / np.float32(255)) * np.float32(10_000)
        elif values.dtype == np.uint8:
            raise ImageError(f"{where}: has 8 bits and does not say how reflectance is coded in them")
        else:
            added = (page.offset or 0.0) if offset is None else offset
            reflectance = scaled(values, added, scale, where)
        found |= named(reflectance, own, where)
    return found


def _coding(description: str) -> Any:
    try:
        return json.loads(description.rstrip("\0")).get("reflectance")
    except (ValueError, AttributeError, RecursionError):
        return None


def scaled(values: NDArray[Any], offset: float, scale: float, where: str) -> NDArray[np.float32]:
    """``(values - offset) * scale``, reflectance x 10,000.

    Raises:
        ImageError: NaN or infinity among the values, or floats that are reflectance in 0-1.
    """
    if not np.isfinite(values).all():
        raise ImageError(f"{where}: holds NaN or infinity")
    found: NDArray[np.float32] = (values.astype(np.float32) - np.float32(offset)) * np.float32(scale)
    if values.dtype.kind == "f" and 0 < (largest := float(np.abs(found).max())) < _LEAST_FLOAT:
        raise ImageError(
            f"{where}: holds reflectance in 0-1 (at most {largest:.3g}) where 0-10000 is due; pass scale: 10000"
        )
    return found


def named(values: NDArray[np.float32], names: Sequence[str | None], where: str) -> Bands:
    """The bands of a tile (C, H, W) by their Sentinel-2 names."""
    if len(values) != len(names):
        raise ImageError(f"{where}: has {len(values)} bands, {len(names)} are named ({', '.join(map(str, names))})")
    return {canonical(str(name)): band for name, band in zip(names, values, strict=True)}


def read_geotiffs(
    path: Path,
    *,
    bands: tuple[str, ...] | None = None,
    scale: float = 1.0,
    offset: float | Literal["auto"] = "auto",
    options: ImageOptions | None = None,
) -> Dataset:
    """Multi-band GeoTIFFs, one a tile, anywhere below a folder or in an archive. The split is a folder's of that name.

    Args:
        bands: all band names in order; by default those that the files have.
        scale: what makes reflectance x 10,000 of stored values once the offset is taken off.
        offset: taken off stored values; ``"auto"``: what a tile's tags or its name say was added, else 0.

    Raises:
        InputError: there are none.
    """
    store, names = _files(path, (".tif", ".tiff"))
    samples = [(split_of(name), Sample((name,))) for name in names]
    return _with_bands(store, samples, options, bands, offset, partial(BandSamples, scale=scale))


def _files(path: Path, suffixes: tuple[str, ...]) -> tuple[Store, list[str]]:
    if path.suffix.lower() in suffixes and path.is_file():
        return FolderStore(path.parent), [path.name]
    store = open_store(path)
    names = [name for name in store.names() if PurePosixPath(name).suffix.lower() in suffixes]
    if not names:
        raise InputError(f"{path}: holds no file ending in {' or '.join(suffixes)}")
    return store, names


def _with_bands(
    store: Store,
    samples: list[tuple[str, Sample]],
    options: ImageOptions | None,
    bands: tuple[str, ...] | None,
    offset: float | Literal["auto"],
    view: Any,
    skipped: Sequence[tuple[str, str]] = (),
) -> Dataset:
    if options is None:
        options = ImageOptions(stretch="sentinel2", band_names=bands, offset=offset)
    return Dataset(data_name(store), store, by_split(samples), options=options, skipped=tuple(skipped), view=view)


def read_npz(
    path: Path,
    *,
    bands: tuple[str, ...] | None = None,
    array: str | None = None,
    scale: float = 1.0,
    offset: float = 0.0,
    options: ImageOptions | None = None,
) -> Dataset:
    """``.npz`` files, one or those in a folder or archive, of one tile (C, H, W) or several (N, C, H, W) each.

    Args:
        bands: all band names in order; by default the array ``bands`` in the file.
        array: the key of the tiles, by default the only array of 3 or 4 axes.
        scale: as of :func:`read_geotiffs`, as is ``offset``.

    Raises:
        InputError: there are none, or none can be read.
    """
    store, files = _files(path, (".npz",))
    samples: list[tuple[str, Sample]] = []
    skipped: list[tuple[str, str]] = []
    for file in files:
        try:
            count = len(_unpacked(store, file, array)[0])
        except (InputError, ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
            skipped.append((file, first_line(error)))
            continue
        for row in range(count):
            name = file if count == 1 else f"{file}#{row}"
            samples.append((split_of(file), Sample((file,), at=(row,), name=name)))
    if not samples:
        raise InputError("{}: no tile can be read, {}: {}".format(path, *skipped[0]))
    view = partial(NpzSamples, scale=scale, array=array)
    return _with_bands(store, samples, options, bands, offset, view, skipped)


@dataclass(frozen=True)
class NpzSamples(BandSamples):
    """Tiles in npz files. array: see :func:`read_npz`."""

    array: str | None = None

    def bands(self, index: int) -> Bands:
        """See :class:`BandSamples`."""
        sample, where = self.samples[index], self._where(index)
        try:
            stack, names = _unpacked(self.store, sample.files[0], self.array)
        except (InputError, ValueError, OSError) as error:
            raise ImageError(f"{where}: {first_line(error)}") from error
        names = self.options.band_names or names
        if names is None:
            raise ImageError(f"{where}: has no band names; give bands: [...] in order")
        offset = self.options.offset if isinstance(self.options.offset, int | float) else 0.0
        return named(scaled(stack[sample.at[0]], offset, self.scale, where), names, where)


@lru_cache(maxsize=8)  # an npz can only be unpacked whole
def _unpacked(store: Store, file: str, key: str | None) -> tuple[NDArray[Any], Sequence[str] | None]:
    """The tiles (N, C, H, W) of an npz, and its band names."""
    with np.load(io.BytesIO(store.read(file)), allow_pickle=False) as packed:
        arrays: Mapping[str, NDArray[Any]] = {name: packed[name] for name in packed.files}
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
    written = [str(band) for band in arrays["bands"].reshape(-1)] if "bands" in arrays else None
    return stack if stack.ndim == 4 else stack[None], written
