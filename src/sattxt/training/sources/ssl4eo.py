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
import json
import logging
import re
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.data.tables import table_columns, table_rows
from sattxt.errors import InputError, MissingExtraError
from sattxt.images.bands import SENTINEL2_L1C, SENTINEL2_L2A
from sattxt.training.data import WORKERS, LazyTiles, TileSet, fit_tile
from sattxt.training.pairs import LazyPairs, PairSet, render_rgb
from sattxt.training.sources.archives import Files, held_in_memory, settle
from sattxt.training.sources.entry import Entry
from sattxt.training.sources.multispectral import fit_bands

log = logging.getLogger(__name__)

SSL4EO_PAIR_KEYS = frozenset({"path", "modality", "times", "size", "shards", "offset", "memory"})
SSL4EO_KEYS = SSL4EO_PAIR_KEYS | {"captions", "caption_columns"}

_BANDS = {"S2L1C": SENTINEL2_L1C, "S2L2A": SENTINEL2_L2A, "S2RGB": ("B04", "B03", "B02")}
#: What chunk files add to reflectance x 10,000, and WebDataset shards do not.
_CHUNK_OFFSET = 1000.0
_TIMES = 4
_SIDE = 264


@dataclass(frozen=True)
class Patch:
    """One location at one time. member: its file in a tar, "" in a chunk file. row: its position in a chunk file."""

    shard: Path
    member: str
    row: int
    time: int

    @property
    def key(self) -> str:
        """What results and messages call it."""
        inner = self.member.removesuffix(".zarr.zip") or f"{self.shard.name.removesuffix('.zarr.zip')}/{self.row:02d}"
        return f"{inner}_{self.time}"


class Shards:
    """The shards of one split and modality, and reading patches of them.

    Raises:
        InputError: there is no such folder or no shard in it.
        MissingExtraError: zarr is not installed.
    """

    def __init__(self, entry: Entry, split: str, modality: str) -> None:
        _zarr()
        root = entry.path("path")
        tried = [root / split / modality, root / modality, root]
        self.folder = next((f for f in tried if f.is_dir() and _shards(f)), None)
        if self.folder is None:
            raise entry.error("path", f"{root}: no shard (.tar or .zarr.zip) of {modality} in {tried[0]}")
        if self.folder == root / modality and (root / split).exists():
            raise entry.error("path", f"{root / split}: has no shards of {modality}")
        found = _shards(self.folder)
        self.shards = found[: entry.integer("shards", len(found))]
        self.modality, self.bands = modality, _BANDS[modality]
        self._open: dict[Path, Files] = {}
        self.offset = entry.number("offset", 0.0) if "offset" in entry else None

    def patches(self, times: Sequence[int]) -> list[Patch]:
        """Every location at these times."""
        found = []
        for shard in self.shards:
            if shard.suffix == ".tar":
                self._open[shard] = Files(shard)
                members = [name for name in self._open[shard].names() if name.endswith(".zarr.zip")]
                found += [Patch(shard, name, 0, time) for name in members for time in times]
            else:
                rows = _chunk(shard)["bands"].shape[0]
                found += [Patch(shard, "", row, time) for row in range(rows) for time in times]
        if not found:
            raise InputError(f"{self.folder}: its shards hold no samples")
        return found

    def read(self, patch: Patch) -> NDArray[Any]:
        """(C, H, W) as stored, but with the offset taken off reflectance.

        Raises:
            ValueError: no such time, other bands than the modality has, NaN, or nothing but 0, which is no data.
        """
        if patch.member:
            group = _group(self._open[patch.shard].read(patch.member), patch.time)
            array = group["bands"]
            picture = np.asarray(array[patch.time]) if patch.time < array.shape[0] else None
        else:
            group = _chunk(patch.shard)
            array = group["bands"]
            picture = np.asarray(array[patch.row, patch.time]) if patch.time < array.shape[1] else None
        if picture is None:
            raise ValueError(f"has no time {patch.time}")
        if picture.ndim != 3 or len(picture) != len(self.bands):
            raise ValueError(f"bands is {picture.shape} at one time; {self.modality} has {len(self.bands)} bands")
        if "band" in group:
            written = [str(name).upper() for name in np.asarray(group["band"][...]).reshape(-1)]
            if self.modality != "S2RGB" and written != list(self.bands):
                raise ValueError(f"its bands are {', '.join(written)}; {self.modality} has {', '.join(self.bands)}")
        if picture.dtype.kind == "f" and not np.isfinite(picture).all():
            raise ValueError("holds NaN or infinity")
        if not picture.any():
            raise ValueError("holds no data, only 0")
        if self.modality == "S2RGB":
            return picture
        offset = self.offset if self.offset is not None else 0.0 if patch.member else _CHUNK_OFFSET
        values: NDArray[Any] = np.where(picture == 0, 0, picture.astype(np.float32) - offset)
        return values

    def location(self, patch: Patch) -> int | None:
        """The number of the patch's location, which captions go by; ``None`` where the shard does not say."""
        try:
            if patch.member:
                group = _group(self._open[patch.shard].read(patch.member), None)
                row = 0
            else:
                group, row = _chunk(patch.shard), patch.row
            return int(str(np.asarray(group["sample"][...]).reshape(-1)[row]))
        except Exception as error:  # an unreadable sample is counted when it is decoded
            log.debug("%s: no location (%s)", patch.key, error)
            return None


