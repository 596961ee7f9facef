"""From scenes to committed parts: what there is to do, and the local engine that does it.

A unit is a scene, or a part of a large one. Its rows depend on the store's settings and the scene alone: batches never
cross a unit, and chips keep their order. A unit is written whole and then named; an item's record, written once all its
units are there, is what readers see. So a run that is killed anywhere loses at most one unit, and two on one store do
no harm.
"""

from __future__ import annotations

import hashlib
import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import DiskFullError, InputError, SatTxtError, SceneError, StoreError
from sattxt.images.load import Failure
from sattxt.io import first_line
from sattxt.scenes.address import hide_credentials
from sattxt.scenes.batches import read_ahead
from sattxt.scenes.find import find_products
from sattxt.scenes.grids import Chips, plan_chips
from sattxt.scenes.open import SceneReading, make_scene
from sattxt.scenes.parts import build_table, read_facts, write_part
from sattxt.scenes.products import Product
from sattxt.scenes.raster import Scene
from sattxt.scenes.records import (
    ItemRecord,
    PartRecord,
    emb_fields,
    file_name,
    list_failures,
    write_failure,
    write_item,
)
from sattxt.vision.embeddings import FloatArray

if TYPE_CHECKING:
    from sattxt.model import SatTxt
    from sattxt.scenes.files import Files
    from sattxt.scenes.settings import StoreSettings

OnError = Literal["raise", "skip"]
#: Chips of a unit at most.
UNIT = 32_768
#: Scenes may differ from the store's metres a pixel by this share.
_GSD_SLACK = 0.2


@dataclass(frozen=True)
class Job:
    """A scene that is to be committed. redo: what is there of it is not trusted."""

    scene: Scene
    signature: str
    redo: bool = False

    @property
    def folder(self) -> str:
        """Of its parts."""
        return f"parts/{file_name(self.scene.id)}"


@dataclass(frozen=True)
class Plan:
    """What a call is to do. done: scenes that the store has already, unchanged."""

    jobs: list[Job]
    done: int
    failures: list[Failure]


@dataclass(frozen=True)
class Target:
    """Where rows go, and what they depend on."""

    files: Files
    settings: StoreSettings


def make_plan(
    target: Target,
    items: Sequence[ItemRecord],
    sources: Any,
    reading: SceneReading,
    *,
    on_error: OnError,
    shard: tuple[int, int] = (0, 1),
) -> Plan:
    """Open what ``sources`` name and leave out what the store has unchanged.

    Args:
        shard: (i, n): of the scenes only those whose id falls to the i-th of n, counted from 0.

    Raises:
        InputError: two sources of one item. SceneError: a source cannot be opened (``on_error="raise"``).
    """
    known, failed = {item.id: item for item in items}, list_failures(target.files)
    scenes, failures = _open(target, sources, reading, on_error)
    jobs, done, seen = [], 0, dict[str, str]()
    for scene in scenes:
        if seen.setdefault(scene.id, scene.source) != scene.source:
            raise InputError(_two_sources(scene.id, seen[scene.id], scene.source))
        if int(_hash(scene.id), 16) % shard[1] != shard[0]:
            continue
        signature, record, redo = _signature(scene), known.get(scene.id), file_name(scene.id) in failed
        if record is not None and record.signature != signature and record.source != scene.source:
            raise InputError(_two_sources(scene.id, record.source, scene.source))
        there = record is not None and all(target.files.size(part.name) is not None for part in record.parts)
        if record is not None and record.signature == signature and there and not redo:
            done += 1
        else:
            jobs.append(Job(scene, signature, redo))
    return Plan(jobs, done, failures)


def _open(target: Target, sources: Any, reading: SceneReading, on_error: OnError) -> tuple[list[Scene], list[Failure]]:
    """The scenes that can be opened, and those that cannot, which are remembered."""
    listed = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    scenes: list[Scene] = []
    failures: list[Failure] = []
    products: list[Product] = []

    def failed(item: str, source: str, error: SceneError) -> None:
        write_failure(target.files, item, source, first_line(error))
        if on_error == "raise":
            raise error
        failures.append(Failure(len(failures), source, first_line(error)))

    for source in listed:
        try:
            products += find_products(source)
        except SceneError as error:
            failed(Path(str(source)).stem, str(source), error)
    if not products and not failures:
        raise InputError("no scenes: pass files, folders, globs or STAC items")
    reading.check_one(len(products))
    for product in products:
        try:
            scenes.append(make_scene(product, reading))
        except SceneError as error:
            failed(reading.item_id or product.id, hide_credentials(product.source), error)
    return scenes, failures


