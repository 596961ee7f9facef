"""What each of two processes runs that torchrun starts in test_ranks.py: ``ranks_job.py FOLDER``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from training_toy import Toy, to_pixels

from sattxt.training.loop import LoopOptions
from sattxt.training.ranks import rank

HEAD_ONLY = {"steps": 4, "freeze_backbone": True, "warmup": 1, "clip_norm": 1e9, "accumulate": 2}
WHOLE = {"steps": 4, "warmup": 1}


def fitted(out: Path, **options: object) -> Toy:
    """A run whose BatchNorms fit its tiles: else all tokens are alike, and gradients of queries and keys are rounding
    that Adam blows up.
    """
    run = Toy(out, **options)
    run.model.vision.to(memory_format=torch.channels_last)  # as runs of a recipe have it
    backbone, threads = run.model.vision.backbone.train(), torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun has it: the statistics must be the same bits in every process
    for _ in range(50):
        backbone(to_pixels(run.sets[0].take(torch.arange(60)).float() / 255))
    torch.set_num_threads(threads)
    return run


def stop_once(step: int, row: dict[str, float]) -> None:
    """Ask process 0 to stop after step 2."""
    if step == 2:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    assert fitted(out / "head", **HEAD_ONLY).train(LoopOptions(log_every=1)) == 4
    for name, shard in (("copies", False), ("shards", True)):
        assert fitted(out / name, **WHOLE).train(LoopOptions(log_every=1, shard=shard)) == 4
    options = LoopOptions(log_every=1, shard=True)
    assert fitted(out / "stopped", **WHOLE).train(options, progress=stop_once) == 2
    run = fitted(out / "stopped", **WHOLE)
    assert run.resume() == 2
    assert run.train(options) == 4
    print("rank", rank(), "is done")
