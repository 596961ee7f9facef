"""The vision tower's parts: what the golden outputs do not reach."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sattxt.config import BackboneConfig, HeadConfig, VisionConfig
from sattxt.errors import InputError, WeightsError
from sattxt.vision.attention import Attention
from sattxt.vision.mobilenet import MobileNetV1
from sattxt.vision.tower import VisionTower, build_backbone, load_tower


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
        with torch.no_grad():
            assert torch.allclose(ours(x), theirs(x).last_hidden_state, atol=1e-5)


@pytest.mark.parametrize("train", [True, False], ids=["statistics of the batch", "statistics that stay"])
def test_mobilenet_learns_as_the_transformers_model(train: bool) -> None:
    from transformers import MobileNetV1Config, MobileNetV1Model

    torch.manual_seed(0)
    theirs = MobileNetV1Model(MobileNetV1Config(depth_multiplier=0.25)).double().train(train)
    randomise_statistics(theirs)
    ours = MobileNetV1(0.25).double().train(train)
    ours.load_state_dict(theirs.state_dict())
    for size in (64, 75, 90):
        x = torch.randn(3, 3, size, size, dtype=torch.float64)
        wanted = theirs(x).last_hidden_state
        weigh = torch.randn(wanted.shape, dtype=torch.float64)
        due = torch.autograd.grad((wanted * weigh).sum(), list(theirs.parameters()))
        found = torch.autograd.grad((ours(x) * weigh).sum(), list(ours.parameters()))
        for (name, _), mine, yours in zip(ours.named_parameters(), found, due, strict=True):
            assert torch.allclose(mine, yours, rtol=1e-6, atol=1e-8), (size, name)


def test_attention_is_the_same_with_and_without_a_gradient() -> None:
    torch.manual_seed(0)
    layer = Attention(32, 4)
    x = torch.randn(3, 17, 32)
    with torch.no_grad():
        plain = layer(x)
    assert layer(x).requires_grad
    assert torch.allclose(layer(x), plain, atol=1e-6)


def test_dark_even_tiles_keep_their_contrast_in_bfloat16_training() -> None:
    """The first layers compute in float32, as they do in inference: bfloat16 would round the contrast away."""
    model = tower().eval()
    x = -0.9 + 0.004 * torch.randn(4, 3, 64, 64)  # half a grey level of 255
    with torch.autocast("cpu", torch.bfloat16):
        first = model.backbone.conv_stem  # type: ignore[union-attr]
        seen = []
        handle = first.register_forward_hook(lambda _m, _x, out: seen.append(out.detach()))
        model(x)
        handle.remove()
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], first(x))


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


def test_a_config_of_more_layers_than_tensors_is_refused_at_once() -> None:
    config = tower().config
    with pytest.raises(WeightsError, match=r"holds 1 tensors, its config asks for 2147483648 layers"):
        load_tower(replace(config, head=replace(config.head, depth=2**31)), {"a": torch.zeros(1)})


def test_an_option_that_no_dinov3_takes_is_named() -> None:
    with pytest.raises(WeightsError, match="unknown option 'num_attention_headss'"):
        build_backbone(BackboneConfig("dinov3_vit", {"hidden_size": 32, "num_attention_headss": 2}))
