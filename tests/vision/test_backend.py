"""Which backend and precision are taken: the fastest, as it was measured once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from sattxt import SatTxt
from sattxt.errors import WeightsError
from sattxt.vision import backend
from sattxt.vision.backend import Choice

CPU = torch.device("cpu")
measure = backend._measure


@pytest.fixture(autouse=True)
def _measured(monkeypatch, _no_measurement) -> None:
    monkeypatch.setattr(backend, "_measure", measure)


@pytest.fixture
def with_int8(golden_model_dir: Path, tmp_path: Path) -> Path:
    """A model directory that has the files of an int8 form, of which nothing is read."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(golden_model_dir, folder)
    (folder / "openvino").mkdir()
    for suffix in ("xml", "bin", "json"):
        (folder / "openvino" / f"int8.{suffix}").write_text("{}")
    return folder


@pytest.fixture
def rates(monkeypatch):
    """Set how fast each is: ``rates["openvino int8"] = 800``; counts the measurements in ``rates["measured"]``."""
    told = {"torch float32": 300.0, "torch bfloat16": 200.0, "openvino int8": 800.0, "measured": 0}
    current = {}

    def opened(self: Choice, folder, config):
        if told[" ".join(self)] is None:
            raise WeightsError("OpenVINO cannot compile it here")
        current["name"] = " ".join(self)
        return current["name"]

    def seconds(tower, size):
        told["measured"] += 1
        return 1 / told[tower]

    monkeypatch.setattr(Choice, "open", opened)
    monkeypatch.setattr(backend, "_seconds", seconds)
    monkeypatch.setattr(backend, "multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr(backend, "find_spec", lambda name: True)
    monkeypatch.setattr(backend.platform, "machine", lambda: "x86_64")
    return told


def open_tower(folder: Path, **given):
    from sattxt.config import ModelConfig

    config = ModelConfig.read(folder / "config.json")
    return backend.open_tower(folder, config, **{"backend": "auto", "dtype": "auto", "device": CPU, **given})


def test_the_fastest_is_taken_and_measured_once(with_int8, rates) -> None:
    assert open_tower(with_int8) == "openvino int8"
    assert rates["measured"] == 3
    assert open_tower(with_int8) == "openvino int8"
    assert rates["measured"] == 3
    assert open_tower(with_int8, backend="torch") == "torch float32"  # never slower than float32


def test_without_the_form_or_the_package_it_is_torch(golden_model_dir, with_int8, rates, monkeypatch) -> None:
    rates["torch bfloat16"] = 900.0
    assert open_tower(golden_model_dir) == "torch bfloat16"
    monkeypatch.setattr(backend, "find_spec", lambda name: None if name == "openvino" else True)
    assert open_tower(with_int8) == "torch bfloat16"


def test_what_is_stated_is_not_measured(with_int8, rates) -> None:
    assert open_tower(with_int8, dtype="bfloat16") == "torch bfloat16"
    assert open_tower(with_int8, dtype=torch.float32) == "torch float32"
    assert open_tower(with_int8, dtype="int8") == "openvino int8"
    assert rates["measured"] == 0


def test_what_cannot_be_compiled_here_falls_back_with_one_line(with_int8, rates, caplog) -> None:
    rates["openvino int8"] = None
    with caplog.at_level(logging.WARNING):
        assert open_tower(with_int8) == "torch float32"
    assert [record.getMessage() for record in caplog.records] == [
        "OpenVINO cannot compile it here; going on with torch"
    ]
    with pytest.raises(WeightsError, match="cannot compile"):
        open_tower(with_int8, backend="openvino")


def test_a_real_measurement(golden_model_dir) -> None:
    model = SatTxt.from_pretrained(golden_model_dir, text_cache=False)
    choices = backend.list_choices(golden_model_dir, model.config, backend="auto", dtype="auto", device=CPU)
    known = backend.recall_rates(golden_model_dir, model.config, choices)
    if len(choices) > 1:
        assert set(known) == set(choices)
        assert max(known, key=known.__getitem__).precision == model.vision.precision