def open_ssl4eo(entry: Entry, split: str) -> TileSet | LazyTiles:
    """RGB tiles of S2RGB, or rendered from S2L2A or S2L1C with EuroSAT's stretch, with captions where there are any.

    Patches without a caption are kept without one; :func:`sattxt.training.sources.describe` counts them.

    Raises:
        InputError: no shard, or captions of which none is of any patch.
        MissingExtraError: zarr is not installed, or pyarrow for parquet.
    """
    modality = entry.text("modality", "S2RGB", choices=tuple(_BANDS)) or "S2RGB"
    shards = Shards(entry, split, modality)
    patches = shards.patches(_times(entry))
    size = entry.integer("size", _SIDE, low=8)

    captions = None
    path = entry.optional_path("captions")
    if path is not None:
        captions = _joined(entry, shards, patches, _captions(entry, path, split))
    lazy = LazyTiles(entry.name, [p.key for p in patches], _Rgb(shards, patches, size), size, captions=captions)
    return settle(entry, lazy)


class _Rgb:
    def __init__(self, shards: Shards, patches: Sequence[Patch], size: int) -> None:
        self._shards, self._patches, self._size = shards, patches, size

    def __call__(self, index: int) -> NDArray[np.uint8]:
        values = self._shards.read(self._patches[index])
        rgb = values if self._shards.modality == "S2RGB" else render_rgb(values, self._shards.bands)
        if rgb.dtype != np.uint8 and (rgb.min() < 0 or rgb.max() > 255):
            raise ValueError(f"is S2RGB with values from {rgb.min()} to {rgb.max()}; 0 to 255 are due")
        return fit_tile(rgb.transpose(1, 2, 0), self._size)


def open_ssl4eo_pairs(entry: Entry, split: str) -> PairSet | LazyPairs:
    """All bands of S2L2A or S2L1C, reflectance x 10,000, beside RGB rendered from them; decoded as needed.

    Raises: as :func:`open_ssl4eo`.
    """
    modality = entry.text("modality", "S2L2A", choices=("S2L1C", "S2L2A")) or "S2L2A"
    shards = Shards(entry, split, modality)
    patches = shards.patches(_times(entry))
    size = entry.integer("size", _SIDE, low=8)

    lazy = LazyPairs(entry.name, [p.key for p in patches], _All(shards, patches, size), shards.bands, size)
    return lazy.in_memory() if held_in_memory(entry, lazy.nbytes) else lazy


class _All:
    def __init__(self, shards: Shards, patches: Sequence[Patch], size: int) -> None:
        self._shards, self._patches, self._size = shards, patches, size

    def __call__(self, index: int) -> NDArray[np.int16]:
        return fit_bands(self._shards.read(self._patches[index]), self._size)


def _times(entry: Entry) -> list[int]:
    given = entry.raw("times", list(range(_TIMES)))
    times = [given] if isinstance(given, int) else given
    good = isinstance(times, list) and times and all(isinstance(t, int) and 0 <= t < _TIMES for t in times)
    if not good or len(set(times)) != len(times):
        raise entry.error("times", f"{given!r}; pass some of 0, 1, 2, 3")
    return list(times)


