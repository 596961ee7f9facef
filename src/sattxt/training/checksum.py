"""A checksum of tensors: whether they are those that were there before."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of the values, in the order of their names."""
    check = 0
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous().reshape(-1)
        check = zlib.crc32(values.view(torch.uint8).numpy().data, check)
    return check
