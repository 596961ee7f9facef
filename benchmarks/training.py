"""A step of stage 2's image side, forward and backward, against the same network built of stock modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.settings import Result, Settings
from benchmarks.timing import Case, alternate, speedup
from sattxt.config import BackboneConfig, HeadConfig, VisionConfig
from sattxt.training.ranks import autocast, keep_freed_memory
from sattxt.vision.tower import VisionTower

_STOCK = "stock modules"


class _Stock(nn.Module):
    """transformers' MobileNet-v1, stride 16, and torch's own transformer layers of the head's sizes."""

    def __init__(self, head: HeadConfig, depth_multiplier: float) -> None:
        super().__init__()
        from transformers import MobileNetV1Config, MobileNetV1Model

        self.backbone = MobileNetV1Model(MobileNetV1Config(depth_multiplier=depth_multiplier), add_pooling_layer=False)
        for module in self.backbone.layer.modules():  # stride 16: its last stride becomes 1
            if isinstance(module, nn.Conv2d) and (module.in_channels, module.stride) == (head.input_dim // 2, (2, 2)):
                module.stride = (1, 1)
        self.embed = nn.Linear(head.input_dim, head.dim)
        wide = 3 * head.ffn_dim // 2  # as many weights as SwiGLU's three matrices
        self.blocks = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(head.dim, head.heads, wide, 0.0, "gelu", batch_first=True, norm_first=True),
            head.depth,
            enable_nested_tensor=False,
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) to (N, 2 dim)."""
        features = self.backbone(pixels).last_hidden_state.flatten(2).transpose(1, 2)
        tokens = self.blocks(self.embed(torch.cat([features.mean(dim=1, keepdim=True), features], dim=1)))
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=-1)


def run(**arguments: Any) -> dict[str, Any]:
    """All of it, as a :class:`Result` in JSON form."""
    settings = Settings(**arguments)
    machine.apply_threads(settings.threads)
    result, device = Result("training", settings.device), torch.device(settings.device)
    multiplier = settings.pick(1.0, 1.0, 0.25)
    width = int(1024 * multiplier)
    head = settings.pick(
        HeadConfig(width, 320, 2, 5, 896), HeadConfig(width, 320, 2, 5, 896), HeadConfig(width, 16, 1, 2, 32)
    )
    torch.manual_seed(0)
    stock = _Stock(head, multiplier)
    options = {"depth_multiplier": multiplier}
    towers = [VisionTower(VisionConfig(BackboneConfig("mobilenet_v1", options, 16), head)) for _ in range(2)]
    for norm in (m for m in towers[1].modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eval()
    models: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {
        _STOCK: (stock, stock),
        "ours, statistics of the batch": (towers[0], lambda x: towers[0](x).embedding),
        "ours, norms keep their statistics": (towers[1], lambda x: towers[1](x).embedding),
    }
    for model, _ in models.values():
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch, sizes = settings.pick(160, 64, 2), settings.pick((64, 96, 112), (96,), (32,))
    memories = ["as the C library has it"]
    rows: list[dict[str, Any]] = []
    bars: dict[str, float] = {}
    for turn in range(2):
        if turn == 1:
            if device.type != "cpu" or not keep_freed_memory():
                break
            memories.append("freed memory is kept")
        for size in sizes:
            pixels = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
            cases = {name: Case(_step(embed, pixels), batch) for name, (_, embed) in models.items()}
            series = alternate(
                cases,
                rounds=settings.pick(5, 3, 1),
                budget=settings.budget,
                sync=machine.synchroniser(settings.device),
            )
            for name, measured in series.items():
                rows.append(
                    {
                        "pixels": size,
                        "memory": memories[turn],
                        "case": name,
                        "tiles/s": measured.rate,
                        f"× {_STOCK}": speedup(series[_STOCK], measured),
                        "spread": measured.spread,
                    }
                )
                bars[f"{name}, {memories[turn]}, {size} px"] = measured.rate
    result.tables[f"Forward and backward of the image side, batches of {batch}"] = rows
    largest = f"{sizes[-1]} px"
    result.panel(
        f"Training, image side at {largest}, {settings.device}",
        "tiles/s",
        [(name.removesuffix(f", {largest}"), rate) for name, rate in bars.items() if name.endswith(largest)],
    )
    result.notes.append("training: the loss is a mean of squares; texts, augmentation and the optimiser are left out")
    return result.to_dict()


def _step(embed: Callable[[Tensor], Tensor], pixels: Tensor) -> Callable[[], None]:
    def step() -> None:
        with autocast("auto", pixels.device):
            image = embed(pixels)
        F.normalize(image.float(), dim=-1).square().mean().backward()  # type: ignore[no-untyped-call]

    return step
