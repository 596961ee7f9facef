"""The text side: new prompts, cache hits, 100,000 cached prompts, label banks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import machine, models
from benchmarks.settings import Result, Settings
from benchmarks.timing import Case, Series, alternate, speedup
from sattxt import LabelBank, SatTxt, TextCache


def run(**arguments: Any) -> dict[str, Any]:
    """All of it, as a :class:`Result` in JSON form."""
    settings = Settings(**arguments)
    machine.apply_threads(settings.threads)
    result = Result("text", settings.device)
    with models.small_model(settings) as (location, name), TemporaryDirectory(prefix="sattxt-bench-") as folder:
        hidden = _prompts(settings, result, location, name, Path(folder))
        _large_cache(settings, result, hidden, Path(folder))
        _banks(settings, result, location, hidden, Path(folder))
    return result.to_dict()


def _prompts(settings: Settings, result: Result, location: str, name: str, folder: Path) -> int:
    sync = machine.synchroniser(settings.device)
    cached = SatTxt.from_pretrained(location, device=settings.device, text_cache=folder / "text.sqlite3")
    plain = SatTxt.from_pretrained(location, device=settings.device, text_cache=False)
    count = settings.pick(512, 256, 8)
    fresh = itertools.count(1)

    def new(number: int) -> list[str]:
        return [f"a satellite image of {label}" for label in models.labels(number, series=next(fresh))]

    known = new(count)
    cached.encode_text(known)
    encoder = models.text_encoder(plain)
    singles = min(16, count)
    cases = {
        "new, one at a time (the reference's way)": Case(lambda: [plain.encode_text(t) for t in new(singles)], singles),
        "new, in one call, nothing kept on disk": Case(lambda: plain.encode_text(new(count)), count),
        "new, in one call, written to the cache": Case(lambda: cached.encode_text(new(count)), count),
        "new, the frozen encoder alone": Case(lambda: encoder.encode(new(count)), count),
        "cached, in one call": Case(lambda: cached.encode_text(known), count),
        "cached, one at a time": Case(lambda: [cached.encode_text(t) for t in known[:singles]], singles),
    }
    series = alternate(
        cases,
        rounds=settings.pick(9, 5, 1),
        min_seconds=settings.pick(0.3, 0.1, 0.0),
        budget=settings.budget,
        sync=sync,
    )
    base = series["new, in one call, nothing kept on disk"]
    result.tables[f"Prompts, {name}"] = [
        {
            "case": case,
            "prompts/s": measured.rate,
            "ms/prompt": 1e3 * measured.seconds,
            "× new in one call": speedup(base, measured),
            "spread": measured.spread,
        }
        for case, measured in series.items()
    ]
    written = series["new, in one call, written to the cache"]
    result.panel(
        f"Prompts, {settings.device}",
        "prompts/s",
        [(case, measured.rate) for case, measured in series.items()],
        log=True,
    )
    result.goal(f"{name}: new prompts/s", 500, written.rate)
    return cached.config.text.hidden_size


def _large_cache(settings: Settings, result: Result, hidden: int, folder: Path) -> None:
    rows = settings.pick(100_000, 20_000, 300)
    asked = min(1000, rows)
    texts = [f"a satellite image of place number {i}" for i in range(rows)]
    random = np.random.default_rng(0)
    vectors = random.standard_normal((rows, hidden), dtype=np.float32)
    cache = TextCache(folder / "large.sqlite3")
    start = time.perf_counter()
    cache.put_many("benchmark", texts, vectors)
    put = rows / (time.perf_counter() - start)
    np.save(folder / "floor.npy", vectors)
    some = [texts[i] for i in random.choice(rows, asked, replace=False)]
    index = {text: i for i, text in enumerate(texts)}

    def floor(wanted: list[str]) -> object:
        stored = np.load(folder / "floor.npy", mmap_mode="r")
        return np.asarray(stored[[index[text] for text in wanted]])

    one = itertools.cycle(some)
    cases = {
        "get_many, 1 text": Case(lambda: cache.get_many("benchmark", [next(one)])),
        f"get_many, {asked} texts": Case(lambda: cache.get_many("benchmark", some), asked),
        f"get_many, all {rows} texts": Case(lambda: cache.get_many("benchmark", texts), rows),
        f"get_many, {asked} unknown texts": Case(
            lambda: cache.get_many("benchmark", [f"unknown {text}" for text in some]), asked
        ),
        f"floor: {asked} rows of a mapped .npy": Case(lambda: floor(some), asked),
    }
    series = alternate(
        cases, rounds=settings.pick(5, 3, 1), min_seconds=settings.pick(0.2, 0.05, 0.0), budget=settings.budget
    )
    base = series[f"floor: {asked} rows of a mapped .npy"]
    table: list[dict[str, Any]] = [
        {"case": case, "texts/s": measured.rate, "× floor": speedup(base, measured), "spread": measured.spread}
        for case, measured in series.items()
    ]
    table.append({"case": f"put_many, {rows} texts (once)", "texts/s": put, "× floor": "", "spread": ""})
    result.tables[f"A text cache of {rows} prompts, {hidden} wide"] = table
    size = sum(file.stat().st_size for file in folder.glob("large.sqlite3*"))
    result.notes.append(
        f"{rows} prompts of width {hidden}: {size / 1e6:.0f} MB on disk, vectors {vectors.nbytes / 1e6:.0f} MB"
    )
    cache.close()


def _banks(settings: Settings, result: Result, location: str, hidden: int, folder: Path) -> None:
    from sattxt.text.encoder import fingerprint

    model = SatTxt.from_pretrained(location, device=settings.device, text_cache=False)
    space = fingerprint(model.config.text)
    random = np.random.default_rng(1)
    cases: dict[str, Case] = {}
    for rows in settings.pick((1000, 100_000), (1000, 20_000), (50,)):
        texts = [f"a satellite image of place number {i}" for i in range(rows)]
        bank = LabelBank(space=space, texts=texts, vectors=random.standard_normal((rows, hidden), dtype=np.float32))
        file = folder / f"bank-{rows}.safetensors"
        bank.save(file)
        np.save(folder / f"bank-{rows}.npy", bank.vectors)
        cases[f"LabelBank.load, {rows} texts"] = Case(_call(LabelBank.load, file), rows)
        cases[f"import_labels, {rows} texts"] = Case(_call(model.import_labels, file), rows)
        cases[f"floor: np.load, {rows} rows"] = Case(_call(np.load, folder / f"bank-{rows}.npy"), rows)
    series = alternate(
        cases, rounds=settings.pick(7, 3, 1), min_seconds=settings.pick(0.1, 0.05, 0.0), budget=settings.budget
    )

    def per_call(case: str, measured: Series) -> float:
        return 1e3 * measured.seconds * cases[case].items

    result.tables["Label banks"] = [
        {
            "case": case,
            "ms": per_call(case, measured),
            "× floor": speedup(series[f"floor: np.load, {cases[case].items} rows"], measured),
            "spread": measured.spread,
        }
        for case, measured in series.items()
    ]


def _call(function: Callable[[Path], object], path: Path) -> Callable[[], object]:
    return lambda: function(path)
