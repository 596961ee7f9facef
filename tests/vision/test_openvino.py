"""The image side by OpenVINO: against torch and the golden outputs, what a model ships, what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sattxt import SatTxt
from sattxt.errors import ChecksumError, InputError, MissingExtraError
from sattxt.vision import openvino
from sattxt.weights.checksums import write_sums


@pytest.fixture(scope="module")
def exported(tmp_path_factory, golden_model_dir: Path) -> Path:
    """The miniature release with an int8 form."""
    model = SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False)
    images = np.random.default_rng(0).integers(0, 256, (12, 48, 48, 3), dtype=np.uint8)
    return model.export_openvino(tmp_path_factory.mktemp("openvino") / "model", calibration=list(images))


@pytest.fixture(scope="module")
def int8(exported: Path) -> SatTxt:
    return SatTxt.from_pretrained(exported, backend="openvino", text_cache=False)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(axis=1)


@pytest.mark.parametrize("mode", ["official", "unit"])
def test_float32_gives_the_golden_outputs(golden_dir, golden_model_dir, mode) -> None:
    expected = load_file(golden_dir / "sattxt" / "expected.safetensors")
    model = SatTxt.from_pretrained(
        golden_model_dir, backend="openvino", dtype="float32", preprocess=mode, text_cache=False
    )
    names = json.loads((golden_dir / "sattxt" / "meta.json").read_text())["images"]
    images = [golden_dir / "sattxt" / "images" / name for name in names]
    embedded = model.encode_image(images, normalize=False)
    assert np.abs(np.asarray(embedded) - expected[f"image_embeds_{mode}"].numpy()).max() < 1e-4
    tokens = model.vision.tokens(model.vision.preprocess(images[:2]))
    assert (tokens.backbone[:, :16] - expected[f"backbone_patch_tokens_{mode}"]).abs().max() < 1e-4
    assert (tokens.patches[:, :16] - expected[f"head_patch_tokens_{mode}"]).abs().max() < 1e-4
    assert tokens.grid == (14, 14)


def test_float32_of_the_bundled_model(mini: SatTxt, tiles) -> None:
    model = SatTxt.from_pretrained(backend="openvino", dtype="float32", text_cache=False)
    assert (model.backend, model.dtype) == ("openvino", torch.float32)
    many = [np.roll(tile, shift, axis=0) for tile in tiles for shift in range(7)]  # several passes
    assert np.abs(mini.encode_image(many) - model.encode_image(many)).max() < 1e-5
    labels = ["water", "forest", "houses"]
    ours, theirs = (m.segment(np.tile(tiles[0], (2, 2, 1)), labels).scores for m in (model, mini))
    assert np.abs(ours - theirs).max() < 1e-5
    assert model.fingerprint == mini.fingerprint


def test_int8_is_near_float32_and_told_apart(exported, int8, model, tiles) -> None:
    assert (int8.backend, int8.dtype) == ("openvino", torch.int8)
    assert "dtype=int8, backend=openvino" in repr(int8)
    found = int8.encode_image(tiles)
    assert cosines(found, model.encode_image(tiles)).min() > 0.98
    assert np.abs(found[0] - int8.encode_image(tiles[0])).max() < 1e-6
    assert int8.fingerprint != SatTxt.from_pretrained(exported, dtype="float32", text_cache=False).fingerprint
    assert int8.vision.tokens(int8.vision.preprocess(tiles[0])).patches.dtype == torch.float32
    copied = pickle.loads(pickle.dumps(int8))
    assert np.array_equal(copied.encode_image(tiles), found)
    facts = json.loads((exported / "openvino" / "int8.json").read_text())
    assert facts["calibration"] == "12 given tiles"
    assert facts["cosine_with_float32"]["worst"] > 0.9


def test_a_saved_copy_keeps_the_form(exported, int8, tiles, tmp_path) -> None:
    saved = int8.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in (saved / "openvino").iterdir()) == ["int8.bin", "int8.json", "int8.xml"]
    again = SatTxt.from_pretrained(saved, dtype="int8", text_cache=False)
    assert again.fingerprint == int8.fingerprint
    assert np.array_equal(again.encode_image(tiles), int8.encode_image(tiles))


def test_the_compiled_model_is_kept_and_a_damaged_one_is_not_used(exported, tiles, tmp_path, monkeypatch) -> None:
    def embed() -> np.ndarray:
        return SatTxt.from_pretrained(exported, backend="openvino", text_cache=False).encode_image(tiles)

    first = embed()
    (kept,) = (tmp_path / "sattxt-cache" / "openvino").glob("*.blob")
    with monkeypatch.context() as patch:
        patch.setattr(openvino, "_graph", lambda form: pytest.fail("it was compiled again"))
        assert np.array_equal(embed(), first)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert np.array_equal(embed(), first)
    assert kept.read_bytes() != whole[:-1] + bytes([whole[-1] ^ 1])  # compiled again


def test_damaged_and_foreign_forms_are_refused(exported, int8, tmp_path) -> None:
    def changed(name: str) -> Path:
        return int8.save_pretrained(tmp_path / name)

    def open_it(path: Path) -> SatTxt:
        return SatTxt.from_pretrained(path, backend="openvino", text_cache=False)

    damaged = changed("damaged")
    (damaged / "openvino" / "int8.bin").write_bytes(b"other weights")
    with pytest.raises(ChecksumError, match=r"int8\.bin"):
        open_it(damaged)
    foreign = changed("foreign")
    facts = json.loads((foreign / "openvino" / "int8.json").read_text())
    (foreign / "openvino" / "int8.json").write_text(json.dumps({**facts, "vision_sha256": "0" * 64}))
    write_sums(foreign)
    with pytest.raises(ChecksumError, match="made of other weights"):
        open_it(foreign)
    unlisted = changed("unlisted")
    sums = (unlisted / "SHA256SUMS").read_text().splitlines(keepends=True)
    (unlisted / "SHA256SUMS").write_text("".join(line for line in sums if "openvino" not in line))
    with pytest.raises(ChecksumError, match="not listed"):
        open_it(unlisted)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backend": "onnx"}, "backend='onnx': pass one of 'auto', 'torch', 'openvino'"),
        ({"dtype": "int4"}, "'int8'"),
        ({"backend": "torch", "dtype": "int8"}, "pass backend='openvino'"),
        ({"backend": "openvino", "dtype": "bfloat16"}, "pass 'float32' or 'int8'"),
        ({"backend": "openvino", "preprocess": {"size": 208}}, "takes images of 224 pixels, not of 208"),
    ],
)
def test_what_cannot_be_is_said(exported, arguments, words) -> None:
    with pytest.raises(InputError, match=words):
        SatTxt.from_pretrained(exported, text_cache=False, **arguments)


def test_a_model_without_an_int8_form_says_how_to_make_one(golden_model_dir) -> None:
    with pytest.raises(InputError, match="sattxt optimize"):
        SatTxt.from_pretrained(golden_model_dir, dtype="int8", text_cache=False)
    made = SatTxt.from_pretrained(golden_model_dir, backend="openvino", text_cache=False)
    assert made.dtype == torch.float32


def test_a_missing_extra_is_named(exported, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sattxt\[openvino\]'"):
        SatTxt.from_pretrained(exported, backend="openvino", text_cache=False)


def test_it_does_not_move_to_a_gpu(int8) -> None:
    with pytest.raises(InputError, match="OpenVINO runs on the CPU"):
        int8.vision.to(torch.device("cuda"))


def test_drawn_tiles_calibrate(golden_model_dir, tmp_path, monkeypatch, tiles, model) -> None:
    monkeypatch.setattr("sattxt.vision.quantize.CALIBRATION_TILES", 8)
    path = model.export_openvino(tmp_path / "drawn")
    int8 = SatTxt.from_pretrained(path, dtype="int8", text_cache=False)
    assert cosines(int8.encode_image(tiles), model.encode_image(tiles)).min() > 0.95
    with pytest.raises(InputError, match="no images"):
        model.export_openvino(tmp_path / "none", calibration=[])


def test_float32_can_be_shipped(golden_model_dir, model, tmp_path, tiles, caplog) -> None:
    import logging

    path = model.export_openvino(tmp_path / "float32", quantize=None)
    shipped = SatTxt.from_pretrained(path, backend="openvino", text_cache=False)
    assert shipped.dtype == torch.float32
    logging.getLogger("sattxt").warning("the converter leaves logging as it was")
    assert "as it was" in caplog.text
    assert np.abs(shipped.encode_image(tiles) - model.encode_image(tiles)).max() < 1e-5
