"""Opening the data sets that a recipe names: RGB tiles with texts for stage 2, RGB beside all bands for stage 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from sattxt.errors import InputError
from sattxt.training.data import LazyTiles, TileSet
from sattxt.training.fields import draw_fields
from sattxt.training.pairs import LazyPairs, PairSet
from sattxt.training.sources import multispectral
from sattxt.training.sources.captions import CAPTION_KEYS, open_captions
from sattxt.training.sources.entry import Entry, hint
from sattxt.training.sources.folders import FOLDER_KEYS, open_folder
from sattxt.training.sources.ssl4eo import SSL4EO_KEYS, SSL4EO_PAIR_KEYS, open_ssl4eo, open_ssl4eo_pairs
from sattxt.training.sources.tables import TABLE_KEYS, open_table
from sattxt.training.spectral import read_s2_tiles

Opened = TypeVar("Opened")


@dataclass(frozen=True)
class Kind(Generic[Opened]):
    """A kind of data set: what an entry of it may say, and how it is opened for a split."""

    keys: frozenset[str]
    open: Callable[[Entry, str], Opened]


def _s2_tiles(entry: Entry, split: str) -> TileSet:
    return read_s2_tiles(entry.path("path"), split, name=entry.name)


def _fields(entry: Entry, split: str) -> TileSet:
    count, seed = _drawn(entry, split)
    return draw_fields(count, seed=seed, size=entry.integer("size", 64, low=32), name=entry.name)


def _drawn(entry: Entry, split: str) -> tuple[int, int]:
    """How many tiles to draw, and the seed; for validation others, a tenth as many."""
    count, seed = entry.integer("tiles"), entry.integer("seed", 0, low=0)
    return (count, seed) if split == "train" else (max(1, count // 10), seed + 1)


#: Kinds of RGB tiles with labels, captions or both.
TILE_KINDS: dict[str, Kind[TileSet | LazyTiles]] = {
    "zip": Kind(FOLDER_KEYS, open_folder),
    "folder": Kind(FOLDER_KEYS, open_folder),
    "table": Kind(TABLE_KEYS, open_table),
    "captions": Kind(CAPTION_KEYS, open_captions),
    "ssl4eo": Kind(SSL4EO_KEYS, open_ssl4eo),
    "s2": Kind(frozenset({"path"}), _s2_tiles),
    "fields": Kind(frozenset({"tiles", "size", "seed"}), _fields),
}

#: Kinds of RGB tiles beside multispectral ones.
PAIR_KINDS: dict[str, Kind[PairSet | LazyPairs]] = {
    "s2": Kind(multispectral.ARCHIVE_KEYS, multispectral.open_s2),
    "eurosat_ms": Kind(multispectral.ARCHIVE_KEYS, multispectral.open_eurosat_ms),
    "ssl4eo": Kind(SSL4EO_PAIR_KEYS, open_ssl4eo_pairs),
    "geotiff": Kind(multispectral.GEOTIFF_KEYS, multispectral.open_geotiff),
    "npz": Kind(multispectral.NPZ_KEYS, multispectral.open_npz),
    "rgb": Kind(multispectral.RGB_KEYS, multispectral.open_rgb),
}


def open_set(entry: Mapping[str, Any], root: Path, split: str) -> TileSet | LazyTiles:
    """The tiles of one split of a recipe's data set.

    Args:
        entry: ``name``, ``kind`` (of :data:`TILE_KINDS`) and what the kind's reader takes; paths are relative to
            ``root``.
        root: the data folder.
        split: ``train`` or ``val``.

    Raises:
        InputError: kind or key unknown (with the near match), a value or the data unfit, nothing in the split.
        MissingExtraError: a package is needed that is not installed.
    """
    return _open(TILE_KINDS, entry, root, split)


def open_pairs(entry: Mapping[str, Any], root: Path, split: str) -> PairSet | LazyPairs:
    """The RGB and multispectral tiles of one split of a recipe's data set; arguments and errors as :func:`open_set`,
    kinds of :data:`PAIR_KINDS`.
    """
    return _open(PAIR_KINDS, entry, root, split)


def _open(kinds: Mapping[str, Kind[Opened]], entry: Mapping[str, Any], root: Path, split: str) -> Opened:
    if not isinstance(entry, Mapping):
        raise InputError(f"a data set is a mapping with name, kind and path, not {entry!r}")
    kind = str(entry.get("kind") or "")
    if kind not in kinds:
        called = f"data set {entry.get('name')!r}" if entry.get("name") else "a data set"
        if not kind:
            raise InputError(f"{called}: kind is missing; pass one of {', '.join(kinds)}")
        raise InputError(f"{called}: unknown kind {kind!r}{hint(kind, kinds)}")
    if split not in ("train", "val"):
        raise InputError(f"split={split!r}; pass 'train' or 'val'")
    return kinds[kind].open(Entry(entry, root, kinds[kind].keys), split)


def describe(sets: Sequence[TileSet | LazyTiles | PairSet | LazyPairs]) -> list[str]:
    """One line a set: tiles, classes, captions, and what was skipped so far with the first reason."""
    return [_line(tiles) for tiles in sets]


def _line(tiles: TileSet | LazyTiles | PairSet | LazyPairs) -> str:
    facts = [f"{len(tiles):,} tile{'s' * (len(tiles) != 1)}"]
    if isinstance(tiles, LazyTiles | LazyPairs):
        facts[0] += " read as needed"
    if isinstance(tiles, TileSet | LazyTiles):
        facts.append(f"{len(tiles.classes)} classes" if tiles.classes else "no classes")
        with_captions = sum(bool(texts) for texts in tiles.captions)
        texts = sum(len(texts) for texts in tiles.captions)
        share = "" if with_captions == len(tiles) else f" for {with_captions:,} of them"
        facts.append(f"{texts:,} captions{share}" if texts else "no captions")
    else:
        facts.append(f"bands {' '.join(tiles.bands)}")
    if tiles.skipped:
        key, reason = tiles.skipped[0]
        facts.append(f"{len(tiles.skipped):,} skipped, such as {key}: {reason}")
    return f"{tiles.name}: {', '.join(facts)}"
