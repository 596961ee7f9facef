"""Adding scenes to a store: the plan, told or carried out by one process, one of many, or actors of Ray."""

from __future__ import annotations

import logging
import pickle
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sattxt.errors import InputError, SceneError, import_extra
from sattxt.images.load import Failure
from sattxt.scenes.batches import BATCH
from sattxt.scenes.files import Folder
from sattxt.scenes.ingest import (
    Engine,
    Job,
    OnError,
    Plan,
    Target,
    count_roughly,
    encode,
    make_plan,
    plan_job,
)
from sattxt.scenes.open import SceneReading

if TYPE_CHECKING:
    from sattxt.scenes.settings import StoreSettings
    from sattxt.scenes.store import Store

_ROW_BYTES = 160  # of a chip's other columns, compressed


@dataclass(frozen=True)
class AddReport:
    """What :meth:`Store.add` did, or with ``dry_run`` would do.

    scenes: found. done: of these, in the store already, unchanged. chips: of the others. rows: chips kept (those too
    cloudy or without data are left out). bytes, seconds: on disk, and taken; of a dry run estimates, an upper bound.
    failures: scenes that could not be read; the next run tries them again.
    """

    scenes: int
    done: int
    chips: int
    rows: int
    bytes: int
    seconds: float
    failures: list[Failure] = field(default_factory=list)
    dry_run: bool = False


def add_scenes(
    store: Store,
    sources: Any,
    reading: SceneReading,
    *,
    on_error: OnError,
    engine: str,
    dry_run: bool,
    progress: bool,
) -> AddReport:
    """Commit the scenes that ``sources`` name; arguments and errors as in :meth:`Store.add`."""
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error={on_error!r}: pass 'raise' or 'skip'")
    began, shard = time.monotonic(), _parse_engine(engine)
    target = Target(store.files, store.settings)
    plan = make_plan(target, store.items, sources, reading, on_error=on_error, shard=shard)
    found = plan.done + len(plan.jobs) + len(plan.failures)
    if dry_run:
        chips = _count(plan, store.settings, on_error)
        size = chips * (store.settings.dimensions * (1 if store.settings.stored == "int8" else 2) + _ROW_BYTES)
        seconds = chips / _rate(store) if chips else 0.0
        return AddReport(found, plan.done, chips, chips, size, seconds, plan.failures, dry_run=True)
    before = {part.unit for item in store.items for part in item.parts}
    if engine == "ray" and plan.jobs:
        chips, failures = _run_on_ray(store, plan.jobs, on_error, progress=progress)
    else:
        chips, failures = _run_here(store, target, plan.jobs, on_error, progress=progress)
    failures = [*plan.failures, *failures]
    store.describe()
    new = [part for item in store.items for part in item.parts if part.unit not in before]
    size = sum(store.files.size(part.name) or 0 for part in new)
    rows = sum(part.rows for part in new)
    return AddReport(found, plan.done, chips, rows, size, time.monotonic() - began, failures)


def _parse_engine(engine: str) -> tuple[int, int]:
    """Which of how many shards."""
    if engine in ("local", "ray"):
        return 0, 1
    shard = re.fullmatch(r"task:(\d+)/(\d+)", engine)
    if shard is None or not int(shard[1]) < int(shard[2]):
        raise InputError(f"engine={engine!r}: pass 'local', 'ray', or 'task:i/n' with i from 0 to n - 1: 'task:3/64'")
    return int(shard[1]), int(shard[2])


def _run_here(
    store: Store, target: Target, jobs: Sequence[Job], on_error: OnError, *, progress: bool
) -> tuple[int, list[Failure]]:
    if not jobs:
        return 0, []
    with _bar(store.settings, jobs, progress=progress) as bar:
        engine = Engine(target, store.model, bar)
        failures = engine.run(jobs, on_error=on_error)
    return engine.chips, failures


def _bar(settings: StoreSettings, jobs: Sequence[Job], *, progress: bool) -> Any:
    from tqdm import tqdm

    total = sum(count_roughly(job, settings) for job in jobs)
    # disable=None: the bar shows on a terminal only
    return tqdm(total=total, unit=" chips", disable=None if progress else True, leave=False)


def _count(plan: Plan, settings: StoreSettings, on_error: OnError) -> int:
    total = 0
    for place, job in enumerate(plan.jobs):
        try:
            total += len(plan_job(job, settings)[0].cell)
        except SceneError as error:
            if on_error == "raise":
                raise
            plan.failures.append(Failure(place, job.scene.source, str(error)))
    return total


def _rate(store: Store) -> float:
    """Chips a second that the model embeds."""
    side = store.settings.chip
    chips = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        encode(store.model, chips)
        times.append(time.perf_counter() - began)
    return BATCH / min(times)


class EmbedUnits:
    """An actor of Ray: the local engine in a process of its own. Pixels stay in it: it writes the part itself."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._model = target.settings.open_model(str(target.files))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write units, and the record of an item whose last unit it is; gives their chips and errors."""
        done: dict[str, list[Any]] = {"chips": [], "error": [], "source": []}
        for pickled, place in zip(batch["job"], batch["place"], strict=True):
            job: Job = pickle.loads(pickled)
            engine = Engine(self._target, self._model)
            failures = engine.run([job], on_error="skip", mine=[int(place)])
            done["chips"].append(engine.chips)
            done["error"].append(failures[0].error if failures else "")
            done["source"].append(job.scene.source)
        return done


def _run_on_ray(store: Store, jobs: Sequence[Job], on_error: OnError, *, progress: bool) -> tuple[int, list[Failure]]:
    """One task a unit; an actor that dies is started again and writes the same rows."""
    ray = import_extra("ray", "ray", "ray[data]", "engine='ray'")
    data = import_extra("ray.data", "ray", "ray[data]", "engine='ray'")
    import torch

    tasks = [
        {"job": pickle.dumps(job), "place": place}
        for job in jobs
        for place in range(len(plan_job(job, store.settings)[1]))
    ]
    files = Folder(store.files.root.absolute()) if isinstance(store.files, Folder) else store.files
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="WARNING")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    data.DataContext.get_current().enable_progress_bars = progress
    cpus = int(ray.cluster_resources().get("CPU", 1))
    gpus = int(ray.cluster_resources().get("GPU", 0))
    most = max(1, gpus or cpus // 2)
    receipts = data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        EmbedUnits,
        batch_size=1,
        batch_format="numpy",
        fn_constructor_kwargs={"target": Target(files, store.settings)},
        compute=data.ActorPoolStrategy(min_size=1, max_size=min(most, len(tasks))),
        num_gpus=1 if gpus and torch.cuda.is_available() else 0,
        num_cpus=1,  # the rest is left to tasks of Ray's own
        max_restarts=-1,
        max_task_retries=3,
    )
    chips, failures = 0, []
    for place, receipt in enumerate(receipts.iter_rows()):
        chips += int(receipt["chips"])
        if receipt["error"]:
            failures.append(Failure(place, receipt["source"], receipt["error"]))
    if failures and on_error == "raise":
        raise SceneError(failures[0].error)
    return chips, failures
