"""SSL4EO-S12 v1.1 and its Llama-3 captions, read in place from the shards in which they are published.

Where the facts come from; no real shard was at hand, the tests write small ones of this form:

* Zarr chunk files (``{split}/{modality}/ssl4eos12_{split}_seasonal_data_000001.zarr.zip``, Hugging Face
  ``embed2scale/SSL4EO-S12-v1.1-Zarr``): the README of DLR-MF-DAS/SSL4EO-S12-v1.1 shows their contents. Zarr version 2,
  ``bands`` (sample, time, band, y, x), 64 x 4 x C x 264 x 264, and ``band``, ``sample`` ('0080717') and other
  coordinates. S2L1C (13 bands) and S2L2A (12) are int16 reflectance x 10,000 **plus 1000**; ``zarr_dataset.py`` there
  says so, and that the offset was removed in the later WebDataset version.
* WebDataset shards (``{split}/{modality}/ssl4eos12_shard_000001.tar``, ``embed2scale/SSL4EO-S12-v1.1``): by
  ``ssl4eos12_dataset.py`` of that repository a member ``{key}.zarr.zip`` holds one location, ``bands`` (time,
  band, y, x), without the offset. By users' code the key is not the location's
  number; ``sample`` holds that.
* S2RGB: 3 bands, 8-bit, made from L2A (the statistics in that README; arXiv:2503.00168).
* Captions (Hugging Face ``ibm-esa-geospatial/Llama3-SSL4EO-S12-v1.1-captions``): its README lists ``{split}.parquet``
  or ``{split}/*.csv`` of 256 rows, columns ``caption``, ``question_1`` to ``question_3``, ``file``, ``sample_id``
  (80717), ``time_id`` (0 to 3), ``classes``, ``tags``, ``names``. They are joined by location and time; ``time_id``
  is taken as the position along a shard's time axis.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections import UserDict, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sattxt.data.archive import Store, open_store
from sattxt.data.dataset import Dataset, Sample
from sattxt.data.multispectral import RGB_BANDS, Bands, BandSamples, named, reading, scaled
from sattxt.data.tables import check_columns, table_rows
from sattxt.errors import ImageError, InputError, import_extra
from sattxt.images.bands import SENTINEL2_L1C, SENTINEL2_L2A
from sattxt.images.load import default_workers
from sattxt.images.options import ImageOptions
from sattxt.io import first_line

log = logging.getLogger(__name__)

Modality = Literal["S2L1C", "S2L2A", "S2RGB"]

_BANDS = {"S2L1C": SENTINEL2_L1C, "S2L2A": SENTINEL2_L2A, "S2RGB": RGB_BANDS}
#: What chunk files add to reflectance x 10,000, and WebDataset shards do not.
_CHUNK_OFFSET = 1000.0
_TIMES = (0, 1, 2, 3)


def read_ssl4eo(
    path: Path,
    *,
    modality: Modality = "S2RGB",
    times: tuple[int, ...] = _TIMES,
    shards: int | None = None,
    offset: float | Literal["auto"] = "auto",
    captions: Path | None = None,
    caption_columns: tuple[str, ...] = ("caption",),
    options: ImageOptions | None = None,
) -> Dataset:
    """Patches of S2RGB, or of S2L2A or S2L1C with all bands, with captions where there are any; a split is opened when
    it is asked for. Patches without a caption are kept without one.

    Args:
        times: which of the seasons of every location, 0 to 3.
        shards: only the first so many of each split.
        offset: what was added to reflectance x 10,000; ``"auto"``: 1000 in chunk files, 0 in WebDataset shards.
        captions: a table, or a folder of the published form.
        caption_columns: its columns to take captions from.

    Raises:
        InputError: no shard, or captions of which none is of any patch; the latter when a split is asked for.
        MissingExtraError: zarr is not installed, or pyarrow for parquet.
    """
    _zarr()
    if not times or len(set(times)) < len(times) or not set(times) <= set(_TIMES):
        raise InputError(f"times: {list(times)}; pass some of 0, 1, 2, 3")
    store = _Shards(path)
    found: dict[str, list[str]] = {}
    for shard in store.names():
        split, folder = ("", "", *PurePosixPath(shard).parts)[-3:-1]
        if folder == modality:
            found.setdefault(split, []).append(shard)
    if not found:
        raise InputError(f"path: {path}: no shard (.tar or .zarr.zip) of {modality} in it")

    def load(split: str) -> tuple[Sample, ...]:
        samples = _samples(store, found[split][:shards], times)
        return samples if captions is None else _captioned(store, samples, captions, split, caption_columns)

    view = partial(PatchSamples, modality=modality)
    splits = _Splits({split: cache(partial(load, split)) for split in found})
    return Dataset(store.name, store, splits, options=reading(options, offset), view=view)


class _Shards(Store):
    """A folder of shards; a file in a tar is called ``shard.tar/file``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._tars: dict[str, Store] = {}

    def _list(self) -> list[str]:
        return [name for name in super()._list() if name.endswith((".tar", ".zarr.zip"))]

    def _read(self, name: str) -> bytes:
        shard, inside, member = name.partition(".tar/")
        return self.tar(f"{shard}.tar").read(member) if inside else super()._read(name)

    def tar(self, shard: str) -> Store:
        """An open shard."""
        if shard not in self._tars:
            self._tars[shard] = open_store(self.path / shard)
        return self._tars[shard]


