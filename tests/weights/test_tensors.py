"""Checkpoint files, read without running any code, and the check that tensors fit a model."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from release_files import VISION_HEAD
from safetensors.torch import save_file

from sattxt.errors import UnsafePickleError, WeightsError
from sattxt.weights.tensors import check_tensors, read_checkpoint, read_folder, require_tensor


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    trap = tmp_path / "trap"
    path = tmp_path / "bad.pth"
    torch.save({"w": torch.zeros(2), "x": Bomb(trap)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsafePickleError, match=r"bad.pth.*mkdir.*refused") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not trap.exists()


def test_a_plain_pickle_with_code(tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "trap"), protocol=2))
    with pytest.raises(UnsafePickleError):
        read_checkpoint(path)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("keep", [0, 100, 5_000])
def test_truncated(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(VISION_HEAD.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"cut.pt"):
        read_checkpoint(path)


def test_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "page.pth"
    path.write_text("<html>404</html>")
    with pytest.raises(WeightsError, match=r"page.pth: not a checkpoint"):
        read_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="holds list"):
        read_checkpoint(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(WeightsError, match="holds no tensors; its keys are epoch"):
        read_checkpoint(path)


def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path) -> None:
    inner = {"module.backbone.cls_token": torch.ones(1), "module.dino_head.w": torch.zeros(1)}
    torch.save({"teacher": inner, "epoch": 3}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth") == {"cls_token": torch.ones(1)}
    save_file({"module.x": torch.ones(2)}, tmp_path / "w.safetensors")
    assert list(read_checkpoint(tmp_path / "w.safetensors")) == ["x"]


def test_the_shards_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no \.safetensors file"):
        read_folder(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "1.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "2.safetensors")
    assert sorted(read_folder(tmp_path)) == ["a", "b"]
    save_file({"a": torch.ones(1)}, tmp_path / "3.safetensors")
    with pytest.raises(WeightsError, match=r"3.safetensors: tensor 'a' is also in another file"):
        read_folder(tmp_path)


def test_tensors_that_do_not_fit_are_named() -> None:
    good = {"w": torch.ones(2, 3), "n": torch.tensor(4)}
    shapes = {"w": (2, 3), "n": ()}
    check_tensors(good, shapes, "f")
    check_tensors({"w": good["w"]}, shapes, "f", partial=True)
    for state, message in (
        ({"w": good["w"]}, "f: tensor 'n' is missing; the model needs one of shape"),
        ({**good, "x": torch.ones(1)}, r"f: tensor 'x' of shape \(1,\) has no place in the model \(1 such\)"),
        ({**good, "w": torch.ones(3, 2)}, r"f: tensor 'w' has shape \(3, 2\), the model needs \(2, 3\)"),
        ({**good, "w": torch.full((2, 3), torch.inf)}, r"f: tensor 'w' of shape \(2, 3\) holds NaN or infinite"),
    ):
        with pytest.raises(WeightsError, match=message):
            check_tensors(state, shapes, "f")


def test_a_tensor_from_which_a_size_is_read() -> None:
    state = {"w": torch.ones(2, 3)}
    assert require_tensor(state, "w", 2, "f: no head") is state["w"]
    with pytest.raises(WeightsError, match="f: no head: tensor 'v' of 1 dimensions is needed, it is missing"):
        require_tensor(state, "v", 1, "f: no head")
    with pytest.raises(WeightsError, match=r"tensor 'w' of 1 dimensions is needed, it is of shape \(2, 3\)"):
        require_tensor(state, "w", 1, "f: no head")
