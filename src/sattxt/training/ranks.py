"""Several processes that train as one, started by torchrun: every function also works in a process on its own."""

from __future__ import annotations

import atexit
import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sattxt.errors import InputError
from sattxt.vision.device import resolve_device

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


def check_shard(shard: bool) -> None:
    """Raise InputError where a model cannot be sharded."""
    if shard and not launched():
        raise InputError("shard: there is one process; start several: torchrun --nproc-per-node 2 -m -- sattxt train")
    if shard and not hasattr(torch.distributed.fsdp, "fully_shard"):
        raise InputError(f"shard: needs torch 2.6 or later, this is {torch.__version__}")


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
