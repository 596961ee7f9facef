"""int8 packing: what comes back is close, what must be exact is exact, and damaged packs are refused."""

from __future__ import annotations

import pytest
import torch

from sattxt.errors import WeightsError
from sattxt.text.quantize import SCALE_SUFFIX, pack_int8, unpack_int8


def _state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(32, 64, generator=generator) * torch.logspace(-4, 2, 32)[:, None],
        "a.bias": torch.randn(32, generator=generator),
        "ids": torch.arange(5),
    }


def test_each_row_comes_back_within_one_percent_whatever_its_magnitude():
    state = _state()
    back = unpack_int8(pack_int8(state))["a.weight"]
    error = (back - state["a.weight"]).norm(dim=1) / state["a.weight"].norm(dim=1)
    assert back.dtype == torch.float32
    assert error.max() < 0.01


def test_vectors_and_integers_come_back_exactly():
    state = _state()
    back = unpack_int8(pack_int8(state))
    assert set(back) == set(state)
    assert torch.equal(back["a.bias"], state["a.bias"])
    assert torch.equal(back["ids"], state["ids"])


def test_a_matrix_takes_a_quarter_of_the_bytes_and_packing_is_deterministic():
    packed = pack_int8(_state())
    assert packed["a.weight"].dtype == torch.int8
    assert packed["a.weight" + SCALE_SUFFIX].shape == (32,)
    again = pack_int8(_state())
    assert all(torch.equal(packed[name], again[name]) for name in packed)


def test_the_chosen_scale_is_never_worse_than_the_largest_magnitude():
    weights = torch.randn(16, 200, generator=torch.Generator().manual_seed(1))
    weights[:, 0] = 8.0  # an outlier that costs every other value its precision
    back = unpack_int8(pack_int8({"w": weights}))["w"]
    scale = weights.abs().amax(dim=1, keepdim=True) / 127
    plain = (weights / scale).round() * scale
    assert ((back - weights) ** 2).sum() <= ((plain - weights) ** 2).sum()


def test_rows_of_zeros_and_of_tiny_values_stay_finite():
    weights = torch.stack([torch.zeros(8), torch.full((8,), 1e-44), torch.ones(8)])
    back = unpack_int8(pack_int8({"w": weights}))["w"]
    assert torch.isfinite(back).all()
    assert torch.equal(back[0], torch.zeros(8))
    assert torch.allclose(back[2], torch.ones(8), rtol=0.01)


def test_plain_float16_weights_pass_as_float32():
    back = unpack_int8({"w": torch.ones(2, 2, dtype=torch.float16)})
    assert back["w"].dtype == torch.float32


def test_nan_is_refused():
    with pytest.raises(WeightsError, match=r"w: NaN"):
        pack_int8({"w": torch.tensor([[float("nan"), 1.0]])})


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.pop("a.weight" + SCALE_SUFFIX),
        lambda p: p.pop("a.weight"),
        lambda p: p.update({"a.weight" + SCALE_SUFFIX: torch.ones(3)}),
    ],
    ids=["no scales", "no matrix", "wrong number of scales"],
)
def test_a_pack_that_does_not_fit_together_is_refused_by_name(damage):
    packed = pack_int8(_state())
    damage(packed)
    with pytest.raises(WeightsError, match=r"a\.weight"):
        unpack_int8(packed)
