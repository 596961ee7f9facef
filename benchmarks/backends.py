"""What runs the image side: torch and OpenVINO, in every precision there is, by rate, first answer and folder."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from benchmarks import machine
from benchmarks.folder import write_tiles
from benchmarks.images import tiles
from benchmarks.isolate import environment
from benchmarks.settings import Result, Settings
from benchmarks.timing import Case, alternate, speedup
from sattxt import SatTxt
from sattxt.errors import InputError, MissingExtraError, WeightsError

_CHOICES: tuple[tuple[Literal["torch", "openvino"], str], ...] = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "int8"),
)
_FIRST = "import numpy as np; from sattxt import SatTxt; \
SatTxt.from_pretrained(backend={!r}, dtype={!r}).zero_shot(np.full((64, 64, 3), 80, np.uint8), ['forest', 'river'])"


def run(**arguments: Any) -> dict[str, Any]:
    """All of it, as a :class:`Result` in JSON form."""
    settings = Settings(**arguments)
    machine.apply_threads(settings.threads)
    result = Result("backends", settings.device)
    opened: dict[str, SatTxt] = {}
    for backend, dtype in _CHOICES if settings.device == "cpu" else ():
        try:
            opened[f"{backend} {dtype}"] = SatTxt.from_pretrained(backend=backend, dtype=dtype, text_cache=False)
        except (InputError, MissingExtraError, WeightsError) as error:
            result.notes.append(f"{backend} {dtype}: {error}")
    if opened:
        _measure(settings, result, opened)
    return result.to_dict()


def _measure(settings: Settings, result: Result, opened: dict[str, SatTxt]) -> None:
    arrays = np.stack(tiles(settings.pick(256, 128, 4), 64))
    cases = {name: Case(_encode(model, arrays), len(arrays)) for name, model in opened.items()}
    series = alternate(cases, rounds=settings.pick(9, 5, 1), sync=machine.synchroniser(settings.device))
    base = series["torch float32"]
    rows: list[dict[str, Any]] = []
    for name, model in opened.items():
        rows.append(
            {
                "backend": name,
                "images/s": series[name].rate,
                "× torch float32": speedup(base, series[name]),
                "folder to embeddings, share of that rate": _folder_share(settings, model),
                "first answer, s": _first_answer(settings, *name.split()),
                "spread": series[name].spread,
            }
        )
    result.tables["sattxt-mini, 64 px tiles in memory, batch 64"] = rows
    by_name = {row["backend"]: row for row in rows}
    if (int8 := by_name.get("openvino int8")) is not None:
        result.goal("sattxt-mini int8 against torch float32", 2.8, int8["× torch float32"], unit="×")
        result.goal("int8: folder to embeddings", 0.8, int8["folder to embeddings, share of that rate"])
        ratio = int8["first answer, s"] / by_name["torch float32"]["first answer, s"]
        result.goal("int8: first answer against torch's", 1.3, ratio, at_least=False, unit="×")


def _encode(model: SatTxt, arrays: np.ndarray) -> Callable[[], object]:
    return lambda: model.encode_image(arrays)


def _folder_share(settings: Settings, model: SatTxt) -> float:
    """Rate of embedding JPEG files over that of their pixel values."""
    with TemporaryDirectory(prefix="sattxt-bench-") as folder:
        paths = write_tiles(Path(folder), settings.pick(1024, 256, 8))
        ready = model.vision.preprocess(paths)
        rounds = alternate(
            {
                "files": Case(lambda: model.encode_image(paths), len(paths)),
                "pixels": Case(lambda: model.encode_image(ready), len(paths)),
            },
            rounds=settings.pick(5, 3, 1),
        )
    return speedup(rounds["pixels"], rounds["files"])


def _first_answer(settings: Settings, backend: str, dtype: str) -> float:
    """Seconds from the start of a process to a tile's labels, texts cached, the compiled model too."""
    took = []
    with TemporaryDirectory(prefix="sattxt-bench-") as cache:
        for _ in range(settings.pick(6, 4, 2)):
            start = time.perf_counter()
            command = [sys.executable, "-c", _FIRST.format(backend, dtype)]
            subprocess.run(command, env=environment(SATTXT_CACHE=cache), check=True)
            took.append(time.perf_counter() - start)
    return statistics.median(took[1:])
