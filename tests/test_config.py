"""config.json: what is not understood is an error that names the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sattxt.config import ImageConfig, ModelConfig, image_config
from sattxt.errors import InputError, WeightsError
from sattxt.weights.resolver import BUNDLED

MINI = BUNDLED / "sattxt-mini" / "config.json"


def change(**values: Any) -> dict[str, Any]:
    """The bundled model's config with keys replaced; ``image__size`` is a key of its block ``image``."""
    data: dict[str, Any] = json.loads(MINI.read_text(encoding="utf-8"))
    for key, value in values.items():
        block, _, name = key.rpartition("__")
        (data[block] if block else data)[name] = value
    return data


def test_what_is_written_is_read_back_equal() -> None:
    config = ModelConfig.read(MINI)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format_version": 99}, "format_version is 99, this sattxt reads 1"),
        ({"surprise": 1}, "unknown key 'surprise'; ModelConfig has backgrounds, embed_dim"),
        ({"image__surprise": 1}, "image: unknown key 'surprise'; ImageConfig has"),
        ({"image__size": "224"}, "image: size must be int, is str"),
        ({"image__size": True}, "image: size must be int, is bool"),
        ({"image__size": None}, "image: size must be int, is null"),
        ({"image__mean": [0.5, 0.5]}, "image: mean must have 3 values, has 2"),
        ({"image__mean": 0.5}, "image: mean must be list, is float"),
        ({"image__resample": "nearest"}, "image: resample is 'nearest'; one of 'bicubic', 'bilinear' is needed"),
        ({"vision": 3}, "vision: expected an object for VisionConfig, found int"),
        ({"vision": {"backbone": {}}}, "vision: .*'head'"),
        ({"logit_scale": "warm"}, "logit_scale must be float, is str"),
        ({"embed_dim": 100}, "embed_dim is 100, but twice the vision head's dim is"),
    ],
)
def test_what_is_not_understood_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=f"mine.json.*{message}"):
        ModelConfig.from_dict(change(**values), name="mine.json")


def test_whole_numbers_are_taken_for_floats_and_null_for_what_may_be_absent() -> None:
    config = ModelConfig.from_dict(change(logit_scale=20, multi_label_bias=None, text__base=None))
    assert (config.logit_scale, type(config.logit_scale)) == (20.0, float)
    assert (config.multi_label_bias, config.text.base) == (None, None)


def test_a_file_that_is_no_json_object(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(WeightsError, match=r"config.json: cannot be read"):
        ModelConfig.read(path)
    path.write_text("[1]")
    with pytest.raises(WeightsError, match=r"config.json: holds list, an object is needed"):
        ModelConfig.read(path)


def test_a_preset_or_single_values_change_an_image_config() -> None:
    base = ImageConfig(size=160, window=80)
    assert image_config(base, ImageConfig()) is base
    unit = image_config("unit", base)
    assert (unit.preset, unit.rescale, unit.size, unit.window) == ("unit", 1 / 255, 160, 80)
    assert image_config({"size": 320}, base) == ImageConfig(size=320, window=80)
    with pytest.raises(InputError, match=r"preprocess='offical': pass one of 'official', 'unit', 'dinov3-sat'"):
        image_config("offical", base)
    with pytest.raises(InputError, match=r"unknown keys \['gamma'\]; it takes \['mean', 'resample'"):
        image_config({"gamma": 2}, base)
    with pytest.raises(WeightsError, match="preprocess: mean must have 3 values"):
        image_config({"mean": [1.0]}, base)
