"""Fixtures of the tests of the command line: a model that sees only the brightness of a tile, and two tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_fakes import BrightnessModel
from PIL import Image

from sattxt import SatTxt


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> BrightnessModel:
    opened = BrightnessModel()

    def open_model(name: str, **options: Any) -> BrightnessModel:
        opened.opened_with = {"name": name, **options}
        return opened

    monkeypatch.setattr(SatTxt, "from_pretrained", open_model)
    return opened


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    folder = tmp_path / "tiles"
    (folder / "deep").mkdir(parents=True)
    Image.new("RGB", (8, 8), (10, 10, 10)).save(folder / "night.png")
    Image.new("RGB", (8, 8), (250, 250, 250)).save(folder / "deep" / "día.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder
