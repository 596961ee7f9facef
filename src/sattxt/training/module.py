"""The Lightning module that trains a model by an :class:`~sattxt.training.objective.Objective`, whichever the stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from sattxt.errors import SatTxtError, WeightsError
from sattxt.training.checksum import checksum
from sattxt.training.objectives.base import Batch, Objective, StepLosses
from sattxt.training.optim import warmup_cosine


class TrainingModule(L.LightningModule):
    """One step: draw, losses, AdamW, and what the model keeps of the step (:meth:`Objective.after_step`).

    Frozen modules stay in eval mode, and out of checkpoints: they are as they came.
    """

    def __init__(self, objective: Objective, model: nn.Module) -> None:
        super().__init__()
        self.objective, self.model = objective, model
        self.strict_loading = False  # frozen weights are not in checkpoints; engine.check_checkpoint looks at the rest
        for module in objective.frozen(model):
            module.requires_grad_(False)
        # Groups are kept by name: sharded (FSDP), every parameter looks like a vector.
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        self._groups = [
            {**group, "params": [names[id(p)] for p in group["params"]]} for group in objective.groups(model)
        ]
        self._statistics: dict[str, list[Tensor]] = {}
        self.identity = run_identity(objective, model)

    def configure_optimizers(self) -> Any:
        """AdamW, and warm-up then cosine by optimiser step."""
        parameters, config = dict(self.named_parameters()), self.objective.step_config
        groups = [{**group, "params": [parameters[name] for name in group["params"]]} for group in self._groups]
        optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: warmup_cosine(step, config.warmup, config.steps)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Set the learning rate of this step: the checkpoint may be of a run that was to have fewer steps."""
        schedule: Any = self.lr_schedulers()
        factor = warmup_cosine(self.global_step, self.objective.step_config.warmup, self.objective.step_config.steps)
        for group, lr in zip(schedule.optimizer.param_groups, schedule.base_lrs, strict=True):
            group["lr"] = lr * factor

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Training mode, except for what stays in eval mode."""
        self.model.train()
        for module in self.objective.in_eval_mode(self.model):
            module.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """``loss``, and ``terms`` for the log.

        Raises:
            SatTxtError: the loss is NaN or infinite; the message names the tiles.
        """
        losses: StepLosses = self.objective.losses(self.model, batch, self._gather)
        if not bool(torch.isfinite(losses.total)):
            raise SatTxtError(
                f"step {batch.step}: the loss is {float(losses.total.detach())} on "
                f"{self.objective.describe(batch.parts)}; look at these tiles, or start again in "
                "another run folder with a lower learning rate"
            )
        for name, value in losses.statistics.items():
            self._statistics.setdefault(name, []).append(value.detach())
        terms = {name: value.detach() for name, value in losses.terms.items()}
        return {"loss": losses.total, "terms": terms, "tiles": len(batch)}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip the norm of all gradients together."""
        wrapped: Any = self.trainer.strategy.model
        if hasattr(wrapped, "clip_grad_norm_"):  # FSDP: the norm is over all shards
            wrapped.clip_grad_norm_(self.objective.step_config.clip_norm)
            return
        given = [p for p in self.model.parameters() if p.grad is not None]
        nn.utils.clip_grad_norm_(given, self.objective.step_config.clip_norm)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """An optimiser step, then what the model keeps of it."""
        super().optimizer_step(*arguments, **options)
        means = {name: torch.stack(values).mean(dim=0) for name, values in self._statistics.items()}
        self._statistics.clear()
        if self.trainer.world_size > 1:
            means = {name: self._gather(value[None]).mean(dim=0) for name, value in means.items()}
        self.objective.after_step(self.model, means)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen weights out, and note which run this is."""
        kept = trained_names(self.objective, self.model)
        checkpoint["state_dict"] = {
            name: value for name, value in checkpoint["state_dict"].items() if name.removeprefix("model.") in kept
        }
        checkpoint["sattxt"] = self.identity

    def _gather(self, own: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return own
        gathered: Any = self.all_gather(own, sync_grads=own.requires_grad)
        return gathered.flatten(0, 1)


def run_identity(objective: Objective, model: nn.Module) -> dict[str, Any]:
    """What a checkpoint must agree with to be resumed: the objective's part, and a checksum of what is frozen."""
    state, trained = model.state_dict(), trained_names(objective, model)
    frozen = {name: value for name, value in state.items() if name not in trained}
    return {**objective.identity(), "frozen_weights": checksum(frozen)}


def trained_names(objective: Objective, model: nn.Module) -> set[str]:
    """The names in ``model``'s state dict of all that is not frozen."""
    still = {id(module) for module in objective.frozen(model)}
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if id(module) in still)
    return {name for name in model.state_dict() if not (prefixes and name.startswith(prefixes))}


def load_trained(objective: Objective, model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Put into ``model`` what a checkpoint holds of it.

    Raises:
        WeightsError: a tensor is missing, unknown, or of another shape; the message begins with ``where``.
    """
    due = trained_names(objective, model)
    wrong = sorted(due ^ set(state))
    if wrong:
        raise WeightsError(f"{where}: not a checkpoint of this model ({len(wrong)} tensors differ, first {wrong[0]})")
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{where}: not a checkpoint of this model ({' '.join(str(error).split())})") from error


@contextmanager
def whole_parameters(trainer: L.Trainer) -> Iterator[None]:
    """Parameters in their own shapes: under FSDP they are shards outside of a forward pass. Every rank must enter."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    if isinstance(trainer.strategy.model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(trainer.strategy.model, writeback=False):
            yield
    else:
        yield
