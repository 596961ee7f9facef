"""The contrastive losses of stage 2, against their formulas, and a text head with the frozen encoder's geometry."""

from __future__ import annotations

import math

import pytest
import torch

from sattxt.errors import InputError
from sattxt.text.tower import TextHead
from sattxt.training.objectives.align.model import info_nce, make_isometric, positive_pairs


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def test_info_nce_of_one_pair_each_is_the_textbook_formula() -> None:
    torch.manual_seed(0)
    image, text, scale = unit(5, 8), unit(5, 8), torch.tensor(7.0)
    logits = scale * image @ text.T
    target = torch.arange(5)
    wanted = 0.5 * (
        torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
    )
    assert info_nce(image, text, scale, torch.eye(5, dtype=torch.bool)) == pytest.approx(float(wanted), abs=1e-6)


def test_info_nce_with_two_positives_shares_the_mass() -> None:
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    text = image.clone()
    loss = info_nce(image, text, torch.tensor(50.0), torch.ones(2, 2, dtype=torch.bool))
    assert float(loss) == pytest.approx(math.log(2), abs=1e-5)  # the best two equal targets allow


def test_texts_of_no_image_only_make_image_to_text_harder() -> None:
    torch.manual_seed(0)
    image, text, eye = unit(4, 8), unit(4, 8), torch.eye(4, dtype=torch.bool)
    plain = info_nce(image, text, torch.tensor(5.0), eye)
    further = torch.cat([text, unit(20, 8)])
    assert info_nce(image, further, torch.tensor(5.0), torch.eye(4, 24, dtype=torch.bool)) > plain


def test_positives_are_ones_own_texts_their_like_and_the_phrases_of_ones_class() -> None:
    vectors = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 0.01], [0, 0, 1.0], [1.0, 1.0, 1.0]]), dim=-1
    )
    own = torch.tensor([1, 3, 0])
    none = torch.full((5,), -1)
    plain = positive_pairs(vectors, own, 0.99, none[:3], none)
    assert plain.int().tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0]]
    groups = positive_pairs(vectors, own, 0.99, torch.tensor([5, 5, -1]), torch.tensor([-1, -1, -1, -1, 5]))
    assert groups.int().tolist() == [[0, 1, 1, 0, 1], [0, 0, 0, 1, 1], [1, 0, 0, 0, 0]]


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
