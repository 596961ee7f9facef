"""Figures of a model while it trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training_toy import Toy, to_pixels

from sattxt.training.validate import caption_recall


def test_recall_counts_captions_that_tiles_share(tmp_path: Path) -> None:
    run = Toy(tmp_path)
    figures = caption_recall(
        run.model, run.sets[0], lambda texts: run.aligner.bank.vectors(run.aligner.bank.rows(texts)), to_pixels, 32, 60
    )
    assert set(figures) == {f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)} | {"recall"}
    assert figures["i2t_r10"] == 100  # nine captions in all
    assert figures["recall"] == pytest.approx(np.mean([v for k, v in figures.items() if k != "recall"]))
