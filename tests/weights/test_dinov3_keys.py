"""DINOv3 checkpoints: every size is read off the tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from release_files import BACKBONE

from sattxt.errors import InputError, WeightsError
from sattxt.weights import dinov3_keys
from sattxt.weights.tensors import read_checkpoint


def meta(**changes: Any) -> dict[str, torch.Tensor]:
    return {**read_checkpoint(BACKBONE), **changes}


def options(state: dict[str, torch.Tensor], num_heads: int | None = None) -> dict[str, Any]:
    rope = dinov3_keys.rope_of(state, "x.pth")
    return dinov3_keys.infer_options(dinov3_keys.from_meta(state, "x.pth"), "x.pth", num_heads=num_heads, rope=rope)


def test_of_the_golden_backbone() -> None:
    found = options(meta())
    expected = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "patch_size": 16,
        "num_register_tokens": 4,
        "intermediate_size": 256,
        "rope_theta": 100.0,
        "key_bias": False,
        "use_gated_mlp": False,
    }
    assert {key: found[key] for key in expected} == expected


def test_rope_base_and_head_width_from_the_periods_even_in_bfloat16() -> None:
    periods = 10.0 ** (torch.arange(8) / 8)
    assert dinov3_keys.rope_of({"rope_embed.periods": periods}, "x") == (32, 10.0)
    assert dinov3_keys.rope_of({"rope_embed.periods": (100 ** (torch.arange(16) / 16)).bfloat16()}, "x") == (
        64,
        100.0,
    )
    with pytest.raises(WeightsError, match="periods"):
        dinov3_keys.rope_of({"rope_embed.periods": torch.linspace(1, 5, 8)}, "x")


def test_a_gated_mlp() -> None:
    state = meta()
    for layer in range(3):
        mlp = f"blocks.{layer}.mlp."
        for key in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
            del state[mlp + key]
        for name, shape in (("w1", (96, 64)), ("w2", (96, 64)), ("w3", (64, 96))):
            state[f"{mlp}{name}.weight"], state[f"{mlp}{name}.bias"] = torch.ones(shape), torch.zeros(shape[0])
    found = options(state)
    assert (found["use_gated_mlp"], found["intermediate_size"], found["hidden_act"]) == (True, 96, "silu")


def test_the_key_bias_is_kept_where_no_mask_removes_it() -> None:
    state = {key: value for key, value in meta().items() if not key.endswith("bias_mask")}
    for layer in range(3):
        state[f"blocks.{layer}.attn.qkv.bias"] = torch.ones(192)
    assert options(state)["key_bias"] is True


def test_heads_must_be_given_where_no_periods_are_and_must_agree_where_they_are() -> None:
    state = meta()
    with pytest.raises(InputError, match=r"num_heads=8, but x.pth says 4"):
        options(state, num_heads=8)
    del state["rope_embed.periods"]
    with pytest.raises(InputError, match="pass num_heads"):
        options(state)
    assert options(state, num_heads=4)["num_attention_heads"] == 4
    with pytest.raises(InputError, match="num_heads=5"):
        options(state, num_heads=5)
