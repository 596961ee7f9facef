"""A text head that starts with the frozen encoder's own geometry."""

from __future__ import annotations

import pytest
import torch

from sattxt.errors import InputError
from sattxt.text.tower import TextHead
from sattxt.training.objectives.align.model import make_isometric


def test_an_isometric_text_head_keeps_what_the_frozen_encoder_holds_alike() -> None:
    torch.manual_seed(0)
    pooled, head = torch.randn(200, 24) + 2 * torch.randn(24), TextHead(24, 32)
    make_isometric(head, pooled)
    centred = torch.nn.functional.layer_norm(pooled, (24,))
    centred = centred - centred.mean(0)
    ours, wanted = (torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") for x in (head(pooled), centred))
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="the shared space has 16 dimensions, 24 are due"):
        make_isometric(TextHead(24, 16), pooled)
