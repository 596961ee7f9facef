"""Which data sets can be named, and opening one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sattxt.data.archive import is_image, open_store
from sattxt.data.bigearthnet import read_bigearthnet
from sattxt.data.captions import read_captions
from sattxt.data.dataset import Dataset
from sattxt.data.folders import read_folders
from sattxt.data.forestnet import read_forestnet
from sattxt.data.manifest import MANIFEST_SUFFIXES, read_manifest
from sattxt.errors import InputError
from sattxt.images.bands import EUROSAT_MS
from sattxt.images.read import ImageOptions
from sattxt.labels.sets import near

_MS = ImageOptions(stretch="sentinel2", bands=("B04", "B03", "B02"), band_names=EUROSAT_MS)


@dataclass(frozen=True)
class Entry:
    """A data set that can be named. layout: what is expected on disk, as the publishers pack it."""

    layout: str
    read: Callable[..., Dataset]
    arguments: dict[str, Any]


DATASETS: dict[str, Entry] = {
    "folder": Entry("CLASS/image, or {train,val,test}/CLASS/image", read_folders, {}),
    "manifest": Entry("a .csv, .jsonl or .parquet with path and label(s) or caption(s)", read_manifest, {}),
    "captions": Entry("images, and a dataset_*.json or --captions FILE.jsonl", read_captions, {}),
    "eurosat": Entry("CLASS/CLASS_1.jpg, or .tif (13 bands)", read_folders, {"known": "eurosat"}),
    "ucmerced": Entry("Images/CLASS/CLASS00.tif", read_folders, {"known": "ucmerced"}),
    "resisc45": Entry("CLASS/CLASS_001.jpg", read_folders, {"known": "resisc45"}),
    "aid": Entry("CLASS/class_1.jpg", read_folders, {"known": "aid"}),
    "rsscn7": Entry("aGrass/a001.jpg", read_folders, {"known": "rsscn7"}),
    "whu-rs19": Entry("CLASS/class_01.jpg", read_folders, {"known": "whu-rs19"}),
    "bigearthnet-19": Entry("version 1 or 2, unpacked or in a tar", read_bigearthnet, {"classes": 19}),
    "bigearthnet-43": Entry("version 1, unpacked or in a tar", read_bigearthnet, {"classes": 43}),
    "forestnet": Entry("{train,val,test}.csv and examples/, 12 classes", read_forestnet, {}),
    "forestnet-4": Entry("as forestnet, its 4 merged classes", read_forestnet, {"merged": True}),
    "rsicd": Entry("dataset_rsicd.json and RSICD_images/", read_captions, {"name": "rsicd"}),
    "rsitmd": Entry("dataset_RSITMD.json and images/", read_captions, {"name": "rsitmd"}),
    "ucm-captions": Entry("dataset.json and imgs/", read_captions, {"name": "ucm-captions"}),
}


_ALIASES = {
    **{re.sub(r"[\W_]+", "", name): name for name in DATASETS},
    "eurosatrgb": "eurosat",
    "eurosatms": "eurosat",
    "ucm": "ucmerced",
    "nwpuresisc45": "resisc45",
    "bigearthnet": "bigearthnet-19",
    "ben": "bigearthnet-19",
    "forestnet12": "forestnet",
    "folders": "folder",
}


def open_data(
    path: str | Path,
    dataset: str = "auto",
    *,
    captions: Path | None = None,
    images: Path | None = None,
    options: ImageOptions | None = None,
) -> Dataset:
    """The data set at ``path``, with all of its splits. Nothing is downloaded or unpacked beside it.

    Args:
        path: a folder, zip or tar; or a manifest.
        dataset: a key of :data:`DATASETS`. "auto" reads a .csv, .jsonl or .parquet file as a manifest, images with
            ``captions`` as captions, and all else as class folders.
        captions: file with the captions (see :func:`read_captions`).
        images: folder or archive that a manifest's paths are relative to.
        options: how to read the images; default: as the data set needs it.

    Raises:
        InputError: nothing is there, the name is not known, or the layout is another.
    """
    found = Path(path)
    if dataset == "auto":
        table = found.is_file() and found.suffix in MANIFEST_SUFFIXES
        dataset = "manifest" if table else "captions" if captions else "folder"
    dataset = _ALIASES.get(re.sub(r"[\W_]+", "", dataset).lower(), dataset)
    entry = DATASETS.get(dataset)
    if entry is None:
        hint = near(dataset, list(DATASETS)) or f"; the data sets are {', '.join(DATASETS)}"
        raise InputError(f"no data set is called {dataset!r}{hint}")
    if captions is not None and entry.read is not read_captions:
        raise InputError(f"captions go with images, not with --dataset {dataset}; pass --dataset captions")
    if entry.read is read_manifest:
        if not found.is_file() or found.suffix not in MANIFEST_SUFFIXES:
            raise InputError(f"{found}: a manifest is a file ending in {', '.join(MANIFEST_SUFFIXES)}")
        return read_manifest(found, images=images, options=options)
    store = open_store(found)
    if entry.read is read_captions:
        return read_captions(store, captions, options=options, **entry.arguments)
    if entry.read is read_folders:
        first = next((n for n in store.names() if is_image(n)), "")
        if dataset == "eurosat" and options is None and first.endswith(".tif"):
            options = _MS
        return read_folders(store, name=None if dataset == "folder" else dataset, options=options, **entry.arguments)
    return entry.read(store, options=options, **entry.arguments)
