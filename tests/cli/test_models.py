"""``sattxt models``: the list, one model, and damage."""

from __future__ import annotations

import json

from cli_fakes import sattxt

from sattxt import SatTxt
from sattxt.config import BackboneConfig, HeadConfig, ImageConfig, ModelConfig, TextEncoderConfig, VisionConfig
from sattxt.vision import backend
from sattxt.weights.checksums import write_sums

MEASURE = backend._measure


def test_models_lists_what_exists(capsys):
    assert sattxt("models") == 0
    out = capsys.readouterr().out
    assert "sattxt-mini" in out
    assert "licences to accept: 2" in next(line for line in out.splitlines() if line.startswith("sattxt-vitl16"))
    assert sattxt("models", "--json") == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed["sattxt-mini"]["bundled"] is True
    assert listed["sattxt-vitl16"]["path"] is None
    assert 15e9 < listed["sattxt-vitl16"]["bytes"] < 20e9


def test_models_shows_licences_and_citation_of_one(capsys):
    assert sattxt("models", "sattxt-vitl16") == 0
    out = capsys.readouterr().out
    assert "DINOv3 License" in out
    assert "arXiv:2602.22613" in out
    assert sattxt("models", "satxt-mini") == 3
    assert "did you mean 'sattxt-mini'" in capsys.readouterr().err


def test_what_was_measured_here_is_told(golden_model_dir, capsys, monkeypatch):
    from sattxt.vision.backend import Choice

    choices = [Choice("torch", "float32"), Choice("torch", "bfloat16")]
    monkeypatch.setattr("sattxt.vision.backend._measure", MEASURE)
    monkeypatch.setattr("sattxt.vision.backend.list_choices", lambda *args, **given: choices)
    seconds = iter((0.004, 0.008))
    monkeypatch.setattr("sattxt.vision.backend._seconds", lambda tower, size: next(seconds))
    assert sattxt("models", golden_model_dir) == 0
    assert "measured here" not in capsys.readouterr().out
    SatTxt.from_pretrained(golden_model_dir, text_cache=False)
    assert sattxt("models", golden_model_dir) == 0
    assert "measured here  torch float32 250 images/s, torch bfloat16 125 images/s" in capsys.readouterr().out


def test_models_verify_finds_a_changed_file(tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    config = ModelConfig(
        name="little",
        embed_dim=4,
        image=ImageConfig(),
        vision=VisionConfig(BackboneConfig(), HeadConfig(2, 2, 1, 1, 4)),
        text=TextEncoderConfig("sentence", 8, "0" * 64),
        logit_scale=10.0,
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    for name in ("vision.safetensors", "text_head.safetensors"):
        (folder / name).write_bytes(b"weights")
    write_sums(folder)
    assert sattxt("models", folder, "--verify", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["verified"]) == ("little", True)
    (folder / "vision.safetensors").write_bytes(b"weighty")
    assert sattxt("models", folder, "--verify") == 3
    assert "vision.safetensors" in capsys.readouterr().out
