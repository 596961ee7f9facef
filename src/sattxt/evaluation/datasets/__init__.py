"""Labelled images, read in place from the layouts in which data sets are published."""

from __future__ import annotations

from sattxt.evaluation.datasets.base import Collection, EvalData, Sample
from sattxt.evaluation.datasets.registry import DATASETS, open_data

__all__ = ["DATASETS", "Collection", "EvalData", "Sample", "open_data"]
