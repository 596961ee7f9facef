"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own cache."""
    monkeypatch.setenv("SATTXT_CACHE", str(tmp_path / "sattxt-cache"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real tiles that SATTXT_DATA names; without one the test is skipped (never in CI)."""
    named = os.environ.get("SATTXT_DATA")
    if not named:
        pytest.skip("SATTXT_DATA names no folder of real tiles")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"SATTXT_DATA={named} is not a folder")
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Outputs of the original code on miniature checkpoints."""
    return GOLDEN
