"""Which device and which precision a model runs in, and how much memory there is for it."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from sattxt.errors import InputError

if hasattr(
    os, "register_at_fork"
):  # the threads that torch computes with do not survive a fork: it would wait for ever
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))

#: Precisions that torch runs in.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; CUDA where there is one if none is.

    Raises:
        InputError: it is no device, or not one of this machine's.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device={device!r} is no device; pass 'cpu', 'cuda' or 'cuda:0'") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device={device!r}: this machine has {torch.cuda.device_count()} CUDA devices; pass 'cpu'")
    return chosen


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The precision asked for; ``"auto"``: bfloat16 where the hardware multiplies in it, else float32."""
    name = str(dtype).removeprefix("torch.")
    if name == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise InputError(f"dtype={dtype!r}: pass 'auto', {', '.join(map(repr, DTYPES))}")
    return DTYPES[name]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are native: CUDA from Ampere on, CPUs with AMX-bf16 or AVX512-bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)


def available_bytes(device: torch.device, *, spread: bool = False) -> int:
    """Free memory of a device; ``spread``: of all CUDA devices and the CPU together."""
    if device.type == "cuda" and not spread:
        return int(torch.cuda.mem_get_info(device)[0])
    cuda = sum(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())) if spread else 0
    # The least of what the system says is available, all memory there is, and what the container's limit leaves.
    found = [1 << 62]
    with suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError, KeyError):  # Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(1024 * int(dict(line.split()[:2] for line in lines)["MemAvailable:"]))
    with suppress(OSError, ValueError, KeyError):  # control groups, version 2; the page cache is not counted as used
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        cached = int(stat["inactive_file"]) + int(stat["active_file"])
        found.append(max(0, limit - max(0, used - cached)))
    return cuda + min(found)
