"""The miniature release of tests/golden/sattxt, as a caller of `convert` or a hub would hold it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sattxt.weights import dinov3_keys
from sattxt.weights.convert import convert
from sattxt.weights.tensors import read_checkpoint

GOLDEN = Path(__file__).parent / "golden" / "sattxt"
BACKBONE = GOLDEN / "dinov3_vit_tiny_pretrain_sat.pth"
VISION_HEAD = GOLDEN / "sattxt_vision_head.pt"
TEXT_HEAD = GOLDEN / "sattxt_text_head.pt"
LLM = GOLDEN / "llama"
#: Digest over the weights, adapters and tokenizer of the golden language model.
LLM_DIGEST = "7c11e025b9acd6e6fbd1d2191fd94bea12f19b4629014399fa8b231af2490408"
ADAPTERS = (GOLDEN / "llm2vec-mntp", GOLDEN / "llm2vec-mntp-unsup-simcse")


def convert_golden(out: Path, **changes: Any) -> Path:
    """The golden release converted to ``out``; ``changes`` replace arguments of ``convert``."""
    arguments: dict[str, Any] = {
        "dinov3": BACKBONE,
        "vision_head": VISION_HEAD,
        "text_head": TEXT_HEAD,
        "llm": LLM,
        "adapters": ADAPTERS,
    }
    return convert(**{**arguments, "out": out, **changes})


def write_transformers_checkpoint(folder: Path, *, nested: bool = False) -> Path:
    """The golden backbone as a transformers checkpoint: with the hub's names, or newer ones (``model.layer.0``)."""
    state = read_checkpoint(BACKBONE)
    rope = dinov3_keys.rope_of(state, "golden")
    state = dinov3_keys.from_meta(state, "golden")
    options = dinov3_keys.infer_options(state, "golden", num_heads=None, rope=rope)
    if not nested:
        state = {key.removeprefix("model."): value for key, value in state.items()}
    folder.mkdir(parents=True)
    save_file({key: value.clone() for key, value in state.items()}, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov3_vit", **options}))
    (folder / "preprocessor_config.json").write_text("{}")
    return folder


def write_heads(folder: Path) -> Path:
    """The folder that the release's own repository holds."""
    folder.mkdir(parents=True)
    for path in (VISION_HEAD, TEXT_HEAD):
        shutil.copy(path, folder / path.name)
    (folder / "README.md").write_text("---\nlicense: llama3\n---\n")
    return folder


def changed_checkpoint(source: Path, target: Path, **tensors: torch.Tensor) -> Path:
    """A copy of a pickle with some tensors replaced."""
    state = torch.load(source, weights_only=True)
    torch.save({**state, **tensors}, target)
    return target
