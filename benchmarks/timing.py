"""Alternating measurements: every case once a round, in turning order, so that a machine that slows down slows all."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

FEWEST_ROUNDS = 2


@dataclass(frozen=True)
class Case:
    """Something to time: a call, and how many items (images, prompts) one call handles."""

    run: Callable[[], object]
    items: int = 1


@dataclass
class Series:
    """Wall and CPU seconds per item, one of each a round. CPU seconds are those of all threads together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Median wall seconds per item."""
        return statistics.median(self.wall)

    @property
    def cpu_seconds(self) -> float:
        """Median CPU seconds per item."""
        return statistics.median(self.cpu)

    @property
    def rate(self) -> float:
        """Items per second."""
        return 1 / self.seconds

    @property
    def spread(self) -> float:
        """Half the range of all rounds, relative to the median."""
        return (max(self.wall) - min(self.wall)) / 2 / self.seconds


def alternate(
    cases: Mapping[str, Case],
    *,
    rounds: int,
    warmups: int = 1,
    min_seconds: float = 0.0,
    budget: float | None = None,
    sync: Callable[[], object] | None = None,
) -> dict[str, Series]:
    """Time every case in every round; odd rounds in the reverse order.

    Args:
        warmups: calls of each case before anything counts.
        rounds: how many there are, where ``budget`` allows; two at least.
        min_seconds: a case that is faster is repeated within a round until its sample is about this long.
        budget: seconds that all of it may take, warm-up included; fewer rounds are made to keep to it.
        sync: waits for a device's queue; called before and after each sample.
    """
    wait = sync or (lambda: None)
    repeats: dict[str, int] = {}
    begun, one_round = time.perf_counter(), 0.0
    for name, case in cases.items():
        took = 0.0
        for _ in range(max(1, warmups)):
            wait()
            start = time.perf_counter()
            case.run()
            wait()
            took = time.perf_counter() - start
        repeats[name] = max(1, min(10_000, round(min_seconds / max(took, 1e-9))))
        one_round += took * repeats[name]
    if budget is not None:
        left = budget - (time.perf_counter() - begun)
        rounds = min(rounds, max(FEWEST_ROUNDS, int(left / max(one_round, 1e-9))))
    series = {name: Series() for name in cases}
    for turn in range(rounds):
        gc.collect()
        for name in list(cases) if turn % 2 == 0 else list(cases)[::-1]:
            sample(cases[name], series[name], repeats=repeats[name], sync=sync)
    return series


def expected_seconds(cases: Mapping[str, Case], rates: Mapping[str, Series]) -> float:
    """What a warm-up and the fewest rounds of ``cases`` will take, from the seconds an item took in earlier series."""
    one_round = sum(case.items * rates[name].seconds for name, case in cases.items() if name in rates)
    return (1 + FEWEST_ROUNDS) * one_round


def sample(case: Case, series: Series, *, repeats: int = 1, sync: Callable[[], object] | None = None) -> None:
    """Run a case ``repeats`` times and add one sample to its series."""
    if sync is not None:
        sync()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        case.run()
    if sync is not None:
        sync()
    series.wall.append((time.perf_counter() - wall) / (repeats * case.items))
    series.cpu.append((time.process_time() - cpu) / (repeats * case.items))


def speedup(base: Series, other: Series) -> float:
    """How many times faster ``other`` is than ``base``: the median of the rounds' ratios."""
    return statistics.median(b / o for b, o in zip(base.wall, other.wall, strict=True))
