"""Temperature and multi-label calibration on a validation split, never on training tiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.errors import InputError


@dataclass(frozen=True)
class Scored:
    """One labelled set's cosine similarities: (N, K) with its labels, (N, B) with the backgrounds, (N,) true labels."""

    labels: Tensor
    backgrounds: Tensor
    truth: Tensor


def fit_logit_scale(sets: list[Scored]) -> float:
    """The 1 / temperature in [1, 200] that minimises the mean negative log-likelihood, each set counting the same."""
    if not sets:
        raise InputError("calibration needs at least one labelled set")

    def loss(scale: float) -> float:
        return float(torch.stack([F.cross_entropy(scale * s.labels, s.truth) for s in sets]).mean())

    grid: list[float] = torch.logspace(0, 2.301, 240).tolist()
    best: float = min(grid, key=loss)
    return round(best, 2)


def fit_multi_label(sets: list[Scored], logit_scale: float) -> tuple[float, float]:
    """Platt scaling (Platt 1999) of each label's margin over the backgrounds: (scale, bias).

    Positives and negatives weigh the same, so a probability of 0.5 is where the two are equally likely for a label
    that is as often present as absent.
    """
    margins, truths, weights = [], [], []
    for s in sets:
        level = torch.logsumexp(logit_scale * s.backgrounds, dim=1, keepdim=True) - torch.log(
            torch.tensor(float(s.backgrounds.shape[1]))
        )
        margin = logit_scale * s.labels - level
        truth = F.one_hot(s.truth, margin.shape[1]).float()
        weight = torch.where(truth > 0, 0.5 / truth.sum(), 0.5 / (1 - truth).sum())
        margins.append(margin.flatten())
        truths.append(truth.flatten())
        weights.append(weight.flatten() / len(sets))
    margin, truth, weight = torch.cat(margins), torch.cat(truths), torch.cat(weights)
    parameters = torch.tensor([1.0, 0.0], requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = parameters[0] * margin + parameters[1]
        loss = F.binary_cross_entropy_with_logits(logits, truth, weight=weight, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return round(float(parameters[0].detach()), 4), round(float(parameters[1].detach()), 4)
