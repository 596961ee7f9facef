"""With SATTXT_NO_SKIPS set (continuous integration), a test on real tiles that skips is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if os.environ.get("SATTXT_NO_SKIPS") and report.skipped and item.get_closest_marker("tiles") is not None:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: SATTXT_NO_SKIPS forbids it ({report.longrepr})"
    return report
