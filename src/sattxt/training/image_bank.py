"""Image embeddings computed once before a run, where the vision side is frozen, instead of again at every step."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sattxt.io import disk_errors
from sattxt.training.checkpoint import checksum
from sattxt.training.tiles import Tiles

log = logging.getLogger(__name__)

_BATCH = 128
_SEEN = 16  # tiles whose pixels are compared before stored embeddings are taken for theirs


@dataclass
class ImageBank:
    """Embeddings of every tile of several data sets.

    views: for each set (N, V, D) float32, L2-normalised: V views of each tile. tiles: for each set (N,) int64, which
    tile was embedded at each place: itself, or what stands in for one that cannot be read.
    """

    views: list[Tensor]
    tiles: list[Tensor]

    def take(self, which: int, index: Tensor, random: torch.Generator) -> Tensor:
        """(n, D): a random view of each tile at ``index``, int64 (n,), of set ``which``."""
        views = self.views[which]
        return views[index, torch.randint(views.shape[1], (len(index),), generator=random)]


def build_image_bank(
    sets: Sequence[Tiles],
    view: Callable[[int, Tensor, int], Tensor],
    embed: Callable[[Tensor], Tensor],
    count: int,
    folder: Path,
    facts: Sequence[str],
) -> ImageBank:
    """Embed every tile of ``sets`` ``count`` times, or read what an earlier call in ``folder`` left.

    A data set is a file, written whole or not at all: what was stopped goes on with the set it was stopped in. Several
    processes may ask at once; one does the work.

    Args:
        view: (set, (n,) int64 indices, number of the view) to pixel values, (n, 3, S, S).
        embed: from these to (n, D) float32, on the CPU.
        facts: for each set, all that its embeddings depend on beside its pixels; what was stored under others is made
            anew.

    Raises:
        InputError: no tile of a set can be read. DiskFullError: no space is left.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    views, tiles = [], []
    for which, found in enumerate(sets):
        path = folder / f"images-{which}.safetensors"
        with FileLock(f"{path}.lock"):
            known = json.dumps([count, facts[which], _checksum(found)])
            stored = _read(path, known)
            if stored is None:
                stored = _embedded(found, which, view, embed, count)
                _write(path, stored, known)
        views.append(stored[0])
        tiles.append(stored[1])
    return ImageBank(views, tiles)


def _embedded(
    found: Tiles,
    which: int,
    view: Callable[[int, Tensor, int], Tensor],
    embed: Callable[[Tensor], Tensor],
    count: int,
) -> tuple[Tensor, Tensor]:
    from tqdm import tqdm

    log.info("%s: %d tiles are embedded once, in %d views", found.name, len(found), count)
    places, rows = torch.arange(len(found)), []
    with tqdm(total=len(found), unit=" tiles", desc=found.name, delay=1.0, disable=None) as bar:
        for part in torch.split(places, _BATCH):
            rows.append(torch.stack([embed(view(which, part, number)) for number in range(count)], dim=1))
            bar.update(len(part))
    return torch.cat(rows), found.actual(places)


def _checksum(found: Tiles) -> list[int]:
    """Of the tiles' names, and of some tiles' pixels."""
    some = torch.arange(0, len(found), max(1, len(found) // _SEEN))
    return [len(found), zlib.crc32("\n".join(found.keys).encode()), checksum({"": found.take(some)})]


def _read(path: Path, known: str) -> tuple[Tensor, Tensor] | None:
    """What is stored for ``known``; ``None`` where there is nothing, nothing whole, or something else."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("of") != known:
                return None
            views, tiles = file.get_tensor("views"), file.get_tensor("tiles")
        if metadata.get("checksum") == _sum(views, tiles):
            return views, tiles
    except (SafetensorError, KeyError):
        pass
    log.warning("%s is damaged; its embeddings are computed again", path)
    return None


def _write(path: Path, stored: tuple[Tensor, Tensor], known: str) -> None:
    metadata = {"of": known, "checksum": _sum(*stored)}
    temporary = path.with_name(path.name + ".tmp")
    try:
        with disk_errors(path):
            save_file({"views": stored[0], "tiles": stored[1]}, temporary, metadata=metadata)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sum(views: Tensor, tiles: Tensor) -> str:
    return f"{checksum({'views': views, 'tiles': tiles}):08x}"
