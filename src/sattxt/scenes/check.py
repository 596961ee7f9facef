"""Is a store whole: which parts are damaged, and which files no item names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sattxt.errors import StoreError
from sattxt.io import first_line
from sattxt.scenes.files import seconds_old
from sattxt.scenes.index import open_index
from sattxt.scenes.parts import read_facts, read_part
from sattxt.scenes.records import ItemRecord, PartRecord, list_failures, write_failure

if TYPE_CHECKING:
    from sattxt.scenes.store import Store

#: Seconds after which a file that no item names is nobody's work in progress.
DAY = 86_400.0


@dataclass(frozen=True)
class CheckReport:
    """What :meth:`Store.check` found.

    items, rows: that are whole. damaged: one line a part or record that is not. failed: scenes that the next ``add``
    tries again. orphans: files that no item names, with those younger than a day. removed: of them, by ``prune``.
    """

    items: int
    rows: int
    damaged: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def check_store(store: Store, *, prune: bool) -> CheckReport:
    """Read every part whole, and compare it with its record; arguments as in :meth:`Store.check`."""
    items, damaged, named = [], [], set()
    for entry in store.files.list("items"):
        if entry.name.endswith(".json") and "/." not in entry.name:
            try:
                items.append(store.read_record(entry))
            except StoreError as error:
                damaged.append(first_line(error))
    whole = 0
    for item in items:
        named |= {part.name for part in item.parts}
        reasons = [reason for part in item.parts if (reason := _damage(store, item, part))]
        if reasons:
            write_failure(store.files, item.id, item.source, reasons[0])
            damaged += reasons
        else:
            whole += 1
    orphans, removed = [], []
    for entry in [*store.files.list("parts"), *store.files.list("items"), *store.files.list("failed")]:
        unfinished = "/." in entry.name and entry.name.endswith(".tmp")
        if unfinished or (entry.name.startswith("parts/") and entry.name not in named):
            orphans.append(entry.name)
            if prune and seconds_old(entry) > DAY:
                store.files.remove(entry.name)
                removed.append(entry.name)
    failed = sorted(list_failures(store.files))
    rows = sum(item.rows for item in items)
    return CheckReport(whole, rows, damaged, failed, orphans, removed)


def _damage(store: Store, item: ItemRecord, part: PartRecord) -> str | None:
    """What is wrong with a part, in one line."""
    try:
        source = store.files.open(part.name)
        facts = read_facts(source)
        read_part(source, verify=True)
    except StoreError as error:
        return first_line(error)
    except FileNotFoundError:
        return f"{store}/{part.name}: is missing; add its scene again"
    if (facts.unit, facts.store, facts.rows) != (part.unit, store.settings.key, part.rows):
        return f"{store}/{part.name}: is another part than item {item.id!r} names; add its scene again"
    return None


def describe_store(store: Store) -> dict[str, Any]:
    """Facts of a store, JSON-ready; see :meth:`Store.info`."""
    items, files = store.items, store.files
    bounds = [item.bounds for item in items if item.bounds]
    extent = [take(side) for take, side in zip((min, min, max, max), zip(*bounds, strict=True), strict=False)]
    index = open_index(store.index_folder)
    return {
        "path": str(store),
        "items": len(items),
        "rows": sum(item.rows for item in items),
        "bytes": sum(files.size(part.name) or 0 for item in items for part in item.parts),
        "bounds": extent or None,
        "start": min((item.start.isoformat() for item in items if item.start), default=None),
        "end": max((item.end.isoformat() for item in items if item.end), default=None),
        "failed": len(list_failures(files)),
        "indexed": 0 if index is None else sum(index.units.values()),
        "settings": asdict(store.settings),
    }
