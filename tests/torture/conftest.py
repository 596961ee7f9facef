"""Every torture test is slow, runs in processes of its own, and leaves a row in the table of docs/reliability.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

_ROWS: list[tuple[str, str, str]] = []
_START, _END = "<!-- torture -->", "<!-- /torture -->"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def record() -> Callable[[str, str, str], None]:
    """Adds a row: what was done, how often, what came of it."""
    return lambda what, times, outcome: _ROWS.append((what, times, outcome))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _ROWS:
        return
    lines = ["| what | how often | what came of it |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in _ROWS)]
    terminalreporter.write_line("\n".join(lines))
    page = Path(os.environ.get("SATTXT_TORTURE_PAGE", ""))
    failed = terminalreporter.stats.get("failed") or terminalreporter.stats.get("error")
    if page.is_file() and not failed:
        before, _, rest = page.read_text(encoding="utf-8").partition(_START)
        after = rest.partition(_END)[2]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        where = f"Measured on {date.today().isoformat()} on {cores} cores ({_cpu()})."
        page.write_text(f"{before}{_START}\n{where}\n\n" + "\n".join(lines) + f"\n{_END}{after}", encoding="utf-8")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return ", ".join([name, *(flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if flag in flags)])
