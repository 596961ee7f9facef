"""Floating point operations of one image's pass, counted from a model's sizes (a multiply and an add are two).

Matrix products and convolutions only; norms, activations and softmax are under one per cent of a ViT-L.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sattxt.config import HeadConfig, VisionConfig


def transformer(tokens: int, dim: int, ffn: int, depth: int, *, gated: bool = False) -> float:
    """``depth`` blocks: four projections, two attention products, two (gated: three) maps of the feed-forward."""
    linear = 2.0 * tokens * (4 * dim * dim + (3 if gated else 2) * dim * ffn)
    attention = 4.0 * tokens * tokens * dim
    return depth * (linear + attention)


def patch_embedding(patches: int, patch: int, dim: int, channels: int = 3) -> float:
    """A convolution whose kernel and stride are the patch."""
    return 2.0 * patches * patch * patch * channels * dim


def vision_head(config: HeadConfig, tokens: int) -> float:
    """The vision head over ``tokens`` tokens."""
    embed = 2.0 * tokens * config.input_dim * config.dim if config.input_dim != config.dim else 0.0
    return embed + transformer(tokens, config.dim, config.ffn_dim, config.depth, gated=True)


def vision_tower(config: VisionConfig, size: int) -> float:
    """A VisionTower's pass over one (3, size, size) image."""
    backbone = config.backbone
    if backbone.model_type == "mobilenet_v1":
        operations, positions = _mobilenet(backbone.output_stride or 32, backbone.options, size)
        return operations + vision_head(config.head, positions + 1)
    options = backbone.options
    patch, dim = options["patch_size"], options["hidden_size"]
    patches = (size // patch) ** 2
    tokens = patches + 1 + options["num_register_tokens"]
    return (
        patch_embedding(patches, patch, dim)
        + transformer(
            tokens,
            dim,
            options["intermediate_size"],
            options["num_hidden_layers"],
            gated=bool(options.get("use_gated_mlp")),
        )
        + vision_head(config.head, tokens)
    )


def _mobilenet(output_stride: int, options: dict[str, float], size: int) -> tuple[float, int]:
    """Operations, and positions of the last feature map."""
    import torch

    from sattxt.vision.mobilenet import MobileNetV1

    with torch.device("meta"):
        network = MobileNetV1(output_stride=output_stride, **options)
    total, side = 0.0, size
    for layer in (network.conv_stem, *network.layer):
        convolution = layer.convolution
        side = -(-side // convolution.stride[0])
        kernel = convolution.kernel_size[0] ** 2 * convolution.in_channels // convolution.groups
        total += 2.0 * side * side * convolution.out_channels * kernel
    return total, side * side
