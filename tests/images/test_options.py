"""Options of images are checked when they are made."""

from __future__ import annotations

import numpy as np
import pytest

from sattxt.errors import InputError
from sattxt.images.options import ImageOptions, merge_options


@pytest.mark.parametrize(
    "bad",
    [
        {"stretch": "linear"}, {"stretch": (5, 5)}, {"stretch": (9, 1)}, {"stretch": (0, float("nan"))}, {"stretch": 3},
        {"bands": "B04"}, {"bands": (1, 2)}, {"bands": (0, 1, 2)}, {"bands": (1.0, 2.0, 3.0)}, {"bands": 4},
        {"channels": "middle"}, {"value_range": "0-2"}, {"value_range": "0-1", "stretch": "percentile"},
        {"value_range": "0-10000"}, {"value_range": "0-255", "stretch": "sentinel2"},
        {"offset": "yes"}, {"offset": 1000}, {"offset": True}, {"band_names": "B04"}, {"max_pixels": 0},
    ],
)  # fmt: skip
def test_options_are_checked_when_made(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))) as error:
        ImageOptions(**bad)
    assert "\n" not in str(error.value)


def test_what_is_given_is_kept_in_plain_types() -> None:
    options = ImageOptions(stretch=[0, 2750], bands=np.array([4, 3, 2]), band_names=["a", "b"], offset=None)
    assert options == ImageOptions(stretch=(0.0, 2750.0), bands=(4, 3, 2), band_names=("a", "b"), offset=None)
    assert [type(band) for band in options.bands] == [int] * 3


def test_keyword_arguments_replace_single_options() -> None:
    given = ImageOptions(stretch="sentinel2", bands=(4, 3, 2))
    assert merge_options({"options": given, "offset": 1000}) == ImageOptions("sentinel2", (4, 3, 2), offset=1000)
    assert merge_options({"options": None}) == ImageOptions()
    with pytest.raises(InputError, match="unknown option 'strech'; images take band_names, bands, channels"):
        merge_options({"strech": "sentinel2"})
