"""Image embeddings computed once before a run, where the vision side is frozen, instead of again at every step."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sattxt.io import atomic_write
from sattxt.training.records import checksum
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
    folder.mkdir(parents=True, exist_ok=True)
    bank = ImageBank([], [])
    for which, found in enumerate(sets):
        path = folder / f"images-{which}.safetensors"
        with FileLock(f"{path}.lock"):
            known = json.dumps([count, facts[which], _checksum(found)])
            stored = _read(path, known)
            if stored is None:
                embedded = _embed_tiles(found, which, view, embed, count)
                stored = {"views": embedded, "tiles": found.actual(torch.arange(len(found)))}
                with atomic_write(path) as file:
                    save_file(stored, file.name, {"of": known, "checksum": str(checksum(stored))})
        bank.views.append(stored["views"])
        bank.tiles.append(stored["tiles"])
    return bank


def _embed_tiles(
    found: Tiles,
    which: int,
    view: Callable[[int, Tensor, int], Tensor],
    embed: Callable[[Tensor], Tensor],
    count: int,
) -> Tensor:
    """(N, count, D): the embeddings of ``count`` views of every tile."""
    log.info("%s: %d tiles are embedded once, in %d views", found.name, len(found), count)
    rows = []
    parts = torch.split(torch.arange(len(found)), _BATCH)
    for part in tqdm(parts, unit=f"x{_BATCH} tiles", desc=found.name, delay=1.0, disable=None):
        rows.append(torch.stack([embed(view(which, part, number)) for number in range(count)], dim=1))
    return torch.cat(rows)


def _checksum(found: Tiles) -> list[int]:
    """Of the tiles' names, and of some tiles' pixels."""
    some = torch.arange(0, len(found), max(1, len(found) // _SEEN))
    return [len(found), zlib.crc32("\n".join(found.keys).encode()), checksum({"": found.take(some)})]


def _read(path: Path, known: str) -> dict[str, Tensor] | None:
    """What is stored for ``known``; ``None`` where there is nothing, nothing whole, or something else."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("of") != known:
                return None
            stored = {name: file.get_tensor(name) for name in ("views", "tiles")}
        if metadata.get("checksum") == str(checksum(stored)):
            return stored
    except SafetensorError as error:
        log.debug("%s: %s", path, error)
    log.warning("%s is damaged; its embeddings are computed again", path)
    return None
