"""``sattxt segment``: its files and the shares it prints."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_fakes import sattxt
from PIL import Image

from sattxt.labels.prompts import TEMPLATES


def test_segment_writes_picture_map_and_scores_and_prints_shares(model, tiles, tmp_path, capsys):
    files = [tmp_path / name for name in ("map.png", "map.npy", "scores.npy")]
    arguments = [
        "segment",
        tiles / "night.png",
        "-l",
        "dark,bright",
        "-o",
        files[0],
        "--map",
        files[1],
        "--scores",
        files[2],
    ]
    assert sattxt(*arguments) == 0
    out = capsys.readouterr().out
    assert out.split()[2:6] == ["dark", "75.0", "%", "bright"]
    assert np.load(files[1]).shape == (2, 2)
    assert np.load(files[2]).shape == (2, 2, 2)
    with Image.open(files[0]) as picture:
        assert picture.format == "PNG"
    assert sattxt(*arguments) == 2
    assert "is there already" in capsys.readouterr().err
    assert sattxt(*arguments, "--json", "--overwrite") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["height"], answer["width"]) == (2, 2)
    assert answer["shares"] == {"dark": 0.75, "bright": 0.25}


def test_segment_averages_over_the_built_in_templates_when_asked(model, tiles, tmp_path):
    assert sattxt("segment", tiles / "night.png", "-l", "dark,bright", "--ensemble", "-o", tmp_path / "map.png") == 0
    assert model.label_options["templates"] == TEMPLATES["ensemble"]


@pytest.mark.parametrize("flags", [[], ["-o", "map.jpg"], ["--map", "nowhere/map.npy"]])
def test_segment_refuses_outputs_before_any_work(model, tiles, capsys, flags):
    assert sattxt("segment", tiles / "night.png", "-l", "dark,bright", *flags) == 2
    assert capsys.readouterr().err.startswith("sattxt: error: ")
    assert model.opened_with == {}
