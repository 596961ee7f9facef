"""What a benchmark is told: how much to measure, on what, with which model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

Size = Literal["full", "quick", "tiny"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Settings:
    """Arguments of every benchmark's ``run``.

    size: ``full`` for figures to publish, ``quick`` for a look in minutes, ``tiny`` (small random models, a second or
    two) for the tests. device: ``cpu`` or ``cuda``. model: what ``SatTxt.from_pretrained`` opens as the small model;
    None: sattxt-mini where it is bundled, else a random stand-in of its sizes. threads: torch threads, None: its own
    choice. tiles: how many the folder benchmark writes; None: by size.
    """

    size: Size = "full"
    device: str = "cpu"
    model: str | None = None
    threads: int | None = None
    tiles: int | None = None

    def pick(self, full: Value, quick: Value, tiny: Value) -> Value:
        """The value for this size."""
        return {"full": full, "quick": quick, "tiny": tiny}[self.size]

    @property
    def budget(self) -> float | None:
        """Seconds for the cases that are measured together. Fewer rounds are made to keep to it, two at least."""
        return self.pick(40.0, 20.0, None)

    @property
    def most_seconds(self) -> float:
        """A batch size whose two rounds would take longer than this is left out."""
        return self.pick(300.0, 90.0, 60.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``Settings(**d)`` reads it back."""
        return asdict(self)

    def on(self, device: str) -> Settings:
        """The same on another device."""
        return replace(self, device=device)


@dataclass
class Result:
    """What a benchmark's ``run`` returns.

    tables: title to rows, each a dict of column to number or text. goals: see :meth:`goal`. bars: panels of the
    chart, each ``{"panel": title, "unit": text, "log": bool, "items": [[label, value], ...]}``. notes: what a reader
    must know. seconds: how long measuring took.
    """

    name: str
    device: str
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    goals: list[dict[str, Any]] = field(default_factory=list)
    bars: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def goal(self, what: str, wanted: float, measured: float, *, at_least: bool = True, unit: str = "") -> None:
        """Record a goal and whether the measured figure reaches it (``at_least=False``: stays below it)."""
        met = measured >= wanted if at_least else measured <= wanted
        sign = "≥" if at_least else "≤"
        self.goals.append({"goal": what, "wanted": f"{sign} {wanted:g}{unit}", "measured": measured, "met": bool(met)})

    def panel(self, title: str, unit: str, items: list[tuple[str, float]], *, log: bool = False) -> None:
        """Add a panel of horizontal bars to the chart."""
        self.bars.append({"panel": title, "unit": unit, "log": log, "items": [list(item) for item in items]})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``Result(**d)`` reads it back."""
        return asdict(self)
