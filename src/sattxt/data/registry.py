"""Which data sets can be named, opening one, and adding another."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sattxt.data.bigearthnet import read_bigearthnet
from sattxt.data.dataset import Dataset
from sattxt.data.labelled import read_captions, read_folders, read_forestnet, read_table
from sattxt.data.multispectral import read_geotiffs
from sattxt.data.ssl4eo import read_ssl4eo
from sattxt.data.tables import TABLE_SUFFIXES
from sattxt.errors import InputError, near
from sattxt.images.options import ImageOptions
from sattxt.labels.sets import squash


@dataclass(frozen=True)
class Entry:
    """A data set that can be named.

    read: its reader, called with the path, ``options`` and ``fixed``. named: whether the name is that of a data set,
    not of a layout that any may have.
    """

    read: Callable[..., Dataset]
    fixed: Mapping[str, Any] = field(default_factory=dict, hash=False)
    aliases: tuple[str, ...] = ()
    named: bool = True

    @property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """What else the reader takes, by keyword."""
        taken = inspect.signature(self.read, eval_str=True).parameters.values()
        own = (p for p in taken if p.kind == p.KEYWORD_ONLY and p.name != "options")
        return {p.name: p for p in own if p.name not in self.fixed}


DATASETS: dict[str, Entry] = {
    # CLASS/image, or {train,val,test}/CLASS/image
    "folder": Entry(read_folders, {"known": None}, ("folders", "zip"), named=False),
    # a .csv, .jsonl or .parquet with path and label(s) or caption(s)
    "table": Entry(read_table, aliases=("manifest",), named=False),
    # images, and a dataset_*.json or a table of captions
    "captions": Entry(read_captions, named=False),
    # multi-band .tif files
    "geotiff": Entry(read_geotiffs, aliases=("s2",), named=False),
    # CLASS/CLASS_1.jpg, or .tif (13 bands)
    "eurosat": Entry(read_folders, {"known": "eurosat"}, ("eurosat-rgb", "eurosat-ms")),
    # Images/CLASS/CLASS00.tif
    "ucmerced": Entry(read_folders, {"known": "ucmerced"}, ("ucm",)),
    # CLASS/CLASS_001.jpg
    "resisc45": Entry(read_folders, {"known": "resisc45"}, ("nwpu-resisc45",)),
    # CLASS/class_1.jpg
    "aid": Entry(read_folders, {"known": "aid"}),
    # aGrass/a001.jpg
    "rsscn7": Entry(read_folders, {"known": "rsscn7"}),
    # CLASS/class_01.jpg
    "whu-rs19": Entry(read_folders, {"known": "whu-rs19"}),
    # version 1 or 2, unpacked or in a tar
    "bigearthnet-19": Entry(read_bigearthnet, {"classes": 19}, ("bigearthnet", "ben")),
    # version 1, unpacked or in a tar
    "bigearthnet-43": Entry(read_bigearthnet, {"classes": 43}),
    # {train,val,test}.csv and examples/
    "forestnet": Entry(read_forestnet, {"merged": False}, ("forestnet-12",)),
    "forestnet-4": Entry(read_forestnet, {"merged": True}),
    # dataset_rsicd.json and RSICD_images/
    "rsicd": Entry(read_captions),
    # dataset_RSITMD.json and images/
    "rsitmd": Entry(read_captions),
    # dataset.json and imgs/
    "ucm-captions": Entry(read_captions),
    "sydney-captions": Entry(read_captions),
    # dataset_nwpu.json and NWPU_images/CLASS/
    "nwpu-captions": Entry(read_captions),
    # {train,val}/{S2RGB,S2L2A,S2L1C}/*.tar or *.zarr.zip
    "ssl4eo": Entry(read_ssl4eo),
}


def register(name: str, read: Callable[..., Dataset], *, aliases: Sequence[str] = ()) -> None:
    """Add a data set, for :func:`open_data`, ``sattxt eval --dataset`` and the kinds of a recipe.

    Args:
        name: replaces a data set that is called so.
        read: from a :class:`~pathlib.Path` and ``options=`` (:class:`~sattxt.images.options.ImageOptions` or ``None``)
            to a :class:`~sattxt.data.dataset.Dataset`. Further keyword-only arguments are keys of a recipe's entry,
            checked by their annotations; those annotated as ``Path`` are relative to the data folder.
        aliases: other names; case and punctuation do not matter.
    """
    DATASETS[name] = Entry(read, aliases=tuple(aliases))


def find_entry(dataset: str) -> tuple[str, Entry]:
    """A data set's name and entry by any of its names.

    Raises:
        InputError: there is none; the message has near matches.
    """
    for name, entry in DATASETS.items():
        if squash(dataset) in map(squash, (name, *entry.aliases)):
            return name, entry
    hint = near(dataset, list(DATASETS)) or f"; the data sets are {', '.join(DATASETS)}"
    raise InputError(f"no data set is called {dataset!r}{hint}")


def open_data(
    path: str | Path,
    dataset: str = "auto",
    *,
    options: ImageOptions | None = None,
    strict: bool = True,
    **arguments: Any,
) -> Dataset:
    """The data set at ``path``, with all of its splits. Nothing is downloaded or unpacked beside it.

    Args:
        path: a folder, zip or tar; or a table.
        dataset: a key of :data:`DATASETS`. "auto" reads a .csv, .jsonl or .parquet file as a table, images with
            ``captions`` as captions, and all else as class folders.
        options: how to read the images; default: as the data set needs it.
        strict: whether files that cannot be used are an error; else they are the data set's ``skipped``.
        arguments: what the data set's reader takes besides (``captions=``, ``images=``, ...); ``None`` is its default.

    Raises:
        InputError: nothing is there, the name is not known, an argument is not the reader's, or the layout is another.
        MissingExtraError: a package is needed that is not installed.
    """
    found = Path(path)
    given = {key: value for key, value in arguments.items() if value is not None}
    if dataset == "auto":
        table = found.is_file() and found.suffix in TABLE_SUFFIXES
        dataset = "table" if table else "captions" if "captions" in given else "folder"
    name, entry = find_entry(dataset)
    for key in given:
        if key not in entry.arguments:
            takes = ", ".join(entry.arguments) or "no such option"
            raise InputError(f"{key} goes with other data than --dataset {dataset}, which takes {takes}")
    opened = entry.read(found, options=options, **entry.fixed, **given)
    if strict and opened.skipped:
        key, reason = opened.skipped[0]
        more = f", as {len(opened.skipped) - 1} more of its files cannot be used" if len(opened.skipped) > 1 else ""
        raise InputError(f"{path}: {key} {reason}{more}")
    return replace(opened, name=name) if entry.named else opened
