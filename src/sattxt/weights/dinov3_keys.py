"""DINOv3 vision transformers: Meta's tensor names to those of transformers' ``DINOv3ViTModel``, and all sizes.

Meta's checkpoint fuses q, k and v, keeps the key bias at zero through a ``bias_mask``, calls the registers
``storage_tokens`` and stores the RoPE periods. transformers keeps q, k and v apart and has no key bias. Everything a
``DINOv3ViTConfig`` needs is read off the tensors (DINOv3, arXiv 2508.10104). A tensor that is unknown, missing or of
the wrong shape is named where the model is loaded (``load_tower``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sattxt.errors import InputError, WeightsError
from sattxt.weights.tensors import require_tensor

#: Tensors of Meta's checkpoint that inference does not use.
_UNUSED = re.compile(r"^(local_cls_norm\.|rope_embed\.)|\.bias_mask$")
_NAMES = {
    "cls_token": "embeddings.cls_token",
    "storage_tokens": "embeddings.register_tokens",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
    "attn.proj.weight": "attention.o_proj.weight",
    "attn.proj.bias": "attention.o_proj.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.fc1.weight": "mlp.up_proj.weight",
    "mlp.fc1.bias": "mlp.up_proj.bias",
    "mlp.fc2.weight": "mlp.down_proj.weight",
    "mlp.fc2.bias": "mlp.down_proj.bias",
    "mlp.w1.weight": "mlp.gate_proj.weight",
    "mlp.w1.bias": "mlp.gate_proj.bias",
    "mlp.w2.weight": "mlp.up_proj.weight",
    "mlp.w2.bias": "mlp.up_proj.bias",
    "mlp.w3.weight": "mlp.down_proj.weight",
    "mlp.w3.bias": "mlp.down_proj.bias",
}
_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)$")
_LAYER = re.compile(r"^(backbone\.)?(?:model\.)?layer\.")
_PATCHES = "embeddings.patch_embeddings.weight"


def from_meta(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Meta's state dict under transformers' names; ``name`` is the file, for errors.

    Names that Meta's release does not have are kept as they are, so tensors under transformers' names stay.

    Raises:
        WeightsError: there is no patch embedding.
    """
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        block = _BLOCK.match(key)
        layer, rest = (f"model.layer.{block[1]}.", block[2]) if block else ("", key)
        if rest in ("attn.qkv.weight", "attn.qkv.bias"):
            fused = tensor * state.get(f"{key}_mask", 1)
            for part, one in zip("qkv", fused.chunk(3), strict=False):
                out[f"{layer}attention.{part}_proj.{rest.removeprefix('attn.qkv.')}"] = one.contiguous()
        elif not _UNUSED.search(key):
            out[layer + _NAMES.get(rest, rest)] = tensor
    dim = require_tensor(out, _PATCHES, 4, f"{name}: not a DINOv3 ViT checkpoint").shape[0]
    # The mask token is of use in pretraining only.
    out["embeddings.mask_token"] = out.get("embeddings.mask_token", torch.zeros(dim)).reshape(1, 1, -1)
    out.setdefault("embeddings.register_tokens", torch.zeros(1, 0, dim))
    keys = [key for key in out if key.endswith("k_proj.bias")]
    if not any(bool(out[key].any()) for key in keys):
        out = {key: tensor for key, tensor in out.items() if key not in keys}
    return out


def rename_layers(state: Mapping[str, Tensor], like: Iterable[str] = ("model.layer.",)) -> dict[str, Tensor]:
    """``state`` with its layers called ``layer.0`` or ``model.layer.0``, as the names in ``like`` are.

    transformers releases differ in this; a stored model opens in any of them.
    """
    prefix = "model.layer." if any("model.layer." in key for key in like) else "layer."
    return {_LAYER.sub(rf"\g<1>{prefix}", key): tensor for key, tensor in state.items()}


def rope_of(state: Mapping[str, Tensor], name: str) -> tuple[int, float] | None:
    """Attention head width and RoPE base, from the stored periods ``base ** (4 i / head_dim)``; None without periods.

    Raises:
        WeightsError: the periods follow another law.
    """
    periods = state.get("rope_embed.periods")
    if periods is None:
        return None
    values = periods.detach().to(torch.float64).flatten()
    count = max(values.numel(), 2)
    base = float(values[-1:].sum().clamp(min=1e-6) ** (count / (count - 1)))
    if abs(base - round(base)) <= 0.02 * base:  # they may be stored in bfloat16
        base = float(round(base))
    law = base ** (torch.arange(count, dtype=torch.float64) / count)
    if law.shape != values.shape or not torch.allclose(values, law, rtol=1e-2):
        raise WeightsError(
            f"{name}: tensor 'rope_embed.periods' is not base ** (i / {count}); transformers cannot run it"
        )
    return 4 * count, base


def infer_options(
    state: Mapping[str, Tensor], name: str, *, num_heads: int | None, rope: tuple[int, float] | None
) -> dict[str, Any]:
    """Keyword arguments of ``DINOv3ViTConfig`` for tensors under transformers' names (``model.layer.0``).

    Args:
        state: the tensors.
        name: the file, for errors.
        num_heads: attention heads; needed only where ``rope`` is None.
        rope: head width and RoPE base, from :func:`rope_of`.

    Raises:
        InputError: the number of heads is needed, or contradicts the tensors.
        WeightsError: a tensor from which a size is read is missing.
    """
    what, first = f"{name}: not a DINOv3 ViT checkpoint", "model.layer.0."
    dim, channels, patch, _ = require_tensor(state, _PATCHES, 4, what).shape
    gated = f"{first}mlp.gate_proj.weight" in state
    return {
        "patch_size": patch,
        "num_channels": channels,
        "hidden_size": dim,
        "intermediate_size": require_tensor(state, f"{first}mlp.up_proj.weight", 2, what).shape[0],
        "num_hidden_layers": len({key.split(".")[2] for key in state if key.startswith("model.layer.")}),
        "num_attention_heads": _count_heads(dim, num_heads, rope, name),
        "num_register_tokens": state["embeddings.register_tokens"].numel() // dim
        if "embeddings.register_tokens" in state
        else 0,
        "hidden_act": "silu" if gated else "gelu",
        "use_gated_mlp": gated,
        "layer_norm_eps": 1e-5,
        "rope_theta": 100.0 if rope is None else rope[1],
        "query_bias": f"{first}attention.q_proj.bias" in state,
        "key_bias": f"{first}attention.k_proj.bias" in state,
        "value_bias": f"{first}attention.v_proj.bias" in state,
        "proj_bias": f"{first}attention.o_proj.bias" in state,
        "mlp_bias": f"{first}mlp.up_proj.bias" in state,
    }


def _count_heads(dim: int, num_heads: int | None, rope: tuple[int, float] | None, name: str) -> int:
    heads = dim // rope[0] if rope else num_heads
    if not isinstance(heads, int):
        raise InputError(f"{name}: the number of attention heads cannot be read off its tensors; pass num_heads")
    if num_heads not in (None, heads):
        raise InputError(f"num_heads={num_heads}, but {name} says {heads}; leave num_heads out")
    width = rope[0] if rope else 4
    if heads < 1 or dim % heads or (dim // heads) % width:
        kind = WeightsError if rope else InputError
        raise kind(f"num_heads={heads} does not divide the width {dim} of {name} into multiples of {width}")
    return heads
