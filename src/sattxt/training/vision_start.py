"""The vision tower that a recipe starts from: a pretrained backbone, or a random one, and a new head."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sattxt.config import BackboneConfig, HeadConfig, VisionConfig
from sattxt.errors import HubError, InputError, UnknownModelError, WeightsError
from sattxt.io import read_json
from sattxt.labels.sets import near
from sattxt.training.schema import Config, Count
from sattxt.vision.mobilenet import MobileNetV1
from sattxt.vision.tower import VisionTower, build_backbone

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


def find_path(named: str, data: Path) -> Path | None:
    """The file or folder of this name below ``data``, or else anywhere; ``None`` where there is none."""
    return next((path for path in (data / named, Path(named).expanduser()) if path.exists()), None)


@contextmanager
def fixed_seed(seed: int) -> Iterator[None]:
    """What is drawn inside depends on ``seed`` alone; the generator of the process is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def load_vision(recipe: Recipe, data: Path, *, seed: int | None = None) -> VisionTower:
    """The recipe's vision tower, float32, on the CPU, in training mode.

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
    backbone, state = (_describe(source), None) if source.random else _read_checkpoint(source, data)
    if source.output_stride is not None and backbone.model_type != "mobilenet_v1":
        raise InputError(f"vision.output_stride: a {backbone.model_type} has none; leave it out")
    config = _vision_config(recipe, BackboneConfig(backbone.model_type, backbone.options, source.output_stride))
    with fixed_seed(recipe.align.seed if seed is None else seed):
        tower = VisionTower(config)
    _fit_dinov3(tower.backbone)
    if state is not None:
        _load(tower.backbone, state, str(source.path))
    return tower.train()


def _vision_config(recipe: Recipe, backbone: BackboneConfig) -> VisionConfig:
    with torch.device("meta"):
        module: Any = build_backbone(backbone)
    if isinstance(module, MobileNetV1):
        width = module.width
    else:
        width, patch = module.config.hidden_size, module.config.patch_size
        sizes = [("image.size", recipe.image.size), *(("align.sizes", size) for size in recipe.align.sizes)]
        if recipe.srd is not None:
            sizes += [("srd.global_size", recipe.srd.global_size), ("srd.local_size", recipe.srd.local_size)]
        for key, size in sizes:
            if size % patch:
                raise InputError(
                    f"{key}={size}: the backbone cuts images into patches of {patch} pixels; "
                    f"pass a multiple, such as {max(1, round(size / patch)) * patch}"
                )
    return VisionConfig(backbone, HeadConfig(input_dim=width, **dict(recipe.head)))


def _describe(source: VisionSource) -> BackboneConfig:
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


def _read_checkpoint(source: VisionSource, data: Path) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """Sizes and tensors of the backbone that ``path`` names."""
    from sattxt.weights.convert import read_backbone
    from sattxt.weights.hub import HubAccess
    from sattxt.weights.tensors import read_folder

    if not source.path:
        raise InputError("vision.path: missing; pass a folder, a hub id, or vision.random=true")
    found = _find(source.path, source.revision, data)
    stated = {"model_type": "dinov3_vit"} if found.is_file() else read_json(found / "config.json")
    kind = str(stated.get("model_type"))
    if source.model_type not in (None, kind):
        raise InputError(
            f"vision.model_type is {source.model_type!r}, but {source.path} holds a {kind!r}; leave model_type out"
        )
    if kind == "mobilenet_v1":
        config = BackboneConfig("mobilenet_v1", {"depth_multiplier": float(stated.get("depth_multiplier", 1.0))})
        state = {key.removeprefix("mobilenet_v1."): value for key, value in read_folder(found).items()}
    elif kind == "dinov3_vit":
        config, state = read_backbone(found, num_heads=source.num_heads, hub=HubAccess())
    else:
        raise WeightsError(f"{source.path}: model_type is {kind!r}; a 'dinov3_vit' or a 'mobilenet_v1' is needed")
    for key, value in source.options.items():
        if config.options.get(key, value) != value:
            raise InputError(
                f"vision.options.{key} is {value!r}, {source.path} has {config.options[key]!r}; leave options out"
            )
    return config, state


def _find(named: str, revision: str | None, data: Path) -> Path:
    """A folder or file on this machine, downloaded if ``named`` is a hub id and no such folder is there."""
    path = find_path(named, data)
    if path is not None and revision is not None:
        raise InputError(f"vision.revision={revision!r}: {path} is on this machine; leave revision out")
    if path is not None:
        return path
    from sattxt.weights.hub import HubAccess, is_repo_id

    if not is_repo_id(named):
        raise InputError(f"vision.path: {data / named}: no such folder or file, and {named!r} is no hub id (org/name)")
    try:
        return HubAccess().folder(named, revision, ("config.json", "*.safetensors"))
    except (HubError, UnknownModelError) as error:
        raise type(error)(f"vision.path: there is no folder {data / named}, and on the hub: {error}") from error


def _fit_dinov3(backbone: torch.nn.Module) -> None:
    """No random rescaling of DINOv3's position encoding in training: it draws from the process's generator, so that a
    resumed run would differ; and views have random scales already. No gradient for its mask token either: no image is
    masked, and DDP waits for the gradient of every parameter that has one.
    """
    for name, parameter in backbone.named_parameters():
        if name.endswith("mask_token"):
            parameter.requires_grad_(False)
    config: Any = getattr(backbone, "config", None)
    for name in ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"):
        if hasattr(config, name):
            setattr(config, name, None)


def _load(backbone: torch.nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Copy ``state`` in, as float32. What it lacks is logged; what does not fit is an error."""
    from sattxt.weights.dinov3_keys import rename_layers
    from sattxt.weights.tensors import check_tensors

    expected = backbone.state_dict()
    state = {key: value for key, value in rename_layers(state, expected).items() if not _CLASSIFIER.match(key)}
    check_tensors(state, {key: value.shape for key, value in expected.items()}, name, partial=True)
    missing = sorted(key for key in expected if key not in state and not key.endswith("num_batches_tracked"))
    if len(missing) > _MAY_LACK * len(expected):
        raise WeightsError(
            f"{name}: lacks {len(missing)} of {len(expected)} tensors, such as {missing[0]!r}; not this "
            "backbone's weights"
        )
    if missing:
        log.warning("%s: lacks %d tensors, which start random: %s", name, len(missing), ", ".join(missing))
    backbone.load_state_dict({key: value.to(expected[key].dtype) for key, value in state.items()}, strict=False)
