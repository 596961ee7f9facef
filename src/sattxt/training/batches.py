"""Batches by global step, as Lightning takes them."""

from __future__ import annotations

from collections.abc import Iterator

import lightning as L
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sattxt.training.objectives.base import Batch, Objective


class StepBatches(IterableDataset[Batch]):
    """The micro-batches of one rank from step ``start`` on, in order and without end.

    Loader workers take turns, so that what comes out is in order whatever their number.
    """

    def __init__(self, objective: Objective, start: int, rank: int = 0, ranks: int = 1) -> None:
        super().__init__()
        self.objective, self.start, self.rank, self.ranks = objective, start, rank, ranks

    def __iter__(self) -> Iterator[Batch]:
        worker, accumulate = get_worker_info(), self.objective.step_config.accumulate
        turn, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        position = self.start * accumulate + turn
        while True:
            yield self.objective.draw(position // accumulate, position % accumulate, self.rank, self.ranks)
            position += workers


class StepData(L.LightningDataModule):
    """The training batches of an objective; a resumed run goes on at the step its checkpoint was written after.

    Args:
        workers: processes that draw batches ahead; 0 draws them in the training process.
    """

    def __init__(self, objective: Objective, workers: int = 0) -> None:
        super().__init__()
        self.objective, self.workers = objective, workers

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches from the trainer's global step on. There is one epoch: ``max_steps`` ends it."""
        trainer = self.trainer
        assert trainer is not None
        batches = StepBatches(self.objective, trainer.global_step, trainer.global_rank, trainer.world_size)
        return DataLoader(batches, batch_size=None, num_workers=self.workers)
