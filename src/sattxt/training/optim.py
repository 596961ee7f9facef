"""What both stages share of optimisation: learning-rate schedule, parameter groups, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sattxt.training.ranks import whole


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Factor on the learning rate: linear over ``warmup`` steps, then a cosine to a hundredth at ``steps``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def parameter_groups(modules: Iterable[nn.Module], lr: float, decay: float) -> list[dict[str, Any]]:
    """Two optimiser groups: weight decay for matrices and kernels, none for biases, norms and gains.

    Frozen parameters are left out, and groups that would be empty.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "lr": lr, "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move ``average``'s parameters towards ``model``'s (exponential moving average); buffers are copied.

    Early on the decay is lower, (1 + step) / (10 + step), so that the random start is forgotten. What is frozen is left
    alone.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for target, source in zip(average.parameters(), model.parameters(), strict=True):
        if source.requires_grad:
            target.lerp_(whole(source), 1 - decay)
    for kept, current in zip(average.buffers(), model.buffers(), strict=True):
        if kept is not current:
            kept.copy_(current)


@torch.no_grad()
def measure_norms(module: nn.Module, batches: Iterable[Tensor], run: Callable[[Tensor], Any]) -> int:
    """Replace a module's BatchNorm statistics by means over batches, each counted by its size; leaves it in eval mode.

    Args:
        batches: what ``run`` takes, images first.
        run: a forward pass of the module.

    Returns:
        how many images there were.
    """
    norms = [part for part in module.eval().modules() if isinstance(part, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    seen = 0
    for pixels in batches:
        seen += len(pixels)
        for norm in norms:
            norm.momentum = len(pixels) / seen
        run(pixels)
    module.eval()
    return seen
