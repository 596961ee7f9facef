"""Temperature and multi-label calibration on scores whose truth is known."""

from __future__ import annotations

import pytest
import torch

from sattxt.training.export import Scored, fit_logit_scale, fit_multi_label


def test_calibration_finds_the_temperature_that_made_the_labels() -> None:
    torch.manual_seed(0)
    scores = torch.rand(4000, 5) - 0.5
    truth = torch.multinomial((12 * scores).softmax(1), 1)[:, 0]
    scored = [Scored(scores, torch.zeros(4000, 2), truth)]
    assert fit_logit_scale(scored) == pytest.approx(12, rel=0.15)
    scale, _ = fit_multi_label(scored, 12.0)
    assert scale > 0
