"""The published release, from its original files to a model directory.

Every size is inferred from the tensors. All parts are checked against each other before anything is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sattxt.config import (
    BackboneConfig,
    HeadConfig,
    ImageConfig,
    ModelConfig,
    ModelSource,
    VisionConfig,
    image_config,
)
from sattxt.errors import InputError, WeightsError
from sattxt.io import read_json
from sattxt.weights import dinov3_keys
from sattxt.weights.checksums import verify_file
from sattxt.weights.components import describe_language_model
from sattxt.weights.directory import check_target, write_model
from sattxt.weights.hub import HubAccess, is_repo_id
from sattxt.weights.tensors import read_checkpoint, read_folder, require_tensor

#: How LLM2Vec's Meta-Llama-3-8B-Instruct wraps a text. The tokenizer adds the BOS token.
CHAT_TEMPLATE = "<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>"
MAX_LENGTH = 512
MAX_TEXT_TOKENS = 400


def convert(
    dinov3: str | Path,
    vision_head: str | Path,
    text_head: str | Path,
    llm: str | Path,
    adapters: Sequence[str | Path] = (),
    *,
    num_heads: int | None = None,
    out: str | Path,
    preprocess: str | dict[str, Any] | ImageConfig = "official",
    copy_llm: bool = False,
    name: str = "sattxt-vitl16",
    template: str | None = CHAT_TEMPLATE,
    instruction: str = "",
    overwrite: bool = False,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    revisions: dict[str, str | None] | None = None,
) -> Path:
    """Write the model directory of a release in its original files, and return its path.

    Args:
        dinov3: the backbone: Meta's ``.pth``, a transformers checkpoint's folder, or its hub id. A hash in a file's
            name (``-eadcf0ff.pth``) is checked.
        vision_head: the release's ``sattxt_vision_head.pt``.
        text_head: the release's ``sattxt_text_head.pt``.
        llm: the language model: a local folder, or a hub id. Its weights are not downloaded, unless ``copy_llm``.
        adapters: LoRA adapters in merge order: local folders or hub ids.
        num_heads: attention heads of backbone and head; needed only where the checkpoint stores no RoPE periods.
        out: the directory to write.
        preprocess: pixel scaling stored with the model: ``"official"`` (what the released code does), ``"unit"``,
            ``"dinov3-sat"``, or a dict with rescale, mean, std.
        copy_llm: put the merged language model into the directory, rather than refer to it.
        name: of the model.
        template: wraps a text for the language model, with ``{text}``; None: the text as it is.
        instruction: put before every text unless a caller passes another.
        overwrite: replace a model directory at ``out``.
        token, cache_dir, local_files_only: for what is given as a hub id, as in ``huggingface_hub``.
        revisions: hub id to revision, where it is not ``main``.

    Raises:
        InputError: an argument is wrong, or ``out`` is not empty.
        WeightsError: a file is damaged, or two parts do not fit each other.
        UnsafePickleError: a pickle holds more than tensors.
        HubError: a hub repository cannot be reached.
    """
    target = Path(out)
    check_target(target, overwrite=overwrite)
    if template is not None and template.count("{text}") != 1:
        raise InputError(f"template={template!r}: must contain {{text}} exactly once")
    image = image_config(preprocess, ImageConfig())
    hub = HubAccess(token, cache_dir, local_files_only)
    revisions = revisions or {}

    head_state, text_state = read_checkpoint(vision_head), read_checkpoint(text_head)
    backbone, backbone_state = read_backbone(dinov3, num_heads=num_heads, hub=hub, revision=revisions.get(str(dinov3)))
    if backbone.model_type != "dinov3_vit":
        raise WeightsError(f"{dinov3}: model_type is {backbone.model_type!r}, 'dinov3_vit' is needed")
    head = _head_config(head_state, str(vision_head), backbone.options, str(dinov3))
    hidden = _hidden_size(text_state, str(text_head), head.dim, str(vision_head))
    state = {f"backbone.{key}": value for key, value in backbone_state.items()}
    state.update({f"head.{key}": value for key, value in head_state.items()})

    from sattxt.vision.tower import load_tower

    vision = load_tower(VisionConfig(backbone, head), state, f"{dinov3}, {vision_head}").state_dict()

    text = describe_language_model(
        [ModelSource(str(part), revisions.get(str(part))) for part in (llm, *adapters)],
        hub,
        template=template,
        max_length=MAX_LENGTH,
        max_text_tokens=MAX_TEXT_TOKENS,
        padding_side="left",
        dtype="bfloat16",
        instruction=instruction,
    )
    parts = [source for source in (text.base, *text.adapters) if source is not None]
    if text.hidden_size != hidden:
        raise WeightsError(
            f"{text_head}: takes vectors of width {hidden} (proj.weight has shape (…, {hidden})), but config.json of "
            f"{parts[0].location} says hidden_size {text.hidden_size}: they are not of one release"
        )
    config = ModelConfig(
        name=name,
        embed_dim=2 * head.dim,
        image=image,
        vision=VisionConfig(backbone, head),
        text=replace(text, base=None, adapters=()) if copy_llm else text,
        logit_scale=50.0,  # a temperature of 0.02; it lies between CLIP's initial 14.3 and its final 100
        logit_scale_source="not released with the published weights; 50 is this package's choice, see the manifest",
        licence="DINOv3 License; Meta Llama 3 Community License; heads: MIT or llama3 (the release's statements "
        "conflict)",
    )

    def merge(folder: Path) -> None:
        from sattxt.text.llm2vec import save_merged

        base, *extras = (hub.folder(source.location, source.revision) for source in parts)
        save_merged(base, extras, folder)

    return write_model(target, config, vision, text_state, merge if copy_llm else None, overwrite=overwrite)


def read_backbone(
    location: str | Path, *, num_heads: int | None, hub: HubAccess, revision: str | None = None
) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """A backbone's config, and its tensors under transformers' names.

    Args:
        location: Meta's file of a DINOv3, a transformers folder (``config.json`` and safetensors) of a DINOv3 or a
            MobileNet-v1, or the hub id of one.
        num_heads: see :func:`convert`.
        hub: how the hub is reached.
        revision: of a hub repository.
    """
    name, path = str(location), Path(location).expanduser()
    if not path.exists() and is_repo_id(name):
        path = hub.folder(name, revision, ("config.json", "*.safetensors"))
    if path.is_dir():
        return _transformers_folder(path, name, num_heads)
    hashed = re.search(r"-([0-9a-f]{8,64})\.(?:pth|pt|safetensors)$", path.name)
    if hashed and path.is_file():
        verify_file(path, hashed.group(1))
    state = read_checkpoint(path)
    rope = dinov3_keys.rope_of(state, name)
    state = dinov3_keys.from_meta(dinov3_keys.rename_layers(state), name)
    return BackboneConfig("dinov3_vit", dinov3_keys.infer_options(state, name, num_heads=num_heads, rope=rope)), state


def _transformers_folder(folder: Path, name: str, num_heads: int | None) -> tuple[BackboneConfig, dict[str, Tensor]]:
    path = folder / "config.json"
    stated = read_json(path)
    kind = stated.get("model_type")
    if kind not in ("dinov3_vit", "mobilenet_v1"):
        raise WeightsError(f"{path}: model_type is {kind!r}; a 'dinov3_vit' or a 'mobilenet_v1' is needed")
    state = read_folder(folder)
    if kind == "mobilenet_v1":
        config = BackboneConfig(kind, {"depth_multiplier": float(stated.get("depth_multiplier", 1.0))})
        return config, {key.removeprefix("mobilenet_v1."): value for key, value in state.items()}
    state = dinov3_keys.rename_layers(state)
    heads = num_heads or stated.get("num_attention_heads")
    options = dinov3_keys.infer_options(state, name, num_heads=heads, rope=None)
    options.update({key: stated[key] for key in ("hidden_act", "layer_norm_eps", "rope_theta") if key in stated})
    for key, value in options.items():
        if stated.get(key, value) != value:
            raise WeightsError(
                f"{path}: {key} is {stated[key]!r}, the tensors beside it (or num_heads) imply {value!r}"
            )
    return BackboneConfig("dinov3_vit", options), state


def _head_config(state: Mapping[str, Tensor], name: str, backbone: Mapping[str, Any], backbone_name: str) -> HeadConfig:
    """The head's sizes, once it is known to take the backbone's tokens."""
    where = f"{name}: not a SATtxt vision head"
    dim = require_tensor(state, "ln_final.weight", 1, where).shape[0]
    width = require_tensor(state, "embed.weight", 2, where).shape[1] if "embed.weight" in state else dim
    if width != backbone["hidden_size"]:
        patches = (backbone["hidden_size"], backbone["num_channels"], backbone["patch_size"], backbone["patch_size"])
        raise WeightsError(
            f"{name} takes tokens of width {width} (ln_final.weight has shape ({dim},)), but {backbone_name} makes "
            f"them {backbone['hidden_size']} wide (its patch embedding has shape {patches}): they are not of one "
            "release"
        )
    return HeadConfig(
        input_dim=width,
        dim=dim,
        depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        heads=backbone["num_attention_heads"],
        ffn_dim=require_tensor(state, "blocks.0.mlp.w1.weight", 2, where).shape[0],
    )


def _hidden_size(state: Mapping[str, Tensor], name: str, dim: int, head_name: str) -> int:
    """The language model's width, once the two heads are known to end in one space."""
    proj = require_tensor(state, "proj.weight", 2, f"{name}: not a SATtxt text head")
    if proj.shape[0] != 2 * dim:
        raise WeightsError(
            f"{name}: proj.weight has shape {tuple(proj.shape)}, so texts get {proj.shape[0]} dimensions, but images "
            f"get {2 * dim} from {head_name} (ln_final.weight has shape ({dim},)): they are not of one release"
        )
    return int(proj.shape[1])
