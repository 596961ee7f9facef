"""Any function is a teacher; bands of any spelling and size make one stack."""

from __future__ import annotations

import torch
from torch import nn

from sattxt.training.teachers.base import CallableTeacher


def test_any_function_is_a_teacher():
    teacher = CallableTeacher(nn.Conv2d(2, 2, 1), ("red", "nir"), width=2, mean=(1000, 1000), std=(500,))
    nn.init.dirac_(teacher.function.weight)
    nn.init.zeros_(teacher.function.bias)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher.bands == ("B04", "B08")
    values = torch.stack([torch.full((2, 3), 2000.0), torch.full((2, 3), 500.0)])[None]
    seen = teacher.encode(values, ("B08", "B04"))
    assert seen.mean((2, 3)).tolist() == [[-1.0, 2.0]]
    assert teacher.encode(values + 62.5, ("B08", "B04")).mean((2, 3)).tolist() == [[-0.875, 2.125]]
    assert torch.equal(seen[0, 1], torch.full((2, 3), 2.0))
