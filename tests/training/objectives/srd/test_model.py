"""The published loss of stage 1, its centre, and the regression of patch tokens."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.errors import InputError
from sattxt.training.objectives.srd.model import SRDConfig, patch_regression, srd_loss, teacher_distribution


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss_of(student: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
    return srd_loss(student, teacher_distribution(teacher, centre, 0.04), 0.1)


def test_srd_loss_is_the_mean_cross_entropy_over_all_pairs_of_views():
    student, teacher, centre = normal(3, 4, 5), normal(2, 4, 5, seed=1) / 10, normal(5, seed=2) / 10
    pairs = [
        -(F.softmax((teacher[u, n] - centre) / 0.04, 0) * F.log_softmax(student[v, n] / 0.1, 0)).sum()
        for v, u, n in itertools.product(range(3), range(2), range(4))
    ]
    torch.testing.assert_close(loss_of(student, teacher, centre), torch.stack(pairs).mean())


def test_a_student_that_says_nothing_pays_the_logarithm_of_the_width():
    loss = loss_of(torch.full((1, 2, 8), 3.0), normal(2, 2, 8), torch.zeros(8))
    assert float(loss) == pytest.approx(math.log(8), abs=1e-6)


def test_a_teacher_at_its_centre_asks_for_the_uniform_distribution():
    centre = normal(2)
    student = torch.tensor([[[0.1 * math.log(3.0), 0.0]]])  # p = (3/4, 1/4)
    loss = loss_of(student, centre.expand(1, 1, 2), centre)
    assert float(loss) == pytest.approx(-0.5 * (math.log(0.75) + math.log(0.25)), abs=1e-6)


def test_no_gradient_reaches_teacher_or_centre_and_the_students_is_p_minus_q():
    student, teacher, centre = (
        t.requires_grad_() for t in (normal(1, 2, 6), normal(1, 2, 6, seed=1), normal(6, seed=2))
    )
    loss_of(student, teacher, centre).backward()
    assert teacher.grad is None
    assert centre.grad is None
    expected = (F.softmax(student / 0.1, -1) - F.softmax((teacher - centre) / 0.04, -1)) / (0.1 * 2)
    torch.testing.assert_close(student.grad, expected.detach())


@pytest.mark.parametrize("tau_t", [0.0, 0.1, 0.2, -1.0])
def test_the_teacher_must_be_the_sharper_one(tau_t):
    said = f"teacher_temperature={tau_t}, student_temperature=0.1: pass 0 < teacher_temperature < student_temperature"
    with pytest.raises(InputError, match=re.escape(said)):
        SRDConfig(steps=1, teacher_temperature=tau_t)


def uncentred(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return patch_regression(student, teacher, torch.zeros(student.shape[1]))


def test_patch_regression_is_zero_for_the_layer_normalised_teacher_only():
    teacher = (3 + 5 * normal(2, 16, 4, 4)).requires_grad_()
    target = F.layer_norm(teacher.detach().permute(0, 2, 3, 1), (16,)).permute(0, 3, 1, 2)
    student = target.clone().requires_grad_()
    assert float(uncentred(student, teacher).mean().detach()) == pytest.approx(0, abs=1e-6)
    wrong = uncentred(student.flip(-1), teacher).mean()
    wrong.backward()
    assert wrong > 0.3
    assert teacher.grad is None


def test_patch_regression_by_hand():
    teacher = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)  # layer-normalised: itself
    cases = (((3.0, -3.0), 0.0), ((2.0, 2.0), 1.0), ((-1.0, 1.0), 2.0), ((1.0, 0.0), 1 - math.sqrt(0.5)))
    for student, wanted in cases:
        loss = uncentred(torch.tensor(student).view(1, 2, 1, 1), teacher)
        assert float(loss) == pytest.approx(wanted, abs=1e-5)


def test_a_centred_target_is_what_is_left_of_the_mean_token():
    teacher = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)  # layer-normalised: itself
    centre = torch.tensor([1.0, 0.0])
    left = torch.tensor([0.0, -3.0]).view(1, 2, 1, 1)
    assert float(patch_regression(left, teacher, centre)) == pytest.approx(0, abs=1e-4)
    assert float(uncentred(left, teacher)) == pytest.approx(1 - 1 / math.sqrt(2), abs=1e-4)


@pytest.mark.parametrize(("student", "teacher"), [(6, 3), (3, 6), (4, 6)])
def test_patch_grids_are_resampled_to_the_coarser(student, teacher):
    constant = torch.tensor([1.0, -1.0, 2.0]).view(1, 3, 1, 1)
    loss = uncentred(2 * constant.expand(1, 3, student, student), constant.expand(1, 3, teacher, teacher))
    assert float(loss) == pytest.approx(float(uncentred(2 * constant, constant)), abs=1e-5)
