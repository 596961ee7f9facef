"""Caption sets as their authors publish them: RSICD, RSITMD, UCM-captions, Sydney-captions, NWPU-Captions."""

from __future__ import annotations

from pathlib import PurePosixPath

from sattxt.data.tables import CaptionRow, ImageIndex, published_captions, split_name, split_of, text_of
from sattxt.training.data import LazyTiles, TileSet
from sattxt.training.sources.archives import Files
from sattxt.training.sources.entry import IMAGE_KEYS, Entry
from sattxt.training.sources.tables import Row, listed_tiles

CAPTION_KEYS = frozenset({"path", "captions", "size", "memory", "names", "val_share"}) | IMAGE_KEYS


def open_captions(entry: Entry, split: str) -> TileSet | LazyTiles:
    """Images with the captions of a ``dataset_*.json`` (:func:`sattxt.data.tables.published_captions`).

    ``captions`` is that file; without it, the one ``dataset*.json`` among the images. Images are found by their path
    or, where that is unique, their file name. Images that are not there are skipped and counted.

    Layouts, from the loading code and descriptions published beside the sets, no original archive was at hand:
    ``dataset_rsicd.json`` and ``RSICD_images/``; ``dataset_RSITMD.json`` and ``images/`` (train and test only: pass
    ``val_share``); UCM-captions and Sydney-captions ``dataset.json`` and ``imgs/``; NWPU-Captions ``dataset_nwpu.json``
    and ``NWPU_images/{class}/``.

    Raises:
        InputError: no such file, not of that form, or nothing in the split.
    """
    path = entry.path("path")
    files = Files(path)
    given = entry.optional_path("captions")
    if given is not None:
        where, text = str(given), text_of(given)
    else:
        found = [n for n in files.names() if PurePosixPath(n).name.startswith("dataset") and n.endswith(".json")]
        if len(found) != 1:
            raise entry.error("captions", f"{path}: {len(found) or 'no'} files dataset*.json in it; name one")
        where, text = f"{path}/{found[0]}", files.read(found[0]).decode("utf-8-sig", "replace")
    rows = published_captions(text, where)
    if not rows:
        raise entry.error("captions", f"{where}: names no image")
    index = ImageIndex(files.names())
    names = {row: _find(index, row, where) for row in rows}
    listed = {_row(row, names[row]): names[row] for row in rows}
    return listed_tiles(entry, files, [_row(row, names[row]) for row in rows], [], split, listed.get, where)


def _find(index: ImageIndex, row: CaptionRow, where: str) -> str | None:
    in_class = index.find(f"{row.label}/{row.image}", where) if row.label else None
    return in_class or index.find(row.image, where)


def _row(row: CaptionRow, name: str | None) -> Row:
    split = split_name(row.split) if row.split else split_of(name or row.image)
    return Row(f"{row.label}/{row.image}" if row.label else row.image, row.captions, row.label, split)
