"""What a training step asks of the hardware: its precision, and memory that stays with the process."""

from __future__ import annotations

import ctypes
import sys
from typing import Literal, TypeAlias

import torch

from sattxt.vision.device import multiplies_bfloat16

#: ``auto``: bfloat16 where the hardware multiplies in it (elsewhere it is emulated, and far slower), else float32.
Precision: TypeAlias = Literal["auto", "bfloat16", "float32"]
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of mallopt(3)


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a forward pass on ``device`` runs."""
    enabled = precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for the next allocation, for the rest of the process; whether it does.

    glibc gives large blocks back to the system at once, and each new one comes as pages that the system has to clear.
    A training step on the CPU allocates the same gigabytes as the one before, and may spend half of its time so.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