class _Splits(UserDict[str, Any]):
    """Splits by what gives their samples, which is called when a split is asked for."""

    def __getitem__(self, name: str) -> Any:
        return self.data[name]()


def _samples(store: _Shards, shards: Sequence[str], times: Sequence[int]) -> tuple[Sample, ...]:
    """Every location in some shards, at some times; ``at`` is where its bands stand, (row, time) or (time,)."""
    samples: list[Sample] = []
    for shard in shards:
        places: list[tuple[str, tuple[int, ...]]]
        if shard.endswith(".tar"):
            places = [(f"{shard}/{name}", ()) for name in store.tar(shard).names() if name.endswith(".zarr.zip")]
        else:
            places = [(shard, (row,)) for row in range(_open(store, shard)["bands"].shape[0])]
        for file, row in places:
            key = file.rsplit("/", 1)[-1].removesuffix(".zarr.zip") + "".join(f"/{number:02d}" for number in row)
            samples += [Sample((file,), at=(*row, time), name=f"{key}_{time}") for time in times]
    return tuple(samples)


@dataclass(frozen=True)
class PatchSamples(BandSamples):
    """Patches of SSL4EO-S12."""

    modality: Modality = "S2RGB"

    def bands(self, index: int) -> Bands:
        """See :class:`BandSamples`. A patch of nothing but 0 has no data."""
        where = self._where(index)
        if self.modality == "S2RGB":
            raise ImageError(f"{where}: is S2RGB, a picture; its bands are not known")
        values = self._stored(index)
        added = 0.0 if ".tar/" in self.samples[index].files[0] else _CHUNK_OFFSET
        reflectance = scaled(values, self.options.subtracted(added, values.dtype), 1.0, where)
        return named(np.where(values == 0, 0, reflectance), _BANDS[self.modality], where)

    def image(self, index: int) -> NDArray[Any]:
        """(H, W, 3) uint8: S2RGB as it is, the others with EuroSAT's stretch."""
        if self.modality != "S2RGB":
            return super().image(index)
        rgb = self._stored(index).transpose(1, 2, 0)
        if not (rgb.min() >= 0 and rgb.max() <= 255):
            raise ImageError(f"{self._where(index)}: values from {rgb.min()} to {rgb.max()}; S2RGB has 0 to 255")
        return rgb.round().astype(np.uint8)

    def _stored(self, index: int) -> NDArray[Any]:
        """(C, H, W) as stored."""
        sample, where, names = self.samples[index], self._where(index), _BANDS[self.modality]
        try:
            group = _open(self.store, sample.files[0])
            picture = np.asarray(group["bands"][sample.at])
            written = np.asarray(group["band"][...]).reshape(-1).tolist() if "band" in group else []
        except MemoryError:
            raise
        except Exception as error:  # zarr and its stores raise many kinds
            raise ImageError(f"{where}: {first_line(error)}") from error
        if picture.ndim != 3 or len(picture) != len(names):
            raise ImageError(f"{where}: bands is {picture.shape} at one time, where {len(names)} bands are due")
        if written and self.modality != "S2RGB" and tuple(str(name).upper() for name in written) != names:
            raise ImageError(f"{where}: its bands are {', '.join(map(str, written))}, not {', '.join(names)}")
        if not picture.any():
            raise ImageError(f"{where}: holds no data, only 0")
        return picture


