"""Fixtures of the evaluation's tests."""

from __future__ import annotations

import pytest
from evaluation_fakes import ColourEncoder

from sattxt.evaluation.embeddings import Embedder


@pytest.fixture
def embed() -> Embedder:
    """Embeddings by colour, kept nowhere."""
    return Embedder(ColourEncoder(), cache=False)
