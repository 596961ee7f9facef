"""Figures of a model while it trains, and calibration on scores whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training_toy import Toy, to_pixels

from sattxt.training.validate import caption_recall, fit_logit_scale, fit_multi_label


def test_recall_counts_captions_that_tiles_share(tmp_path: Path) -> None:
    run = Toy(tmp_path)
    figures = caption_recall(
        run.model,
        run.sets[0],
        lambda texts: run.aligner.pooled[[run.aligner.book.row[text] for text in texts]],
        to_pixels,
        32,
        60,
    )
    assert set(figures) == {f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)} | {"recall"}
    assert figures["i2t_r10"] == 100  # nine captions in all
    assert figures["recall"] == pytest.approx(np.mean([v for k, v in figures.items() if k != "recall"]))


def test_calibration_finds_the_temperature_that_made_the_labels() -> None:
    torch.manual_seed(0)
    scores = torch.rand(4000, 5) - 0.5
    truth = torch.multinomial((12 * scores).softmax(1), 1)[:, 0]
    scored = [(scores, torch.zeros(4000, 2), truth)]
    assert fit_logit_scale(scored) == pytest.approx(12, rel=0.15)
    scale, _ = fit_multi_label(scored, 12.0)
    assert scale > 0