def _open(store: Store, file: str) -> Any:
    """A file's zarr group; of a chunk file only what is asked for is read."""
    zarr = _zarr()
    if ".tar/" not in file:
        return zarr.open_group(zarr.storage.ZipStore(store.path / file, mode="r"), mode="r", zarr_format=None)
    packed, as_buffer = zipfile.ZipFile(io.BytesIO(store.read(file))), zarr.core.buffer.cpu.Buffer.from_bytes
    members = {name: as_buffer(packed.read(name)) for name in packed.namelist()}
    return zarr.open_group(zarr.storage.MemoryStore(members), mode="r", use_consolidated=False)


def _zarr() -> Any:
    return import_extra("zarr", "train", "zarr", "reading SSL4EO-S12 shards")


def _captioned(
    store: Store, samples: Sequence[Sample], path: Path, split: str, columns: Sequence[str]
) -> tuple[Sample, ...]:
    """The samples with the captions of their location and time."""
    captions = _captions(path, split, columns)
    files = list(dict.fromkeys(sample.files[0] for sample in samples))
    with ThreadPoolExecutor(default_workers()) as pool:
        located = dict(zip(files, pool.map(partial(_locations, store), files), strict=True))
    joined = []
    for sample in samples:
        row, time = (0, *sample.at)[-2:]
        place = located[sample.files[0]].get(row)
        joined.append(sample._replace(captions=tuple(captions.get((place, time), ()))))
    without = sum(not sample.captions for sample in joined)
    if without == len(joined):
        raise InputError(f"captions: {path}: none of {len(captions)} captions is of any of the {without} patches")
    if without:
        log.warning("%s: %d of %d patches have no caption", store.path, without, len(joined))
    return tuple(joined)


def _captions(path: Path, split: str, columns: Sequence[str]) -> dict[tuple[int | None, int], list[str]]:
    """Captions by location and time, from a table or a folder of the published form."""
    single = [file for file in (path, path / f"{split}.parquet") if file.is_file()]
    tables = single or sorted((path / split).glob("*.csv"))
    if not tables:
        raise InputError(f"captions: {path}: neither {split}.parquet nor {split}/*.csv in it")
    found: dict[tuple[int | None, int], list[str]] = defaultdict(list)
    needed = ("sample_id", "time_id", *columns)
    for table in tables:
        rows = table_rows(table, needed)
        check_columns(f"captions: {table}", rows, needed)
        for number, row in enumerate(rows, 1):
            try:
                at = int(row["sample_id"]), int(row["time_id"])
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"captions: {table}: row {number}: sample_id, time_id are no numbers") from error
            found[at] += [text.strip() for text in map(row.get, columns) if isinstance(text, str) and text.strip()]
    return found


def _locations(store: Store, file: str) -> dict[int, int]:
    """The numbers of a file's locations, which captions go by, by row; none where the file does not say."""
    try:
        numbers = np.asarray(_open(store, file)["sample"][...]).reshape(-1).tolist()
        return {row: int(number) for row, number in enumerate(numbers)}
    except Exception:  # an unreadable sample is counted when it is decoded
        return {}
