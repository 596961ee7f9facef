"""What a stage starts from instead of the recipe's own weights: a model directory, or another run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from sattxt.errors import InputError, UnknownModelError, WeightsError
from sattxt.training.checkpoint import CHECKPOINT, read_checkpoint
from sattxt.training.objectives.align.model import AlignModel
from sattxt.vision.tower import VisionTower
from sattxt.weights.tensors import check_tensors


def initialise(model: AlignModel, source: str | Path) -> bool:
    """Copy weights into ``model``; returns whether the text head was among them.

    Args:
        source: a run's folder: the averaged vision tower of stage 1, or tower and text head of stage 2 (what was frozen
            there stays the recipe's). Else what ``from_pretrained`` opens: vision tower and text head.

    Raises:
        UnknownModelError: there is no such model. WeightsError: its weights do not fit the recipe's sizes.
        InputError: a run with a frozen head, whose checkpoint lacks it.
    """
    vision, text, frozen = _read(source)
    _load(model.vision, vision, f"{source}: vision tower", "backbone." if frozen else "-")
    if text:
        _load(model.text, text, f"{source}: text head")
    return bool(text)


def initialise_vision(tower: VisionTower, source: str | Path) -> None:
    """The vision tower of :func:`initialise` alone."""
    vision, _, frozen = _read(source)
    _load(tower, vision, f"{source}: vision tower", "backbone." if frozen else "-")


def _read(source: str | Path) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], bool]:
    """Vision tower, text head (may be empty), and whether the backbone was frozen and so left out."""
    checkpoint = Path(source) / CHECKPOINT
    if checkpoint.is_file():
        state = read_checkpoint(checkpoint)
        still = [name for name in ("freeze_head", "freeze_text_head") if state["run"].get(name)]
        if still:
            raise InputError(
                f"{source}: a checkpoint leaves out what is frozen ({', '.join(still)}); write this run with "
                "`sattxt train export` and start from that model"
            )
        average = state["average"]
        return _below(average, "vision."), _below(average, "text."), bool(state["run"]["freeze_backbone"])
    from sattxt.weights.directory import read_model
    from sattxt.weights.resolver import resolve

    try:
        stored = read_model(resolve(source))
    except UnknownModelError as error:
        raise UnknownModelError(f"{error}; nor is it a run's folder, which has {CHECKPOINT}") from error
    return stored.vision, stored.text_head, False


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _load(module: nn.Module, state: Mapping[str, Tensor], where: str, may_lack: str = "-") -> None:
    """Copy ``state`` in; names that begin with ``may_lack`` may be missing from it.

    Raises:
        WeightsError: it does not fit.
    """
    counter, own = "num_batches_tracked", module.state_dict()
    given = {name: value for name, value in state.items() if not name.endswith(counter)}
    due = {name for name in own if name in given or (not name.startswith(may_lack) and not name.endswith(counter))}
    try:
        check_tensors(given, {name: own[name].shape for name in own if name in due}, where)
    except WeightsError as error:
        raise WeightsError(f"{error}; start from a model with the recipe's vision, head and text encoder") from error
    module.load_state_dict(state, strict=False)
