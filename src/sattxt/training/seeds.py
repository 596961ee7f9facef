"""Random numbers that are a function of where a run stands, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What stage 2 draws for, the key after its seed: common to a step's ranks, a rank's own, BatchNorm statistics,
    views that are embedded once.
    """

    SHARED = 0
    OWN = 1
    NORMS = 2
    VIEWS = 3


def generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on ``key`` alone, e.g. (seed, step, rank). Similar keys give unrelated streams."""
    words = [part & 0xFFFF_FFFF_FFFF_FFFF for part in key]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))
