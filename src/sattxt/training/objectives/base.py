"""What a stage of training is, apart from the loop that drives it: which batch a step draws, and the losses on it.

Every batch is a pure function of (seed, step, micro-batch, rank, number of ranks). A run that was killed goes on with
the batches it would have drawn, and several ranks draw the batches that one process would draw in turn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sattxt.errors import InputError
from sattxt.training.augment import AugmentConfig
from sattxt.training.ranks import Precision
from sattxt.training.schema import Config, Count, Decay, NotNegative, Positive, Whole
from sattxt.training.tiles import Tiles, take_in_turn


def generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on ``key`` alone, e.g. (seed, step, rank). Similar keys give unrelated streams."""
    words = np.random.SeedSequence([part & 0xFFFF_FFFF_FFFF_FFFF for part in key])
    return torch.Generator().manual_seed(int(words.generate_state(1, np.uint64)[0]))


class StepConfig(Config):
    """Settings that every stage has."""

    steps: Whole  # optimiser steps
    accumulate: Count = 1  # micro-batches a step; their losses are averaged, captions contrasted within one
    weight_decay: NotNegative = 0.05
    warmup: Whole = 100  # steps over which the learning rates rise
    clip_norm: Positive = 3.0  # largest norm of the gradient
    ema: Decay = 0.998  # decay of the moving average of the weights, which is exported
    precision: Precision = "auto"  # of the student's forward pass
    seed: int = 0
    augment: AugmentConfig = AugmentConfig()


@dataclass
class Batch:
    """A micro-batch of one rank. parts: for each data set, the (n,) indices of its tiles."""

    step: int
    parts: list[Tensor]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def to(self, device: torch.device | str) -> Batch:
        """The same with every tensor on ``device``."""

        def move(value: Any) -> Any:
            if isinstance(value, list):
                return [move(item) for item in value]
            return value.to(device) if isinstance(value, Tensor) else value

        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})


class StepLosses(NamedTuple):
    """total: scalar that is minimised. terms: scalars by name, for the log. statistics: means that the model keeps,
    each (width,), over this micro-batch and without gradient; see :meth:`Objective.after_step`.
    """

    total: Tensor
    terms: dict[str, Tensor]
    statistics: dict[str, Tensor]


class Objective(ABC):
    """A stage: batches and losses.

    Args:
        config: settings; ``accumulate`` cuts ``counts`` into that many micro-batches.
        sets: the training tiles.
        counts: tiles of each set in a step of a rank.
        normalise: from (N, 3, H, W) floats in [0, 1] to pixel values.
        context: what else of a recipe a checkpoint must agree with, see :meth:`identity`; none without a recipe.

    Raises:
        InputError: counts, data sets and ``accumulate`` do not fit together.
    """

    stage: str
    config: StepConfig

    def __init__(
        self,
        config: StepConfig,
        sets: Sequence[Tiles],
        counts: Sequence[int],
        normalise: Callable[[Tensor], Tensor],
        context: Mapping[str, Any] | None = None,
    ) -> None:
        for tiles, count in zip(sets, counts, strict=True):
            if count > len(tiles):
                raise InputError(
                    f"data set {tiles.name!r}: count {count} of its {len(tiles)} tiles, so that a step would hold some "
                    f"twice; pass at most {len(tiles)}"
                )
        if min(counts, default=1) < config.accumulate:
            raise InputError(
                f"accumulate={config.accumulate} cuts each set's count ({min(counts)} at the least) into "
                "micro-batches; pass no more than that"
            )
        self.config, self.sets, self.counts, self.normalise = config, sets, list(counts), normalise
        self.context = dict(context or {})

    @abstractmethod
    def draw(self, step: int, micro: int = 0, rank: int = 0, ranks: int = 1) -> Batch:
        """Micro-batch ``micro`` of step ``step`` (both from 0) on rank ``rank`` of ``ranks``."""

    @abstractmethod
    def losses(self, model: Any, batch: Any) -> StepLosses:
        """The losses on ``batch``, which is on the model's device. A contrast over all ranks' tiles gathers them."""

    @abstractmethod
    def rates(self, model: Any) -> list[tuple[nn.Module, float | None]]:
        """The parts of ``model`` that hold weights, each with its learning rate; ``None``: it never changes."""

    def frozen(self, model: Any) -> list[nn.Module]:
        """The modules of ``model`` that never change, norms included."""
        return [module for module, rate in self.rates(model) if rate is None]

    def in_eval_mode(self, model: Any) -> list[nn.Module]:
        """The modules of ``model`` that are in eval mode while the others train: what is frozen, and perhaps norms."""
        return self.frozen(model)

    def groups(self, model: Any) -> list[dict[str, Any]]:
        """The optimiser's parameter groups: weight decay for matrices and kernels, none for biases, norms and gains."""
        groups = []
        for module, rate in self.rates(model):
            trained = [p for p in module.parameters() if p.requires_grad and rate is not None]
            groups += [
                {"params": [p for p in trained if p.ndim >= 2], "lr": rate, "weight_decay": self.config.weight_decay},
                {"params": [p for p in trained if p.ndim < 2], "lr": rate, "weight_decay": 0.0},
            ]
        return [group for group in groups if group["params"]]

    def prepare(self, model: Any, out: Path, device: torch.device) -> None:  # noqa: B027
        """What there is to compute before the first batch is drawn.

        Args:
            model: about to be trained, on ``device``.
            out: the run's folder, for what later processes and resumed runs need not compute again.
        """

    def after_step(self, model: Any, statistics: dict[str, Tensor]) -> None:  # noqa: B027
        """Called after each optimiser step with the statistics' means over micro-batches and ranks."""

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be resumed; ``steps`` alone may differ."""
        data = {"counts": self.counts, "tiles": {s.name: len(s) for s in self.sets}}
        return {"stage": self.stage, **self.config.model_dump(exclude={"steps"}), **data, **self.context}

    def pixels(self, images: Tensor) -> Tensor:
        """Pixel values of (N, 3, H, W) floats in [0, 1], channels last."""
        return self.normalise(images).contiguous(memory_format=torch.channels_last)

    def sample(self, turn: int) -> list[Tensor]:
        """Each data set's tile indices of a rank's whole step, the ``turn``-th of all ranks' steps."""
        counted = enumerate(zip(self.sets, self.counts, strict=True))
        return [take_in_turn(len(s), count, self.config.seed * 1000 + which, turn) for which, (s, count) in counted]

    def parts(self, step: int, micro: int, rank: int, ranks: int) -> list[Tensor]:
        """Each data set's tile indices of a micro-batch."""
        return [torch.tensor_split(s, self.config.accumulate)[micro] for s in self.sample(step * ranks + rank)]

    def describe(self, parts: list[Tensor]) -> str:
        """The first tiles of a batch by name, for messages."""
        return ", ".join(
            f"{tiles.name} ({', '.join(tiles.keys[i] for i in index[:3].tolist())}, …)"
            for tiles, index in zip(self.sets, parts, strict=True)
        )
