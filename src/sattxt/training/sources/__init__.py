"""Where training data come from: the data sets of a recipe, opened by their kind."""

from __future__ import annotations

from sattxt.training.sources.registry import PAIR_KINDS, TILE_KINDS, describe, open_pairs, open_set

__all__ = ["PAIR_KINDS", "TILE_KINDS", "describe", "open_pairs", "open_set"]
