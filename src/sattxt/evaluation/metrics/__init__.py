"""The figures, in numpy: each function takes arrays and gives numbers, and knows nothing of models or files."""

from __future__ import annotations

from sattxt.evaluation.metrics.bootstrap import Figure, interval, paired_difference
from sattxt.evaluation.metrics.classification import (
    Confusion,
    balanced_accuracy,
    confusion_matrix,
    expected_calibration_error,
    softmax,
    top_k_hits,
)
from sattxt.evaluation.metrics.dense import intersection_union, mean_iou, r2_score
from sattxt.evaluation.metrics.multilabel import (
    average_precision,
    best_threshold,
    f1_scores,
    label_ranking_precision,
    mean_average_precision,
)
from sattxt.evaluation.metrics.retrieval import average_precision_at_k, recall_at_k

__all__ = [
    "Confusion",
    "Figure",
    "average_precision",
    "average_precision_at_k",
    "balanced_accuracy",
    "best_threshold",
    "confusion_matrix",
    "expected_calibration_error",
    "f1_scores",
    "intersection_union",
    "interval",
    "label_ranking_precision",
    "mean_average_precision",
    "mean_iou",
    "paired_difference",
    "r2_score",
    "recall_at_k",
    "softmax",
    "top_k_hits",
]
