"""Tiles on disk to embeddings: what decoding, preprocessing and the model each cost, and how they overlap."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import machine, models
from benchmarks.settings import Result, Settings
from benchmarks.timing import FEWEST_ROUNDS, Case, Series, sample, speedup
from sattxt import SatTxt
from sattxt.demo import blue_marble
from sattxt.images.load import default_workers, stream
from sattxt.images.preprocess import Preprocessor
from sattxt.images.read import to_rgb

SIDE = 64
BATCH = 64
_FLAT = 10.0  # grey levels: a crop that varies less is open ocean or bare ice, which decodes too easily


def run(**arguments: Any) -> dict[str, Any]:
    """All of it, as a :class:`Result` in JSON form."""
    settings = Settings(**arguments)
    machine.apply_threads(settings.threads)
    result = Result("folder", settings.device)
    count = settings.tiles or settings.pick(20_000, 1_000, 48)
    with models.small_model(settings) as (location, name), TemporaryDirectory(prefix="sattxt-bench-") as folder:
        paths = write_tiles(Path(folder), count)
        model = SatTxt.from_pretrained(location, device=settings.device, text_cache=False)
        _measure(settings, result, model, name, paths)
    return result.to_dict()


def write_tiles(folder: Path, count: int) -> list[str]:
    """``count`` JPEGs of 64 x 64 pixels: crops of NASA's Blue Marble at random places, each with some texture."""
    mosaic = blue_marble()
    height, width = mosaic.shape[:2]
    random = np.random.default_rng(0)
    paths: list[str] = []
    while len(paths) < count:
        top, left = int(random.integers(height - SIDE)), int(random.integers(width - SIDE))
        tile = mosaic[top : top + SIDE, left : left + SIDE]
        if tile.std(axis=(0, 1)).max() < _FLAT:
            continue
        subfolder = folder / f"{len(paths) // 1000:03d}"
        subfolder.mkdir(exist_ok=True)
        path = subfolder / f"{len(paths):06d}.jpg"
        Image.fromarray(tile).save(path, quality=90)
        paths.append(str(path))
    return paths


def _measure(settings: Settings, result: Result, model: SatTxt, name: str, paths: list[str]) -> None:
    """Slices of the folder: every stage on the first, then every stage on the second, and so on."""
    sync = machine.synchroniser(settings.device)
    cores = machine.usable_cores()
    length = min(len(paths), settings.pick(1000, 250, 24))
    slices = [paths[i : i + length] for i in range(0, len(paths) - length + 1, length)]
    preprocessor = Preprocessor(model.config.image)
    model.encode_image(paths[:BATCH])
    found: dict[str, Series] = {}
    begun, most = time.perf_counter(), 3 * (settings.budget or 60.0)
    for turn, chosen in enumerate(slices):
        if turn >= FEWEST_ROUNDS and (time.perf_counter() - begun) * (turn + 1) / turn > most:
            result.notes.append(
                f"stages measured on the first {turn * length} tiles; the whole folder is embedded once"
            )
            break
        arrays = [to_rgb(path) for path in chosen]
        batches = [arrays[i : i + BATCH] for i in range(0, len(arrays), BATCH)]
        ready = [preprocessor.batch(batch) for batch in batches]
        cases = {
            "decode": lambda chosen=chosen: _drain(chosen),
            "decode and preprocess": lambda chosen=chosen: _drain(chosen, preprocessor),
            "preprocess": lambda batches=batches: [preprocessor.batch(batch) for batch in batches],
            "model": lambda ready=ready: _model_only(model, ready),
            "arrays to embeddings": lambda arrays=arrays: model.encode_image(arrays, batch_size=BATCH),
            "folder to embeddings": lambda chosen=chosen: model.encode_image(chosen, batch_size=BATCH),
        }
        for case in list(cases) if turn % 2 == 0 else list(cases)[::-1]:
            sample(Case(cases[case], len(chosen)), found.setdefault(case, Series()), sync=sync)
    found = {case: found[case] for case in cases}
    start = time.perf_counter()
    vectors = np.asarray(model.encode_image(paths))
    whole = len(paths) / (time.perf_counter() - start)
    if vectors.shape != (len(paths), model.embed_dim):
        raise RuntimeError(f"the folder gave {vectors.shape} embeddings for {len(paths)} tiles")

    base, end = found["model"], found["folder to embeddings"]
    parts = sum(found[case].cpu_seconds for case in ("decode", "preprocess", "model"))
    bound = parts / cores if settings.device == "cpu" else base.seconds
    result.tables[f"{len(paths)} tiles of {SIDE} px, {name}, batch {BATCH}, {cores} cores"] = [
        {
            "stage": case,
            "tiles/s": series.rate,
            "× model alone": speedup(base, series),
            "CPU ms/tile": 1e3 * series.cpu_seconds,
            "share of CPU time": series.cpu_seconds / parts,
            "cores busy": series.cpu_seconds / series.seconds,
            "spread": series.spread,
        }
        for case, series in found.items()
    ]
    kept = statistics.median(m / e for m, e in zip(base.wall, end.wall, strict=True))
    shared = statistics.median(
        max((d + p + m) / cores, 0 if settings.device == "cpu" else w) / e
        for d, p, m, w, e in zip(
            found["decode"].cpu, found["preprocess"].cpu, base.cpu, base.wall, end.wall, strict=True
        )
    )
    result.tables["How far from the bounds"] = [
        {"bound": "the model alone", "tiles/s": base.rate, "reached": kept},
        {"bound": "all cores busy with decode, preprocess and model", "tiles/s": 1 / bound, "reached": shared},
        {"bound": "the whole folder in one call, once", "tiles/s": whole, "reached": whole / base.rate},
    ]
    result.panel(
        f"{len(paths)} tiles from disk, {settings.device}", "tiles/s", [(case, s.rate) for case, s in found.items()]
    )
    result.goal("folder to embeddings, share of the model-only rate", 0.85, kept)
    result.notes.append(f"threads that decode: {default_workers()}; files are in the operating system's cache")


def _drain(paths: list[str], preprocessor: Preprocessor | None = None) -> None:
    for batch in stream(paths, lambda path, name: to_rgb(path, name=name), batch_size=BATCH):
        if preprocessor is not None:
            preprocessor.batch([image for _, _, image in batch])


@torch.inference_mode()
def _model_only(model: SatTxt, ready: list[torch.Tensor]) -> None:
    for pixel_values in ready:
        F.normalize(models.image_pass(model, pixel_values), dim=-1).cpu().numpy()
