"""The vision tower's parts: what the golden outputs do not reach."""

from __future__ import annotations

import pytest
import torch

from sattxt.config import BackboneConfig, HeadConfig, VisionConfig
from sattxt.errors import InputError, WeightsError
from sattxt.mobilenet import MobileNetV1
from sattxt.vision import VisionTower, build_backbone


def tower(stride: int = 16) -> VisionTower:
    torch.manual_seed(0)
    config = VisionConfig(
        BackboneConfig("mobilenet_v1", {"depth_multiplier": 0.25}, stride), HeadConfig(256, 32, 2, 4, 64)
    )
    return VisionTower(config)


def randomise_statistics(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)


def test_mobilenet_equals_the_transformers_model() -> None:
    from transformers import MobileNetV1Config, MobileNetV1Model

    torch.manual_seed(0)
    theirs = MobileNetV1Model(MobileNetV1Config(depth_multiplier=0.25)).eval()
    randomise_statistics(theirs)
    ours = MobileNetV1(0.25).eval()
    ours.load_state_dict(theirs.state_dict())
    for size in (64, 75, 96):
        x = torch.randn(2, 3, size, size)
        assert torch.allclose(ours(x), theirs(x).last_hidden_state, atol=1e-5)


@pytest.mark.parametrize(("stride", "side"), [(32, 3), (16, 6), (8, 12)])
def test_output_stride_sets_the_patch_grid(stride: int, side: int) -> None:
    tokens = tower(stride).eval()(torch.randn(1, 3, 96, 96))
    assert tokens.grid == (side, side)
    assert tokens.patches.shape == (1, side * side, 32)
    assert tokens.embedding.shape == (1, 64)


def test_folding_batch_norm_changes_nothing() -> None:
    model = tower()
    randomise_statistics(model)
    model.eval()
    x = torch.randn(3, 3, 64, 80)
    with torch.no_grad():
        before = model(x).embedding
        after = model.for_inference(torch.float32)(x).embedding
    assert torch.allclose(before, after, atol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())


def test_the_embedding_is_class_token_and_mean_patch() -> None:
    tokens = tower().eval()(torch.randn(2, 3, 64, 64))
    assert torch.equal(tokens.embedding[:, :32], tokens.cls)
    assert torch.allclose(tokens.embedding[:, 32:], tokens.patches.mean(1))


def test_patches_do_not_swap_rows_and_columns() -> None:
    """A bright square in the upper right must show in the upper right tokens."""
    model = tower().eval()
    dark = torch.zeros(1, 3, 128, 128)
    lit = dark.clone()
    lit[..., 16:48, 80:112] = 3.0
    change = (model(lit).backbone - model(dark).backbone).abs().sum(-1).reshape(8, 8)
    row, column = divmod(int(change.argmax()), 8)
    assert row < 4 <= column


def test_impossible_head_and_unknown_backbone_option() -> None:
    with pytest.raises(InputError, match="attention heads"):
        VisionTower(VisionConfig(BackboneConfig("mobilenet_v1"), HeadConfig(1024, 30, 1, 4, 64)))
    with pytest.raises(WeightsError, match=r"vision\.backbone\.options"):
        build_backbone(BackboneConfig("mobilenet_v1", {"depth": 3}))
