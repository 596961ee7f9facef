"""The vision tower that a recipe starts from: a pretrained backbone, or a random one, and a new head."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sattxt.config import BackboneConfig, HeadConfig, VisionConfig
from sattxt.errors import HubError, InputError, UnknownModelError, WeightsError
from sattxt.io import read_json
from sattxt.labels.sets import near
from sattxt.vision.mobilenet import MobileNetV1
from sattxt.vision.tower import VisionTower, build_backbone

if TYPE_CHECKING:
    from sattxt.training.recipe import Recipe

log = logging.getLogger(__name__)

#: Tensors of a classifier's checkpoint that a backbone does not have.
_CLASSIFIER = re.compile(r"^(classifier|pooler)\.")
#: The largest share of a backbone's tensors that a checkpoint may lack.
_MAY_LACK = 0.1


def load_vision(recipe: Recipe, data: Path, *, seed: int | None = None) -> VisionTower:
    """The recipe's vision tower, float32, on the CPU, in training mode.

    The block ``vision`` names the backbone: ``path`` is a folder or file under ``data`` (or anywhere), or else a hub
    id, with ``revision``; ``random: true`` needs ``model_type`` and ``options`` alone. Taken are DINOv3 (Meta's
    checkpoint file, a transformers folder, a hub id) and MobileNet-v1 (a transformers folder, a hub id). Tensors that a
    checkpoint lacks are logged and stay random; the head is always random.

    Args:
        seed: of what starts random; default: ``align.seed``. The generator of the process is left as it was.

    Raises:
        InputError: the block contradicts itself or the checkpoint, or the image size does not divide into patches.
        WeightsError: a tensor is unknown or has a wrong shape, or a tenth of them are missing.
        GatedModelError, OfflineError, UnknownModelError, HubError: a hub id cannot be had; each says what to do.
    """
    block = recipe.backbone
    state: dict[str, Tensor] = {}
    if block.get("random"):
        backbone = _described(block)
    else:
        backbone, state = _checkpoint(block, data)
    config = _vision_config(recipe, backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.align.seed if seed is None else seed)
        tower = VisionTower(config)
    _still(tower.backbone)
    if not block.get("random"):
        _load(tower.backbone, state, str(block["path"]))
    return tower.train()


def described_vision(recipe: Recipe) -> VisionConfig:
    """The vision tower's config where the recipe alone tells it, without looking at a checkpoint.

    Raises:
        InputError: it does not; :func:`load_vision` reads it from the checkpoint.
    """
    return _vision_config(recipe, _described(recipe.backbone))


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
    return VisionConfig(backbone, HeadConfig(input_dim=width, **recipe.head))


def _described(block: dict[str, Any]) -> BackboneConfig:
    kind = block.get("model_type")
    if kind is None:
        raise InputError(
            "vision.model_type: missing; a random backbone needs 'dinov3_vit' or 'mobilenet_v1' and its options"
        )
    options = dict(block.get("options") or {})
    if kind == "dinov3_vit":
        from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig

        known = set(vars(DINOv3ViTConfig()))
        for key in options:  # transformers takes any key, and ignores it
            if key not in known:
                raise InputError(f"vision.options.{key}: not an option of {kind}{near(key, sorted(known))}")
    return _configured(block, kind, options)


def _checkpoint(block: dict[str, Any], data: Path) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """Sizes and tensors of the backbone that ``path`` names."""
    from sattxt.weights.convert import read_backbone
    from sattxt.weights.hub import HubAccess

    named = block.get("path")
    if not named:
        raise InputError("vision.path: missing; pass a folder, a hub id, or vision.random=true")
    found = _located(str(named), block.get("revision"), data)
    stated = _stated(found)
    kind = "dinov3_vit" if stated is None else str(stated.get("model_type"))
    wanted = block.get("model_type") or kind
    if wanted != kind:
        raise InputError(f"vision.model_type is {wanted!r}, but {named} holds a {kind!r}; leave model_type out")
    if kind == "mobilenet_v1":
        assert stated is not None  # its kind was read from it
        config, state = _mobilenet(found, stated)
    elif kind == "dinov3_vit":
        config, state = read_backbone(found, num_heads=block.get("num_heads"), hub=HubAccess())
    else:
        raise WeightsError(f"{named}: model_type is {kind!r}; a 'dinov3_vit' or a 'mobilenet_v1' is needed")
    for key, value in (block.get("options") or {}).items():
        if config.options.get(key, value) != value:
            raise InputError(
                f"vision.options.{key} is {value!r}, {named} has {config.options[key]!r}; leave options out"
            )
    return _configured(block, kind, config.options), state


def _configured(block: dict[str, Any], kind: Any, options: dict[str, Any]) -> BackboneConfig:
    stride = block.get("output_stride")
    if kind not in ("dinov3_vit", "mobilenet_v1"):
        hint = near(str(kind), ["dinov3_vit", "mobilenet_v1"])
        raise InputError(f"vision.model_type is {kind!r}; pass 'dinov3_vit' or 'mobilenet_v1'{hint}")
    if stride is not None and kind != "mobilenet_v1":
        raise InputError(f"vision.output_stride: a {kind} has none; leave it out")
    if stride is not None and stride not in (8, 16, 32):
        raise InputError(f"vision.output_stride={stride!r}: pass 8, 16 or 32")
    return BackboneConfig(kind, options, stride)


def _located(named: str, revision: str | None, data: Path) -> Path:
    """A folder or file on this machine, downloaded if ``named`` is a hub id and no such folder is there."""
    for path in (data / named, Path(named).expanduser()):
        if path.exists():
            if revision is not None:
                raise InputError(f"vision.revision={revision!r}: {path} is on this machine; leave revision out")
            return path
    from sattxt.weights.hub import HubAccess, is_repo_id

    if not is_repo_id(named):
        raise InputError(f"vision.path: {data / named}: no such folder or file, and {named!r} is no hub id (org/name)")
    try:
        return HubAccess().folder(named, revision, ("config.json", "*.safetensors"))
    except (HubError, UnknownModelError) as error:
        raise type(error)(f"vision.path: there is no folder {data / named}, and on the hub: {error}") from error


def _stated(found: Path) -> dict[str, Any] | None:
    """config.json of a folder; ``None`` for a file."""
    if found.is_file():
        return None
    return read_json(found / "config.json")


def _mobilenet(folder: Path, stated: dict[str, Any]) -> tuple[BackboneConfig, dict[str, Tensor]]:
    from sattxt.weights.tensors import read_folder

    options = {"depth_multiplier": float(stated.get("depth_multiplier", 1.0))}
    state = {key.removeprefix("mobilenet_v1."): value for key, value in read_folder(folder).items()}
    return BackboneConfig("mobilenet_v1", options), state


def _still(backbone: torch.nn.Module) -> None:
    """No random rescaling of DINOv3's position encoding in training: it draws from the process's generator, so that a
    resumed run would differ; and views have random scales already.
    """
    config: Any = getattr(backbone, "config", None)
    for name in ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"):
        if hasattr(config, name):
            setattr(config, name, None)


def _load(backbone: torch.nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Copy ``state`` in, as float32. What it lacks is logged; what does not fit is an error."""
    from sattxt.weights.dinov3_keys import like
    from sattxt.weights.tensors import check_tensors

    expected = backbone.state_dict()
    state = {key: value for key, value in like(state, set(expected), "").items() if not _CLASSIFIER.match(key)}
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
