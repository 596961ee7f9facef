"""Precision and memory of a training step."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sattxt.training import hardware


def test_auto_precision_is_bfloat16_only_where_the_hardware_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    for native in (True, False):
        monkeypatch.setattr(hardware, "multiplies_bfloat16", lambda _, native=native: native)
        with hardware.autocast("auto", device):
            assert torch.is_autocast_enabled("cpu") is native
        with hardware.autocast("float32", device):
            assert not torch.is_autocast_enabled("cpu")
        with hardware.autocast("bfloat16", device):
            assert torch.is_autocast_enabled("cpu")


def test_what_a_run_frees_it_keeps_for_the_next_step() -> None:
    """In a process of its own: the setting is the process's."""
    program = """
import resource, torch
from sattxt.training.hardware import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(25_000_000).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
without = faults()
done = keep_freed_memory()
faults()
print(int(done), without, faults())
"""
    out = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    done, without, kept = map(int, out.split())
    if done:  # glibc
        assert kept < without / 4
