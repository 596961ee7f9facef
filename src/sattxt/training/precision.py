"""In which precision the student runs while it trains; weights, losses and the optimiser are always float32."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from sattxt.vision.device import multiplies_bfloat16

#: ``auto``: bfloat16 where the hardware multiplies in it (elsewhere it is emulated, and far slower), else float32.
Precision: TypeAlias = Literal["auto", "bfloat16", "float32"]


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a forward pass on ``device`` runs."""
    enabled = precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
