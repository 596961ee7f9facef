"""Does a model fit into memory? Asked before loading it, so that the answer is an error and not a killed process."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from sattxt.errors import NotEnoughMemoryError, WeightsError
from sattxt.io import first_line

#: Room for activations beside the weights.
_HEADROOM = 1.05
_UNKNOWN = 1 << 62


def weights_bytes(files: Sequence[Path], dtype: torch.dtype, *, skip: tuple[str, ...] = ()) -> int:
    """Bytes that the floating tensors of safetensors files take in ``dtype``, read from the files' headers.

    Tensors whose name starts with one of ``skip`` do not count.

    Raises:
        WeightsError: a file is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    numbers = 0
    for path in files:
        try:
            with safe_open(path, "pt") as stored:
                slices = [stored.get_slice(name) for name in stored.keys() if not name.startswith(skip)]  # noqa: SIM118
                numbers += sum(math.prod(part.get_shape()) for part in slices if "F" in part.get_dtype())
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path}: cannot be read as safetensors ({first_line(error)})") from error
    return numbers * dtype.itemsize


def available_bytes(device: torch.device, *, spread: bool = False) -> int:
    """Free memory of a device; ``spread``: of all CUDA devices and the CPU together."""
    if spread:
        cuda = sum(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
        return cuda + _cpu_available()
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return _cpu_available()


def require_memory(
    needed: int,
    device: torch.device,
    *,
    what: str,
    dtype: torch.dtype,
    spread: bool = False,
) -> None:
    """Raise :class:`NotEnoughMemoryError` with both figures unless ``needed`` bytes (and 5 %) are free."""
    needed = int(needed * _HEADROOM)
    free = available_bytes(device, spread=spread)
    if needed > free:
        where = "all devices together have" if spread else f"{device} has"
        raise NotEnoughMemoryError(
            f"{what} needs {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, {where} {free / 1e9:.1f} GB "
            "free; encode the labels on a larger machine with `sattxt labels build` and load that file here with "
            "`import_labels`"
        )


def _cpu_available() -> int:
    """What the system says is available, or the container's limit where that is less."""
    return min(_system_available(), _container_available())


def _system_available() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:  # macOS and others: all memory there is, which is better than no check
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN


def _container_available() -> int:
    """Limit of the control group (version 2) less what it uses, page cache not counted; huge where there is none."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        cached = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    except (OSError, ValueError):
        return _UNKNOWN
    return max(0, limit - max(0, used - cached))
