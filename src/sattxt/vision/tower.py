"""The image side: a backbone, and the head that turns its tokens into an image embedding.

SATtxt (arXiv 2602.22613, section 3): H_v = G_v(E_rgb(x)), z_v = [H_cls ; mean(H_patch)], with E_rgb the backbone and
G_v a few transformer blocks over all of its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sattxt.config import BackboneConfig, HeadConfig, VisionConfig
from sattxt.errors import InputError, SatTxtError, WeightsError
from sattxt.io import first_line
from sattxt.vision.attention import Block
from sattxt.vision.mobilenet import MobileNetV1
from sattxt.weights.dinov3_keys import rename_layers
from sattxt.weights.tensors import check_tensors

#: What the widest layer's input and output may take together on a CPU: about half of a last-level cache. Beyond it a
#: layer reads from main memory what the one before wrote there, into pages fresh from the system (docs/benchmarks.md).
_CACHE_BYTES = 2**24


class ImageTokens(NamedTuple):
    """What the vision tower sees in a batch of N images, P patches each.

    backbone: (N, P, D_backbone) patch tokens of the frozen backbone after its final norm.
    cls: (N, D) class token after the head. patches: (N, P, D) patch tokens after the head, row-major.
    grid: patch rows and columns, ``rows * columns == P``.
    """

    backbone: Tensor
    cls: Tensor
    patches: Tensor
    grid: tuple[int, int]

    @property
    def embedding(self) -> Tensor:
        """(N, 2 D): [cls ; mean of the patch tokens], not normalised (SATtxt, section 3)."""
        return torch.cat([self.cls, self.patches.mean(dim=1)], dim=-1)


class VisionHead(nn.Module):
    """The projector G_v: (N, T, input_dim) tokens to (N, T, dim). Keys are the release's own."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        if config.dim % config.heads:
            raise InputError(f"head dim {config.dim} is not a multiple of its {config.heads} attention heads")
        self.embed = nn.Linear(config.input_dim, config.dim) if config.input_dim != config.dim else nn.Identity()
        self.blocks = nn.Sequential(*(Block(config.dim, config.heads, config.ffn_dim) for _ in range(config.depth)))
        self.ln_final = nn.LayerNorm(config.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Every token through embedding, blocks and final norm."""
        return self.ln_final(self.blocks(self.embed(tokens)))


class VisionTower(nn.Module):
    """Backbone and head: (N, 3, H, W) float pixel values to :class:`ImageTokens`."""

    backend = "torch"

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.head = VisionHead(config.head)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, in which the tower computes."""
        return self.head.ln_final.weight.dtype

    def activation_bytes(self, size: int) -> int:
        """Bytes of the input and output of the widest backbone layer for one (3, size, size) image."""
        if isinstance(self.backbone, MobileNetV1):
            values = self.backbone.widest(size)
        else:
            sizes: Any = self.backbone.config
            tokens = (size // sizes.patch_size) ** 2 + 1 + sizes.num_register_tokens
            values = tokens * (sizes.hidden_size + sizes.intermediate_size)
        return values * self.dtype.itemsize

    def images_per_pass(self, size: int, device: torch.device) -> int | None:
        """(3, size, size) images that one pass takes at most, whatever the batch; ``None``: a batch is one pass.

        On a CPU the largest power of two whose activations fit into the cache; and 8 at least, as fewer use the
        weights, once loaded, too little.
        """
        if device.type != "cpu":
            return None
        return max(8, 1 << (_CACHE_BYTES // self.activation_bytes(size)).bit_length() >> 1)

    def in_passes(self, pixel_values: Tensor) -> list[ImageTokens]:
        """The tokens of a batch (N, 3, S, S) of square images on any device, pass by pass."""
        device = self.head.ln_final.weight.device
        step = self.images_per_pass(pixel_values.shape[-1], device) or max(1, len(pixel_values))
        return [self(part.to(device)) for part in torch.split(pixel_values, step)]

    def forward(self, pixel_values: Tensor) -> ImageTokens:
        """Pixel values of any float dtype to tokens in the weights' dtype."""
        first, patches, grid = backbone_tokens(self.backbone, pixel_values.as_subclass(Tensor).to(self.dtype))
        hidden = self.head(torch.cat([first, patches], dim=1))
        return ImageTokens(patches, hidden[:, 0], hidden[:, first.shape[1] :], grid)

    def for_inference(self, dtype: torch.dtype) -> VisionTower:
        """This tower in eval mode, in ``dtype``, without gradients, laid out for speed.

        A MobileNet's BatchNorm is folded into its convolutions, and its first layers stay in float32.
        """
        self.eval().requires_grad_(False)
        self.head.to(dtype)
        if isinstance(self.backbone, MobileNetV1):
            self.backbone.fuse(dtype)
        else:
            self.backbone.to(dtype)
        return self


def load_tower(config: VisionConfig, state: Mapping[str, Tensor], where: object = "vision tower") -> VisionTower:
    """A tower that holds ``state``'s tensors themselves: no random weights are drawn first, nothing is copied.

    Args:
        config: of the tower.
        state: its tensors; layers may be named as in any transformers release.
        where: the file they come from, for errors.

    Raises:
        WeightsError: a tensor is missing, unknown, of another shape than the config says, or holds NaN or infinity; or
            the config makes no tower.
    """
    try:
        layers = max(config.head.depth, config.backbone.options.get("num_hidden_layers", 0))
        if layers > len(state):  # it would be built for hours, and take all memory
            raise WeightsError(f"{where}: holds {len(state)} tensors, its config asks for {layers} layers")
        with torch.device("meta"):
            tower = VisionTower(config)
    except SatTxtError:
        raise
    except Exception as error:  # transformers raises many kinds for options that make no model
        raise WeightsError(f"{where}: its config makes no vision tower ({first_line(error)})") from error
    own = tower.state_dict()
    state = rename_layers(state, own)
    check_tensors(state, {key: value.shape for key, value in own.items()}, where)
    tower.load_state_dict(state, assign=True)
    rope = getattr(tower.backbone, "rope_embeddings", None)
    if rope is not None:  # its frequencies are a buffer that no file holds
        tower.backbone.rope_embeddings = type(rope)(tower.backbone.config)
    return tower


def count_parameters(config: VisionConfig) -> int:
    """Of a tower of this config."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in VisionTower(config).parameters())


def build_backbone(config: BackboneConfig) -> nn.Module:
    """The backbone module with random weights.

    Raises:
        WeightsError: an option is not one that this kind of backbone takes.
    """
    try:
        if config.model_type == "mobilenet_v1":
            return MobileNetV1(output_stride=config.output_stride or 32, **config.options)
        from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
        from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

        known: Any = DINOv3ViTConfig()
        if unknown := sorted(set(config.options) - set(known.to_dict())):
            raise TypeError(f"unknown option {unknown[0]!r}")
        return DINOv3ViTModel(DINOv3ViTConfig(**config.options))
    except TypeError as error:
        raise WeightsError(f"config.json: vision.backbone.options for {config.model_type}: {error}") from error


def backbone_tokens(backbone: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Run a backbone: leading tokens (N, 1 + registers, D), patch tokens (N, P, D) row-major, and the patch grid.

    A convolutional backbone has no class token; the mean of its feature map stands in for it.
    """
    height, width = pixel_values.shape[-2:]
    if isinstance(backbone, MobileNetV1):
        features = backbone(pixel_values)
        patches = features.flatten(2).transpose(1, 2)
        return patches.mean(dim=1, keepdim=True), patches, (features.shape[-2], features.shape[-1])
    patch = backbone.config.patch_size
    hidden = backbone(pixel_values).last_hidden_state
    leading = 1 + backbone.config.num_register_tokens
    return hidden[:, :leading], hidden[:, leading:], (height // patch, width // patch)
