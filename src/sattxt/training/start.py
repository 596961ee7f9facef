"""What the trained weights start from: the recipe's backbone and a new head, or a model, or another run."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sattxt.config import BackboneConfig, HeadConfig, ModelSource, VisionConfig
from sattxt.errors import HubError, InputError, UnknownModelError, WeightsError, near
from sattxt.training.records import CHECKPOINT, read_checkpoint
from sattxt.training.schema import Config, Count
from sattxt.vision.tower import VisionTower, build_backbone
from sattxt.weights.convert import read_backbone
from sattxt.weights.dinov3_keys import rename_layers
from sattxt.weights.directory import StoredModel, read_model
from sattxt.weights.hub import HubAccess, is_repo_id
from sattxt.weights.resolver import resolve
from sattxt.weights.tensors import check_tensors

if TYPE_CHECKING:
    from sattxt.training.recipe import Recipe

log = logging.getLogger(__name__)

#: Tensors of a classifier's checkpoint that a backbone does not have.
_CLASSIFIER = re.compile(r"^(classifier|pooler)\.")
#: The largest share of a backbone's tensors that a checkpoint may lack.
_MAY_LACK = 0.1


class VisionSource(Config):
    """The backbone: DINOv3 (Meta's checkpoint file, a transformers folder, a hub id) or MobileNet-v1 (the last two)."""

    path: str | None = None  # a folder or file, under the data folder or anywhere; or else a hub id
    revision: str | None = None  # of a hub id: branch, tag or commit
    random: bool = False  # random weights: model_type and options give the sizes
    model_type: Literal["dinov3_vit", "mobilenet_v1"] | None = None  # None: what the checkpoint says
    options: dict[str, Any] = Field({})  # keywords of the backbone's config
    output_stride: Literal[8, 16, 32] | None = None  # MobileNet: pixels between neighbouring features; None: 32
    num_heads: Count | None = None  # attention heads of a checkpoint file that does not have them


@contextmanager
def fixed_seed(seed: int) -> Iterator[None]:
    """What is drawn inside depends on ``seed`` alone; the generator of the process is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def find_path(named: str, data: Path, key: str) -> Path:
    """The file or folder of this name below ``data``, or else anywhere.

    Raises:
        InputError: there is none; the message has the recipe's ``key``.
    """
    for path in (data / named, Path(named).expanduser()):
        if path.exists():
            return path.absolute()
    raise InputError(f"{key}: {data / named}: no such file or folder, and {named!r} is none elsewhere")


def find_source(source: ModelSource, data: Path, key: str) -> ModelSource:
    """The absolute path that :func:`find_path` finds, or else the hub id as it is. Nothing is downloaded.

    Raises:
        InputError: it is neither; or a ``revision`` goes with a path.
    """
    try:
        path = find_path(source.location, data, key)
    except InputError as error:
        if is_repo_id(source.location):
            return source
        raise InputError(f"{error}, and no hub id (org/name) either") from error
    if source.revision is not None:
        raise InputError(f"{key}: {path} is on this machine; leave revision={source.revision!r} out")
    return ModelSource(str(path))


def load_vision(recipe: Recipe, data: Path, *, seed: int | None = None) -> VisionTower:
    """The recipe's vision tower, float32, channels last, on the CPU, in training mode.

    Tensors that a checkpoint lacks are logged and stay random; the head is always random.

    Args:
        data: the folder that paths start from.
        seed: of what starts random; default: ``align.seed``.

    Raises:
        InputError: the block contradicts itself or the checkpoint, or the image size does not divide into patches.
        WeightsError: a tensor is unknown or has a wrong shape, or a tenth of them are missing.
        GatedModelError, OfflineError, UnknownModelError, HubError: a hub id cannot be had; each says what to do.
    """
    source = recipe.vision
    backbone, state = (_describe_random(source), None) if source.random else _read_backbone(source, data)
    if source.output_stride is not None and backbone.model_type != "mobilenet_v1":
        raise InputError(f"vision.output_stride: a {backbone.model_type} has none; leave it out")
    backbone = replace(backbone, output_stride=source.output_stride)
    head = HeadConfig(input_dim=_find_width(recipe, backbone), **dict(recipe.head))
    with fixed_seed(recipe.align.seed if seed is None else seed):
        tower = VisionTower(VisionConfig(backbone, head))
    if backbone.model_type == "dinov3_vit":
        _prepare_dinov3(tower.backbone)
    if state is not None:
        missing = _copy_tensors(tower.backbone, state, str(source.path))
        if len(missing) > _MAY_LACK * len(tower.backbone.state_dict()):
            raise WeightsError(
                f"{source.path}: lacks {len(missing)} of {len(tower.backbone.state_dict())} tensors, such as "
                f"{missing[0]!r}; not this backbone's weights"
            )
        if missing:
            log.warning("%s: lacks %d tensors, which start random: %s", source.path, len(missing), ", ".join(missing))
    tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return tower.train()


def _find_width(recipe: Recipe, backbone: BackboneConfig) -> int:
    """Width of the backbone's tokens.

    Raises:
        InputError: a transformer's patches do not divide one of the recipe's image sizes.
    """
    with torch.device("meta"):
        module: Any = build_backbone(backbone)
    if backbone.model_type == "mobilenet_v1":
        return int(module.width)
    sizes = [("image.size", recipe.image.size), *(("align.sizes", size) for size in recipe.align.sizes)]
    if recipe.srd is not None:
        sizes += [("srd.global_size", recipe.srd.global_size), ("srd.local_size", recipe.srd.local_size)]
    patch = module.config.patch_size
    for key, size in sizes:
        if size % patch:
            raise InputError(
                f"{key}={size}: the backbone cuts images into patches of {patch} pixels; pass a multiple, such as "
                f"{max(1, round(size / patch)) * patch}"
            )
    return int(module.config.hidden_size)


def _describe_random(source: VisionSource) -> BackboneConfig:
    """The sizes of a random backbone."""
    kind = source.model_type
    if kind is None:
        raise InputError(
            "vision.model_type: missing; a random backbone needs 'dinov3_vit' or 'mobilenet_v1' and its options"
        )
    if kind == "dinov3_vit":
        from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig

        known = set(vars(DINOv3ViTConfig()))
        for key in source.options:  # transformers takes any key, and ignores it
            if key not in known:
                raise InputError(f"vision.options.{key}: not an option of {kind}{near(key, sorted(known))}")
    return BackboneConfig(kind, dict(source.options))


def _read_backbone(source: VisionSource, data: Path) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """Sizes and tensors of the backbone that ``path`` names, downloaded where it is a hub id."""
    if not source.path:
        raise InputError("vision.path: missing; pass a folder, a hub id, or vision.random=true")
    if source.options:
        raise InputError(f"vision.options: {source.path} says its own; leave options out, or pass vision.random=true")
    place = find_source(ModelSource(source.path, source.revision), data, "vision.path")
    try:
        config, state = read_backbone(
            place.location, num_heads=source.num_heads, hub=HubAccess(), revision=place.revision
        )
    except (HubError, UnknownModelError) as error:
        raise type(error)(f"vision.path: no such folder below {data}, and on the hub: {error}") from error
    if source.model_type not in (None, config.model_type):
        raise InputError(
            f"vision.model_type is {source.model_type!r}, but {source.path} holds a {config.model_type!r}; leave "
            "model_type out"
        )
    return config, {key: value for key, value in state.items() if not _CLASSIFIER.match(key)}


def _prepare_dinov3(backbone: Any) -> None:
    """No random rescaling of DINOv3's position encoding in training: it draws from the process's generator, so that a
    resumed run would differ; and views have random scales already. No gradient for its mask token either: no image is
    masked, and DDP waits for the gradient of every parameter that has one.
    """
    backbone.embeddings.mask_token.requires_grad_(False)
    for name in ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"):
        setattr(backbone.config, name, None)


def initialise(
    source: str | Path, vision: VisionTower, text: nn.Module | None = None
) -> tuple[bool, StoredModel | None]:
    """Copy the weights of a model or a run into a vision tower and, where it has one, a text head.

    Args:
        source: a run's folder: the averaged vision tower of stage 1, or tower and text head of stage 2 (what was frozen
            there stays as it is). Else what ``from_pretrained`` opens: vision tower and text head.

    Returns:
        Whether the source has a text head; and the model that it is, if it is no run.

    Raises:
        UnknownModelError: there is no such model. WeightsError: its weights do not fit the recipe's sizes.
        InputError: a run with a frozen head, whose checkpoint lacks it.
    """
    stored_vision, stored_text, frozen, stored = _read_start(source)
    parts: list[tuple[str, nn.Module, Mapping[str, Tensor]]] = [("vision tower", vision, stored_vision)]
    if text is not None and stored_text:
        parts.append(("text head", text, stored_text))
    for name, module, state in parts:
        where = f"{source}: no start for the recipe's vision, head and text encoder: {name}"
        for key in _copy_tensors(module, state, where):
            if not (frozen and key.startswith("backbone.")):
                raise WeightsError(f"{where}: tensor {key!r} is missing")
    return bool(stored_text), stored


def _read_start(
    source: str | Path,
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], bool, StoredModel | None]:
    """Vision tower, text head (may be empty), whether the backbone was frozen and so left out, and the stored model."""
    checkpoint = Path(source) / CHECKPOINT
    if checkpoint.is_file():
        state = read_checkpoint(checkpoint)
        still = [name for name in ("freeze_head", "freeze_text_head") if state["run"].get(name)]
        if still:
            raise InputError(
                f"{source}: a checkpoint leaves out what is frozen ({', '.join(still)}); write this run with "
                "`sattxt train export` and start from that model"
            )
        average = state["average"].items()
        vision = {key.removeprefix("vision."): value for key, value in average if key.startswith("vision.")}
        text = {key.removeprefix("text."): value for key, value in average if key.startswith("text.")}
        return vision, text, bool(state["run"]["freeze_backbone"]), None
    try:
        stored = read_model(resolve(source))
    except UnknownModelError as error:
        raise UnknownModelError(f"{error}; nor is it a run's folder, which has {CHECKPOINT}") from error
    return stored.vision, stored.text_head, False, stored


def _copy_tensors(module: nn.Module, state: Mapping[str, Tensor], where: str) -> list[str]:
    """Copy ``state`` in; returns the sorted names that it lacks, BatchNorm's counters aside.

    Raises:
        WeightsError: a tensor is unknown, of another shape, or holds NaN.
    """
    own = module.state_dict()
    given = rename_layers(dict(state), own)
    check_tensors(given, {key: value.shape for key, value in own.items()}, where, partial=True)
    module.load_state_dict(given, strict=False)
    return sorted(key for key in own if key not in given and not key.endswith("num_batches_tracked"))