def _gsd(scene: Scene) -> float | None:
    return None if math.isnan(scene.gsd) else scene.gsd


def _two_sources(item: str, one: str, other: str) -> str:
    return f"{one} and {other} are both item {item!r}; pass item_id= for one of them"


def _signature(scene: Scene) -> str:
    """Of a scene's files and of how they are read."""
    crs = None if scene.crs is None else scene.crs.to_wkt()
    place = (crs, tuple(scene.transform), scene.width, scene.height)
    return _hash((scene.signature, place, scene.bands, scene.offset, scene.clouds and scene.clouds.values))


def _hash(facts: Any) -> str:
    return hashlib.sha256(repr(facts).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def plan_job(job: Job, settings: StoreSettings) -> tuple[Chips, list[tuple[str, slice]]]:
    """A scene's chips, and its units: the key of each, and which chips are its.

    Raises:
        SceneError: the scene does not fit the store's settings.
    """
    scene = job.scene
    if settings.gsd is not None and abs(scene.gsd / settings.gsd - 1) > _GSD_SLACK:
        raise SceneError(
            f"{scene.source}: has {scene.gsd:.3g} m a pixel, the store is for {settings.gsd:.3g} m; make another store "
            "with gsd= for it"
        )
    chips = plan_chips(scene, settings.grid, settings.chip, settings.stride, grid_km=settings.grid_km)
    units = []
    for start in range(0, max(1, len(chips)), UNIT):
        stop = min(start + UNIT, len(chips))
        units.append((_hash((settings.key, scene.id, job.signature, start, stop)), slice(start, stop)))
    return chips, units


def count_roughly(job: Job, settings: StoreSettings) -> int:
    """About how many chips a scene has, without planning them."""
    across, down = (max(0, side - settings.chip) // settings.stride + 1 for side in (job.scene.width, job.scene.height))
    return across * down


class Engine:
    """Embeds scenes one after the other: a thread reads ahead while the model computes.

    Args:
        bar: a ``tqdm`` bar over chips, whose total is what :func:`count_roughly` says of the scenes.

    Attributes:
        rows, chips: written, and looked at for it.
    """

    def __init__(self, target: Target, model: SatTxt, bar: Any = None) -> None:
        self._target = target
        self._model = model
        # Two threads of torch on a CPU would wait for one another; else the reader resizes too.
        alone = model.backend == "torch" and model.device.type == "cpu"
        self._prepare = (lambda rgb: rgb) if alone else model.vision.preprocess
        self._bar = bar
        self.rows = 0
        self.chips = 0

    def run(self, jobs: Sequence[Job], *, on_error: OnError, mine: Sequence[int] | None = None) -> list[Failure]:
        """Commit scenes; returns those that could not be read (``on_error="skip"``), which are remembered too.

        Ctrl-C ends it after the batch; what was committed stays.

        Args:
            mine: the places of the units to write of each scene; by default all.

        Raises:
            SceneError, InputError: a scene cannot be read (``on_error="raise"``). DiskFullError: no space is left.
        """
        failures = []
        with _interruptible() as interrupted:
            for place, job in enumerate(jobs):
                try:
                    self._commit(job, mine, interrupted)
                except DiskFullError:
                    raise
                except SatTxtError as error:
                    write_failure(self._target.files, job.scene.id, job.scene.source, first_line(error))
                    if on_error == "raise":
                        raise
                    failures.append(Failure(place, job.scene.source, first_line(error)))
                if interrupted.is_set():
                    raise KeyboardInterrupt
        return failures

    def _commit(self, job: Job, mine: Sequence[int] | None, interrupted: threading.Event) -> None:
        """Write a scene's units that are not there, then, if all are, its record."""
        files, settings = self._target.files, self._target.settings
        chips, units = plan_job(job, settings)
        if self._bar is not None:
            self._bar.total += len(chips) - count_roughly(job, settings)
        for place, (key, chosen) in enumerate(units):
            name = f"{job.folder}/{key}.parquet"
            if (mine is None or place in mine) and (job.redo or not _is_sound(files, name, key)):
                content = self._embed(job, chips[chosen], key, interrupted)
                if job.redo:
                    files.remove(name)
                files.write(name, content, read_facts, new=True)
            elif mine is None or place in mine:
                files.keep(name)
                self._progress(chosen.stop - chosen.start)
        self._record(job, chips, [(key, f"{job.folder}/{key}.parquet") for key, _ in units])

    def _progress(self, chips: int) -> None:
        if self._bar is not None:
            self._bar.update(chips)

    def _record(self, job: Job, chips: Chips, units: Sequence[tuple[str, str]]) -> None:
        files, scene = self._target.files, job.scene
        parts, boxes = [], []
        for key, name in units:
            if files.size(name) is None:
                return  # another worker's, which writes the record
            facts = read_facts(files.open(name))
            parts.append(PartRecord(key, name, facts.rows))
            boxes += [facts.bounds] if facts.bounds else []
        bounds = None
        if boxes:
            west, south, east, north = zip(*boxes, strict=True)
            bounds = (min(west), min(south), max(east), max(north))
        start, end = scene.start or scene.end, scene.end or scene.start
        record = ItemRecord(scene.id, scene.source, job.signature, start, end, bounds, tuple(parts))
        content = write_item(record, self._target.settings, chips.corners, _gsd(scene))
        files.write(f"items/{file_name(scene.id)}.json", content)
        if job.redo:
            files.remove(f"failed/{file_name(scene.id)}.json")

    def _embed(self, job: Job, chips: Chips, key: str, interrupted: threading.Event) -> bytes:
        """A unit's part."""
        settings, scene = self._target.settings, job.scene
        kept: list[NDArray[np.int64]] = []
        shares: list[tuple[FloatArray, FloatArray | None]] = []
        vectors: list[FloatArray] = [np.zeros((0, settings.dimensions), np.float32)]
        with closing(read_ahead(scene, chips, settings, self._prepare)) as batches:
            for indices, pixels, valid, cloud in batches:
                vectors.append(encode(self._model, pixels))
                kept.append(indices)
                shares.append((valid, cloud))
                self._progress(len(indices))
                if interrupted.is_set():
                    raise KeyboardInterrupt
        self._progress(len(chips) - sum(map(len, kept)))  # too cloudy, or without data
        rows = np.concatenate(kept) if kept else np.zeros(0, np.int64)
        order = np.argsort(rows)
        rows, embeddings = rows[order], np.concatenate(vectors)[order]
        clouds = [cloud for _, cloud in shares if cloud is not None]
        gsd = _gsd(scene)
        table = build_table(
            item_id=scene.id,
            source=scene.source,
            start=scene.start or scene.end,
            end=scene.end or scene.start,
            crs=None if scene.crs is None else crs_name(scene.crs),
            gsd=gsd,
            cells=[chips.cell[row] for row in rows],
            pixel_bbox=chips.pixel_bbox[rows],
            corners=chips.corners[rows],
            hilbert=chips.hilbert[rows],
            valid=np.concatenate([valid for valid, _ in shares])[order] if shares else np.zeros(0, np.float32),
            cloud=np.concatenate(clouds)[order] if clouds else None,
        )
        self.rows += len(rows)
        self.chips += len(chips)
        links = [{"rel": "emb:model", "href": "../../model.json"}, {"rel": "emb:source-data", "href": scene.source}]
        emb = {**emb_fields(settings), **({} if gsd is None else {"gsd": gsd}), "links": links}
        return write_part(table, embeddings, stored=settings.stored, unit=key, store=settings.key, emb=emb)


def encode(model: SatTxt, pixels: Any) -> FloatArray:
    """(n, H, W, 3) uint8 chips, or their pixel values, to (n, D) float32 embeddings of length 1."""
    import torch
    import torch.nn.functional as F

    with torch.inference_mode():
        ready = pixels if torch.is_tensor(pixels) else model.vision.preprocess(pixels)
        return F.normalize(model.vision.encode_pixels(ready), dim=-1).cpu().numpy()


def crs_name(crs: Any) -> str:
    """``EPSG:32633``, or WKT where it has no code."""
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.to_wkt())


def _is_sound(files: Files, name: str, key: str) -> bool:
    """Whether a part is there, whole, and of this unit: from a run that was stopped before its item's record."""
    if files.size(name) is None:
        return False
    try:
        return read_facts(files.open(name)).unit == key
    except StoreError:
        files.remove(name)
        return False


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one ends the process at once. In the main thread only."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(*_: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