def _shards(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name.endswith((".tar", ".zarr.zip")) and not p.name.startswith("."))


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise MissingExtraError("train", "zarr", "reading SSL4EO-S12 shards") from error
    return zarr


def _chunk(path: Path) -> Any:
    """The zarr group of a chunk file; only the chunks that are asked for are read."""
    import zarr.storage

    return _zarr().open_group(zarr.storage.ZipStore(path, mode="r"), mode="r", zarr_format=None)


_CHUNK = re.compile(r"bands/(?:c/)?(\d+)[./]")


def _group(blob: bytes, time: int | None) -> Any:
    """The zarr group in a zip's content, with the pixels of one time only (``None``: of none)."""
    import zarr.storage
    from zarr.core.buffer.cpu import Buffer

    with zipfile.ZipFile(io.BytesIO(blob)) as packed:
        names = [name for name in packed.namelist() if not name.endswith("/")]
        depth = _times_a_chunk(packed, names)
        wanted = [
            name
            for name in names
            if (match := _CHUNK.match(name)) is None or (time is not None and int(match.group(1)) == time // depth)
        ]
        wanted = [name for name in wanted if not name.startswith("cloud_mask/")]
        held: dict[str, Any] = {name: Buffer.from_bytes(packed.read(name)) for name in wanted}
    return _zarr().open_group(zarr.storage.MemoryStore(held), mode="r", use_consolidated=False)


def _times_a_chunk(packed: zipfile.ZipFile, names: Sequence[str]) -> int:
    if "bands/.zarray" in names:
        return int(json.loads(packed.read("bands/.zarray"))["chunks"][0])
    facts = json.loads(packed.read("bands/zarr.json"))
    return int(facts["chunk_grid"]["configuration"]["chunk_shape"][0])


def _captions(entry: Entry, path: Path, split: str) -> dict[tuple[int, int], list[str]]:
    """Captions by location and time, from a table or a folder of the published form."""
    columns = entry.texts("caption_columns") or ("caption",)
    tables = [path] if path.is_file() else _tables(path, split)
    if not tables:
        raise entry.error("captions", f"{path}: neither {split}.parquet nor {split}/*.csv in it")
    found: dict[tuple[int, int], list[str]] = {}
    for table in tables:
        rows = table_rows(table, ("sample_id", "time_id", *columns))
        there = table_columns(rows)
        for column in ("sample_id", "time_id", *columns):
            if rows and column not in there:
                raise entry.error("captions", f"{table}: no column {column!r}; it has {', '.join(there)}")
        for number, row in enumerate(rows, 1):
            try:
                at = int(row["sample_id"]), int(row["time_id"])
            except (KeyError, TypeError, ValueError) as error:
                raise entry.error("captions", f"{table}: row {number}: sample_id, time_id are no numbers") from error
            found.setdefault(at, []).extend(
                text.strip() for c in columns if isinstance(text := row.get(c), str) and text.strip()
            )
    return found


def _tables(folder: Path, split: str) -> list[Path]:
    whole = folder / f"{split}.parquet"
    if whole.is_file():
        return [whole]
    return sorted((folder / split).glob("*.csv")) or sorted(folder.glob("*.csv"))


def _joined(
    entry: Entry, shards: Shards, patches: Sequence[Patch], captions: dict[tuple[int, int], list[str]]
) -> list[list[str]]:
    places = list(dict.fromkeys((p.shard, p.member, p.row) for p in patches))
    with ThreadPoolExecutor(WORKERS) as pool:
        numbers = pool.map(lambda place: shards.location(Patch(place[0], place[1], place[2], 0)), places)
        location = dict(zip(places, numbers, strict=True))
    joined = []
    for patch in patches:
        number = location[patch.shard, patch.member, patch.row]
        joined.append([] if number is None else captions.get((number, patch.time), []))
    without = sum(not texts for texts in joined)
    if without == len(joined):
        raise entry.error("captions", f"none of {len(captions)} captions is of any of the {len(patches)} patches")
    if without:
        log.warning("%s: %d of %d patches have no caption", entry.name, without, len(patches))
    return joined
