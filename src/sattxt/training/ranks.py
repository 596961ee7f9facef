"""Where a run computes: several processes that train as one, their precision, memory and signals.

The processes are started by torchrun; every function also works in a process on its own.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from types import FrameType
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sattxt.vision.device import multiplies_bfloat16, resolve_device

#: ``auto``: bfloat16 where the hardware multiplies in it (elsewhere it is emulated, and far slower), else float32.
Precision: TypeAlias = Literal["auto", "bfloat16", "float32"]
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of mallopt(3)
#: How long the processes wait for one of them, which may be validating.
_PATIENCE = timedelta(hours=2)


def launched() -> bool:
    """Whether torchrun started this process."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def rank() -> int:
    """The number of this process, from 0; process 0 writes files and logs."""
    return int(os.environ["RANK"]) if launched() else 0


def ranks() -> int:
    """How many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def join() -> torch.device:
    """Join the other processes, once; returns this process's device, its own GPU where there are any."""
    device = resolve_device(None)
    if launched() and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        atexit.register(dist.destroy_process_group)
    return device


def wait() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def gather(own: Tensor) -> Tensor:
    """(n, ...) of this process to (ranks * n, ...) of all, in the order of their numbers, with gradient."""
    gathered: Tensor = _Gather.apply(own) if dist.is_initialized() else own  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """All processes' tensors end to end. Backward: the sum over processes of the gradient of this one's part."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(ranks())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may hand it to others too
        dist.all_reduce(gradient)
        return gradient.chunk(ranks())[rank()]


def mean(own: Tensor) -> Tensor:
    """(...): the mean of (n, ...) over its rows and all processes, which have as many."""
    return gather(own.mean(dim=0, keepdim=True)).mean(dim=0)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set in any process."""
    return bool(gather(torch.tensor([flag], device=device)).any())


def connect(module: nn.Module, device: torch.device, *, shard: bool) -> nn.Module:
    """``module`` on ``device``, with the gradients of all processes.

    Args:
        shard: keep a part of every parameter in each process (FSDP), else all of them in each (DDP). The blocks of a
            module list are gathered one at a time, all else together.
    """
    if not shard:
        module = module.to(device)
        return DistributedDataParallel(module) if dist.is_initialized() else module
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # shards take no other
    mesh = init_device_mesh(device.type, (ranks(),))
    for blocks in reversed([part for part in module.modules() if isinstance(part, nn.ModuleList)]):  # inner ones first
        for block in blocks:
            fully_shard(block, mesh=mesh)  # goes to the device a block at a time
    fully_shard(module, mesh=mesh)
    return module


def gradients_of(network: nn.Module, last: bool) -> AbstractContextManager[None]:
    """For a micro-batch: only after the ``last`` one of a step do copies of a model need each other's gradients."""
    return nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync()


def whole(tensor: Tensor) -> Tensor:
    """A parameter in its own shape; every process must ask for a sharded one."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


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


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether SIGTERM or Ctrl-C came. A second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        sys.stderr.write("\nsattxt: stopping after this step, with a checkpoint (Ctrl-C again: at once, without)\n")

    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM) if here}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
