"""DINOv3 vision transformers: Meta's tensor names to those of transformers' ``DINOv3ViTModel``, and all sizes.

Meta's checkpoint fuses q, k and v, keeps the key bias at zero through a ``bias_mask``, calls the registers
``storage_tokens`` and stores the RoPE periods. transformers keeps q, k and v apart and has no key bias. Everything a
``DINOv3ViTConfig`` needs is read off the tensors (DINOv3, arXiv 2508.10104).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sattxt.errors import InputError, WeightsError

DEFAULT_ROPE_THETA = 100.0

#: Tensors of Meta's checkpoint that inference does not use.
_UNUSED = re.compile(r"^(local_cls_norm\.|rope_embed\.)")
_BLOCK = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
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
_TOP = {
    "cls_token": "embeddings.cls_token",
    "storage_tokens": "embeddings.register_tokens",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
_LAYER = re.compile(r"^(?:model\.)?layer\.")


def is_meta_layout(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of Meta's checkpoints."""
    return "patch_embed.proj.weight" in state


def from_meta(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Meta's state dict under transformers' names; ``name`` is the file, for errors.

    Raises:
        WeightsError: a tensor is missing, or one is there that this architecture does not have.
    """
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if _UNUSED.match(key):
            continue
        if key in _TOP:
            out[_TOP[key]] = tensor.reshape(1, 1, -1) if key == "mask_token" else tensor
            continue
        match = re.match(r"^blocks\.(\d+)\.(.+)$", key)
        if match is None:
            raise WeightsError(f"{name}: tensor {key!r} is not part of a DINOv3 ViT that transformers can run")
        layer, rest = f"model.layer.{match.group(1)}.", match.group(2)
        if rest in _BLOCK:
            out[layer + _BLOCK[rest]] = tensor
        elif rest == "attn.qkv.weight":
            _split(out, layer, "weight", tensor, f"{name}: tensor {key!r}")
        elif rest == "attn.qkv.bias":
            mask = state.get(f"{key}_mask")
            _split(out, layer, "bias", tensor if mask is None else tensor * mask, f"{name}: tensor {key!r}")
        elif rest != "attn.qkv.bias_mask":
            raise WeightsError(f"{name}: tensor {key!r} is not part of a DINOv3 ViT that transformers can run")
    dim = _need(out, "embeddings.patch_embeddings.weight", name).shape[0]
    out.setdefault("embeddings.mask_token", torch.zeros(1, 1, dim))  # of use in pretraining only
    out.setdefault("embeddings.register_tokens", torch.zeros(1, 0, dim))
    keys = [key for key in out if key.endswith("k_proj.bias")]
    if keys and not any(bool(out[key].any()) for key in keys):
        for key in keys:
            del out[key]
    return out


def from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of any transformers release (``layer.0`` or ``model.layer.0``) in their present form."""
    return {_LAYER.sub("model.layer.", key): tensor for key, tensor in state.items()}


def like(state: Mapping[str, Tensor], expected: set[str], prefix: str) -> dict[str, Tensor]:
    """``state`` with its layers named as in ``expected``, so that a stored model opens in any transformers release."""
    nested = any(key.startswith(f"{prefix}model.layer.") for key in expected)
    pattern = re.compile(rf"^{re.escape(prefix)}(?:model\.)?layer\.")
    wanted = f"{prefix}model.layer." if nested else f"{prefix}layer."
    return {pattern.sub(wanted, key): tensor for key, tensor in state.items()}


def rope_of(state: dict[str, Tensor], name: str) -> tuple[int, float] | None:
    """Attention head width and RoPE base, from the stored periods ``base ** (4 i / head_dim)``; None without periods.

    Raises:
        WeightsError: the periods follow another law.
    """
    periods = state.get("rope_embed.periods")
    if periods is None:
        return None
    values = periods.detach().to(torch.float64).flatten()
    count = values.numel()
    if count < 2:
        raise WeightsError(f"{name}: tensor 'rope_embed.periods' has {count} values, at least 2 are needed")
    exponents = torch.arange(count, dtype=torch.float64) / count
    base = float(values[-1].clamp(min=1e-6) ** (count / (count - 1)))
    if abs(base - round(base)) <= 0.02 * base:
        base = float(round(base))
    if not torch.allclose(values, base**exponents, rtol=1e-2):
        raise WeightsError(
            f"{name}: tensor 'rope_embed.periods' is not base ** (i / {count}); transformers cannot run it"
        )
    return 4 * count, base


def infer_options(
    state: dict[str, Tensor], name: str, *, num_heads: int | None, rope: tuple[int, float] | None
) -> dict[str, Any]:
    """Keyword arguments of ``DINOv3ViTConfig`` for tensors under transformers' names.

    Args:
        state: what :func:`from_meta` or :func:`from_transformers` returned.
        name: the file, for errors.
        num_heads: attention heads; needed only where ``rope`` is None.
        rope: head width and RoPE base, from :func:`rope_of`.

    Raises:
        InputError: the number of heads is needed, or contradicts the tensors.
        WeightsError: a tensor from which a size is read is missing.
    """
    patches = _need(state, "embeddings.patch_embeddings.weight", name)
    if patches.ndim != 4 or patches.shape[2] != patches.shape[3]:
        raise WeightsError(
            f"{name}: patch embedding has shape {tuple(patches.shape)}, (dim, 3, patch, patch) is needed"
        )
    dim = patches.shape[0]
    layers = {int(key.split(".")[2]) for key in state if key.startswith("model.layer.")}
    if layers != set(range(len(layers))) or not layers:
        raise WeightsError(f"{name}: its transformer layers are numbered {sorted(layers)}, 0, 1, 2, … is needed")
    first = "model.layer.0."
    registers = state.get("embeddings.register_tokens")
    gated = f"{first}mlp.gate_proj.weight" in state
    return {
        "patch_size": patches.shape[2],
        "num_channels": patches.shape[1],
        "hidden_size": dim,
        "intermediate_size": _need(state, f"{first}mlp.up_proj.weight", name).shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": _heads(dim, num_heads, rope, name),
        "num_register_tokens": 0 if registers is None else registers.shape[1],
        "hidden_act": "silu" if gated else "gelu",
        "use_gated_mlp": gated,
        "layer_norm_eps": 1e-5,
        "rope_theta": DEFAULT_ROPE_THETA if rope is None else rope[1],
        "query_bias": f"{first}attention.q_proj.bias" in state,
        "key_bias": f"{first}attention.k_proj.bias" in state,
        "value_bias": f"{first}attention.v_proj.bias" in state,
        "proj_bias": f"{first}attention.o_proj.bias" in state,
        "mlp_bias": f"{first}mlp.up_proj.bias" in state,
    }


def _heads(dim: int, num_heads: int | None, rope: tuple[int, float] | None, name: str) -> int:
    if rope is None and num_heads is None:
        raise InputError(f"{name}: the number of attention heads cannot be read off its tensors; pass num_heads")
    if num_heads is not None and (num_heads < 1 or dim % num_heads or (dim // num_heads) % 4):
        raise InputError(f"num_heads={num_heads} does not divide the width {dim} of {name} into multiples of 4")
    if rope is None:
        assert num_heads is not None  # the first test
        return num_heads
    if dim % rope[0]:
        raise WeightsError(
            f"{name}: width {dim} is no multiple of the head width {rope[0]} that its RoPE periods imply"
        )
    heads = dim // rope[0]
    if num_heads is not None and num_heads != heads:
        raise InputError(f"num_heads={num_heads}, but {name} says {heads}; leave num_heads out")
    return heads


def _split(out: dict[str, Tensor], layer: str, kind: str, fused: Tensor, where: str) -> None:
    if fused.shape[0] % 3:
        raise WeightsError(f"{where} has {fused.shape[0]} rows, a multiple of 3 is needed")
    for part, tensor in zip("qkv", fused.chunk(3), strict=True):
        out[f"{layer}attention.{part}_proj.{kind}"] = tensor.contiguous()


def _need(state: dict[str, Tensor], key: str, name: str) -> Tensor:
    if key not in state:
        raise WeightsError(f"{name}: not a DINOv3 ViT checkpoint, tensor {key!r} is missing")
    return state[key]
