"""The machine a figure was measured on, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.timing import Case

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_PACKAGES = ("torch", "transformers", "numpy", "pillow", "safetensors", "open_clip_torch")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")


def facts(device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """Machine class, date and versions: enough to tell which figures may be compared, nothing that names a host."""
    import torch

    import sattxt

    apply_threads(threads)
    found: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "cpu": _cpu_name(),
        "cpu_family": _cpu_info("cpu family"),
        "cores": usable_cores(),
        "machine_class": machine_class(instructions()),
        "instructions": instructions(),
        "bfloat16": "native" if bfloat16_is_native("cpu") else "emulated",
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sattxt": sattxt.__version__,
        "torch_threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_memory_gb"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
    return found


def instructions() -> list[str]:
    """Of the instruction sets that matter for matrix products, those of this CPU."""
    known = _cpu_info("flags").split()
    return [flag for flag in _FLAGS if flag in known]


def machine_class(flags: list[str]) -> str:
    """The one word that decides which figures of other machines a CPU's may be compared with."""
    for flag, name in (
        ("amx_bf16", "AMX"),
        ("avx512_bf16", "AVX512-bf16"),
        ("avx512f", "AVX512"),
        ("avx2", "AVX2"),
    ):
        if flag in flags:
            return name
    return "none of AVX2, AVX512 and AMX"


def bfloat16_is_native(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices itself; else they are not measured, they would take hours."""
    import torch

    from sattxt.vision.device import multiplies_bfloat16

    return multiplies_bfloat16(torch.device(device))


def without_bfloat16(device: str) -> str:
    """Why rows of bfloat16 are missing."""
    return (
        f"bfloat16 is not measured: this {device} ({machine_class(instructions())}) has no bfloat16 instructions and "
        "emulates them, over a hundred times slower than float32"
    )


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def apply_threads(threads: int | None) -> None:
    """Set torch's number of threads, where one is asked for."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def synchroniser(device: str) -> Callable[[], object] | None:
    """What waits for the device's queue."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else None


def matmul_case(device: str, dtype: torch.dtype, *, side: int) -> tuple[Case, float]:
    """A square matrix product of the given side as a case, and its floating point operations.

    It is the yardstick for "share of the hardware": a square product large enough is the fastest that the installed
    libraries multiply on this machine.
    """
    import torch

    a = torch.randn(side, side).to(device=device, dtype=dtype)
    b = torch.randn(side, side).to(device=device, dtype=dtype)
    out = torch.empty(side, side, device=device, dtype=dtype)

    def run() -> None:
        with torch.inference_mode():
            torch.matmul(a, b, out=out)

    return Case(run), 2.0 * side**3


def peak_bytes() -> int:
    """The most memory this process has held, in bytes.

    On Linux from /proc, which counts since the process became this program; ``getrusage`` would also count what its
    parent held when it was started.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_info(key: str) -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.split(":")[0].strip() == key:
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
