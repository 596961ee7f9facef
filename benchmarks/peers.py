"""What ours is compared with: the reference's architecture written plainly, and a CLIP image tower."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.flops import patch_embedding, transformer
from benchmarks.models import fill, without_init
from sattxt.config import HeadConfig, VisionConfig

CLIP_SIZES = {"dim": 1024, "ffn": 4096, "depth": 24, "heads": 16, "patch": 14, "out": 768}
CLIP_TINY = {"dim": 64, "ffn": 128, "depth": 2, "heads": 4, "patch": 16, "out": 32}


class PlainBlock(nn.Module):
    """A block of the reference's vision head."""

    def __init__(self, dim: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-5), nn.LayerNorm(dim, eps=1e-5)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim, bias=False), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"w1": nn.Linear(dim, ffn), "w2": nn.Linear(dim, ffn), "w3": nn.Linear(ffn, dim)})
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": nn.Parameter(torch.ones(dim))}) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, dim) to the same."""
        parts = self.attn["qkv"](self.norm1(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.attn["proj"](mixed) * self.ls1["gamma"]
        y = self.norm2(x)
        return x + self.mlp["w3"](F.silu(self.mlp["w1"](y)) * self.mlp["w2"](y)) * self.ls2["gamma"]


class PlainHead(nn.Module):
    """The reference's vision head."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        blocks = (PlainBlock(config.dim, config.heads, config.ffn_dim) for _ in range(config.depth))
        self.blocks = nn.Sequential(*blocks)
        self.ln_final = nn.LayerNorm(config.dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, dim) to the same."""
        normalised: Tensor = self.ln_final(self.blocks(x))
        return normalised


class Reference(nn.Module):
    """The reference's image side in float32: transformers' DINOv3 and the head, nothing else.

    Takes (N, 3, S, S) float32 pixel values, gives (N, 2 D): [cls ; mean(patch)], as the release's own code does.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
        from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

        self.backbone = DINOv3ViTModel(DINOv3ViTConfig(**config.backbone.options))
        self.head = PlainHead(config.head)
        self.eval().requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N, 2 D), not normalised."""
        x = self.head(self.backbone(pixel_values).last_hidden_state)
        leading = 1 + self.backbone.config.num_register_tokens
        return torch.cat([x[:, 0], x[:, leading:].mean(dim=1)], dim=-1)


class _TransformersClip(nn.Module):
    def __init__(self, sizes: dict[str, int], pixels: int) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        config = CLIPVisionConfig(
            hidden_size=sizes["dim"],
            intermediate_size=sizes["ffn"],
            num_hidden_layers=sizes["depth"],
            num_attention_heads=sizes["heads"],
            patch_size=sizes["patch"],
            image_size=pixels,
            projection_dim=sizes["out"],
        )
        self.model = CLIPVisionModelWithProjection(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        embeds: Tensor = self.model(pixel_values).image_embeds
        return embeds


def clip_tower(size: str, pixels: int) -> tuple[nn.Module, str, float]:
    """A CLIP ViT-L/14 image tower with random weights, what it is, and its operations for one image.

    open_clip's where it can be imported (it needs torchvision), else transformers', which is the same architecture.
    """
    torch.manual_seed(0)
    sizes = CLIP_TINY if size == "tiny" else CLIP_SIZES
    patches = (pixels // sizes["patch"]) ** 2
    operations = (
        patch_embedding(patches, sizes["patch"], sizes["dim"])
        + transformer(patches + 1, sizes["dim"], sizes["ffn"], sizes["depth"])
        + 2.0 * sizes["dim"] * sizes["out"]
    )
    tower: nn.Module
    name = "open_clip ViT-L-14"
    try:
        if size == "tiny":
            raise ImportError("no open_clip model is that small")
        import open_clip  # type: ignore[import-not-found, unused-ignore]

        tower = open_clip.create_model("ViT-L-14").visual
    except (ImportError, RuntimeError, OSError) as error:
        name = f"transformers CLIPVisionModel, ViT-L/14 sizes (open_clip: {str(error).splitlines()[0][:80]})"
        tower = without_init(lambda: _TransformersClip(sizes, pixels))
        fill(tower)
    return tower.eval().requires_grad_(False), name, operations
