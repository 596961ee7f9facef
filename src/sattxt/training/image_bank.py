"""Image embeddings computed once before a run, where the vision side is frozen, instead of again at every step."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable
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


def embed_once(
    tiles: Tiles, embed: Callable[[Tensor, int], Tensor], count: int, path: Path, facts: str
) -> tuple[Tensor, Tensor]:
    """Embed every tile of a data set ``count`` times, or read what an earlier call left in ``path``.

    The file is written whole or not at all. Several processes may ask at once; one does the work.

    Args:
        embed: ((n,) int64 indices, number of the view) to (n, D) float32, on the CPU.
        facts: all that embeddings depend on beside the pixels; what was stored under others is made anew.

    Returns:
        (N, count, D), and (N,) int64, which tile was embedded at each place: itself, or what stands in for one that
        cannot be read.

    Raises:
        InputError: no tile can be read. DiskFullError: no space is left.
    """
    everything = torch.arange(len(tiles))
    pixels = checksum({"": tiles.take(everything[:: max(1, len(tiles) // _SEEN)])})
    known = json.dumps([facts, count, len(tiles), zlib.crc32("\n".join(tiles.keys).encode()), pixels])
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        stored = _read(path, known)
        if not stored:
            log.info("%s: %d tiles are embedded once, in %d views", tiles.name, len(tiles), count)
            views = []
            parts = torch.split(everything, _BATCH)
            for part in tqdm(parts, unit=f"x{_BATCH} tiles", desc=tiles.name, delay=1.0, disable=None):
                views.append(torch.stack([embed(part, number) for number in range(count)], dim=1))
            stored = {"views": torch.cat(views), "tiles": tiles.actual(everything)}
            with atomic_write(path) as file:
                save_file(stored, file.name, {"of": known, "checksum": str(checksum(stored))})
    return stored["views"], stored["tiles"]


def _read(path: Path, known: str) -> dict[str, Tensor]:
    """What is stored for ``known``; nothing where there is no file, a damaged one, or that of something else."""
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("of") != known:
                return {}
            stored = {name: file.get_tensor(name) for name in ("views", "tiles")}
        if metadata.get("checksum") == str(checksum(stored)):
            return stored
    except SafetensorError as error:
        log.debug("%s: %s", path, error)
    log.warning("%s is damaged; its embeddings are computed again", path)
    return {}
