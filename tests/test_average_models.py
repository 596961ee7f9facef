"""Averaged weights are between the two models', and models that do not fit are refused."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from sattxt import SatTxt
from sattxt.weights.checksums import write_sums

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ROOT / "src" / "sattxt" / "weights" / "bundled" / "sattxt-mini"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("average_models", ROOT / "scripts" / "average_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_average_lies_where_the_share_says(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([0.0, 2.0]), "n": torch.tensor(3)}, tmp_path / "a")
    save_file({"w": torch.tensor([4.0, 2.0]), "n": torch.tensor(9)}, tmp_path / "b")
    found = script().average(tmp_path / "a", tmp_path / "b", 0.25)
    assert found["w"].tolist() == [1.0, 2.0]
    assert int(found["n"]) == 9


def test_models_of_other_shapes_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "a")
    save_file({"w": torch.zeros(3)}, tmp_path / "b")
    with pytest.raises(SystemExit, match="one architecture"):
        script().average(tmp_path / "a", tmp_path / "b", 0.5)


def test_text_heads_take_a_share_of_their_own(tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "model"
    shutil.copytree(BUNDLED, other)
    for name in ("vision.safetensors", "text_head.safetensors"):
        save_file({k: v + 1 if v.is_floating_point() else v for k, v in load_file(other / name).items()}, other / name)
    write_sums(other)
    script().main([str(BUNDLED), str(other), "--share", "1", "--text-share", "0.25", "--out", str(out)])
    before, after = (load_file(folder / "text_head.safetensors")["proj.weight"] for folder in (BUNDLED, out))
    torch.testing.assert_close(after.float() - before.float(), torch.full(after.shape, 0.25), atol=2e-3, rtol=0)
    image_side = load_file(other / "vision.safetensors")
    assert all(torch.equal(v, image_side[k]) for k, v in load_file(out / "vision.safetensors").items())


@pytest.mark.parametrize("option", ["--share", "--text-share"])
def test_a_share_that_is_none_is_refused(tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script().main([str(BUNDLED), str(BUNDLED), option, "1.5", "--out", str(tmp_path / "model")])
    assert f"{option} 1.5: pass 0 to 1" in capsys.readouterr().err


def test_what_is_written_is_a_model(tmp_path: Path) -> None:
    out = tmp_path / "model"
    script().main([str(BUNDLED), str(BUNDLED), "--out", str(out)])
    assert SatTxt.from_pretrained(out).encode_text("a river").shape == (640,)
    with pytest.raises(SystemExit):
        script().main([str(BUNDLED), str(BUNDLED), "--out", str(out)])


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nowhere.*pass two model directories"):
        script().main([str(tmp_path / "nowhere"), str(BUNDLED), "--out", str(tmp_path / "model")])
    assert not (tmp_path / "model").exists()
