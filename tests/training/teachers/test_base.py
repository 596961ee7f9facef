"""Any function is a teacher; bands of any spelling and size make one stack."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from sattxt.errors import InputError
from sattxt.training.teachers.base import CallableTeacher


def reflectance(bands: int, size: int = 16, count: int = 2) -> Tensor:
    return 3000 * torch.rand(count, bands, size, size, generator=torch.Generator().manual_seed(1))


def test_any_function_is_a_teacher():
    teacher = CallableTeacher(nn.Conv2d(2, 2, 1), ("red", "nir"), width=2, mean=(1000, 1000), std=(500,))
    nn.init.dirac_(teacher.function.weight)
    nn.init.zeros_(teacher.function.bias)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher.bands == ("B04", "B08")
    values = torch.stack([torch.full((2, 3), 2000.0), torch.full((2, 3), 500.0)])[None]
    seen = teacher.encode(values, ("B08", "B04"))
    assert seen.mean((2, 3)).tolist() == [[-1.0, 2.0]]
    assert torch.equal(seen[0, 1], torch.full((2, 3), 2.0))


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 4), (1, 4, 3, 3), (2, 5, 4, 4), (2,)])
def test_a_function_that_returns_another_shape_is_named(shape):
    teacher = CallableTeacher(lambda _: torch.zeros(shape), ("B04",), width=4, name="mine")
    with pytest.raises(InputError, match=r"mine: returned .* for 2 tiles; return \(N, 4, rows, cols\)"):
        teacher.encode(reflectance(1), ("B04",))


@pytest.mark.parametrize(
    ("values", "names", "said"),
    [
        (torch.zeros(1, 2, 4, 4), (), "there are 0 names"),
        (torch.zeros(1, 2, 4, 4), ("B02",), "there are 1 names"),
        (torch.zeros(2, 4, 4), ("B02", "B03"), "pass (N, bands, height, width)"),
        (torch.zeros(1, 2, 4, 4), ("B2", "blue"), "a band is given twice among B2, blue"),
        (torch.full((1, 1, 4, 4), float("nan")), ("B02",), "band B02 holds NaN"),
        (torch.zeros(1, 1, 4, 4), ("B03",), "callable needs the bands B02"),
    ],
)
def test_bands_that_cannot_be_used_are_refused(values, names, said):
    with pytest.raises(InputError, match=re.escape(said)):
        CallableTeacher(nn.Identity(), ("B02",), 1).encode(values, names)
