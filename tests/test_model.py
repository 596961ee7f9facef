"""Opening a model, texts, label banks, files: what a user of `SatTxt` notices. On the miniature release."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sattxt import LabelBank, SatTxt, TextCache
from sattxt.errors import (
    BankMismatchError,
    InputError,
    TextEncoderUnavailableError,
    UnknownModelError,
    WeightsError,
)
from sattxt.text.encoder import fingerprint
from sattxt.vision.tower import load_tower
from sattxt.weights.checksums import write_sums
from sattxt.weights.directory import read_model

LABELS = ["forest", "river", "city"]


def test_text_shapes_and_cache(golden_model_dir: Path, tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "text.sqlite3")
    model = SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=cache)
    one = model.encode_text("a river")
    assert one.shape == (model.embed_dim,)
    assert np.allclose(model.encode_text(["a river", "a lake"])[0], one, atol=1e-5)
    space = fingerprint(model.config.text, None, "float32")
    assert set(cache.get_many(space, ["a river", "a lake"])) == {"a river", "a lake"}


def without_llm(model_dir: Path, folder: Path) -> Path:
    """The model directory on a machine that has neither the LLM nor its adapters."""
    lone = folder / "model"
    shutil.copytree(model_dir, lone)
    config = json.loads((lone / "config.json").read_text())
    config["text"]["base"]["location"] = str(folder / "nowhere")
    for adapter in config["text"]["adapters"]:
        adapter["location"] = str(folder / "nowhere")
    (lone / "config.json").write_text(json.dumps(config))
    write_sums(lone)
    return lone


def test_a_label_bank_replaces_the_language_model(
    model: SatTxt, golden_model_dir: Path, tiles: list[np.ndarray], tmp_path: Path
) -> None:
    bank_path = tmp_path / "labels.safetensors"
    model.export_labels(bank_path, LABELS)
    lone = SatTxt.from_pretrained(without_llm(golden_model_dir, tmp_path), dtype="float32", text_cache=False)
    with pytest.raises(TextEncoderUnavailableError, match="sattxt labels build"):
        lone.zero_shot(tiles[0], LABELS)
    bank = lone.import_labels(bank_path)
    assert np.array_equal(lone.zero_shot(tiles, LABELS).scores, model.zero_shot(tiles, LABELS).scores)
    assert np.array_equal(lone.zero_shot(tiles, bank).scores, model.zero_shot(tiles, LABELS).scores)
    assert lone.zero_shot(tiles[0], bank, multi_label=True).probs.shape == (3,)  # backgrounds come with the bank


def test_a_bank_of_another_encoder_is_refused(model: SatTxt, tmp_path: Path) -> None:
    alien = LabelBank(space="another", texts=["a"], vectors=np.ones((1, 48), np.float32), model="other")
    alien.save(tmp_path / "alien.safetensors")
    with pytest.raises(BankMismatchError, match="other"):
        model.import_labels(tmp_path / "alien.safetensors")


def test_save_and_open_again(golden_model_dir: Path, tiles: list[np.ndarray], tmp_path: Path) -> None:
    model = SatTxt.from_pretrained(golden_model_dir, dtype="float32", preprocess="unit", text_cache=False)
    model.save_pretrained(tmp_path / "copy")
    again = SatTxt.from_pretrained(tmp_path / "copy", dtype="float32", text_cache=False)
    assert again.config.image.preset == "unit"  # the pixel scaling travels with the weights
    assert again.fingerprint == model.fingerprint
    official = SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False)
    assert official.fingerprint != model.fingerprint
    assert np.array_equal(again.encode_image(tiles), model.encode_image(tiles))
    assert np.array_equal(again.encode_text(LABELS), model.encode_text(LABELS))
    with pytest.raises(InputError, match="copy"):
        model.save_pretrained(tmp_path / "copy")


def test_preprocess_choices(golden_model_dir: Path, tiles: list[np.ndarray]) -> None:
    explicit = SatTxt.from_pretrained(
        golden_model_dir,
        dtype="float32",
        preprocess={"rescale": 1 / 255, "mean": [0, 0, 0], "std": [1, 1, 1]},
        text_cache=False,
    )
    pixels = explicit.vision.preprocess(np.full((224, 224, 3), 255, np.uint8))
    assert torch.allclose(pixels, torch.ones(1, 3, 224, 224), atol=1e-6)
    with pytest.raises(InputError, match="official"):
        SatTxt.from_pretrained(golden_model_dir, preprocess="imagenet")
    with pytest.raises(InputError, match="unknown"):
        SatTxt.from_pretrained(golden_model_dir, preprocess={"scale": 1})


def test_what_is_no_name_no_text_no_embedding_no_threshold(model: SatTxt, tiles: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match="named by a text or a path, not int"):
        SatTxt.from_pretrained(5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="texts is int; pass a string or a list of strings"):
        model.encode_text(5)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="similarity takes embeddings; encode_image and encode_text make them"):
        model.similarity("a lake", "a river")
    with pytest.raises(InputError, match="NaN or infinite"):
        model.similarity(np.full(4, np.nan), np.ones(4))
    with pytest.raises(InputError, match=r"threshold=50: pass a probability in \[0, 1\]"):
        model.zero_shot(tiles[0], LABELS, multi_label=True).above(50)


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(UnknownModelError, match="sattxt-mini"):
        SatTxt.from_pretrained("satxt-mini")


def test_bad_dtype_and_device(golden_model_dir: Path) -> None:
    with pytest.raises(InputError, match="bfloat16"):
        SatTxt.from_pretrained(golden_model_dir, dtype="int4")
    with pytest.raises(InputError, match="cpu"):
        SatTxt.from_pretrained(golden_model_dir, device="gpu")


def test_a_missing_tensor_names_the_file(golden_model_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(golden_model_dir, broken)
    state = load_file(broken / "vision.safetensors")
    state.pop("head.ln_final.weight")
    save_file(state, broken / "vision.safetensors")
    write_sums(broken)
    with pytest.raises(WeightsError, match=r"vision\.safetensors.*head\.ln_final\.weight"):
        SatTxt.from_pretrained(broken)


@pytest.mark.parametrize(
    ("image", "told"),
    [({"size": 40}, "size=40: pass a multiple of 16"), ({"window": 4}, "window=4: pass a whole number, 8 at least")],
)
def test_sizes_that_cannot_be_are_refused_when_a_model_is_opened(
    golden_model_dir: Path, image: dict[str, int], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        SatTxt.from_pretrained(golden_model_dir, preprocess=image, text_cache=False)


def test_no_embedding_depends_on_the_window(golden_model_dir: Path) -> None:
    plain, named = (
        SatTxt.from_pretrained(golden_model_dir, preprocess=given, dtype="float32", text_cache=False)
        for given in ({}, {"window": 48})
    )
    assert named.fingerprint == plain.fingerprint
    assert "window" not in plain.config.to_dict()["image"]  # as sattxt 0.1 reads it
    assert type(named.config).from_dict(named.config.to_dict()) == named.config


def test_image_tokens_are_those_of_the_vision_side(mini: SatTxt) -> None:
    tile = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    tokens = mini.image_tokens(tile)
    rows, columns = tokens.grid
    assert tokens.patches.shape == (1, rows * columns, mini.embed_dim // 2)
    embedding = torch.cat([tokens.cls, tokens.patches.mean(1)], dim=1)[0].numpy()
    np.testing.assert_allclose(embedding, mini.encode_image(tile, normalize=False), rtol=1e-4, atol=1e-4)


def test_a_model_of_parts_is_known_by_its_weights_and_has_no_files(model: SatTxt, golden_model_dir: Path) -> None:
    stored = read_model(golden_model_dir)

    def build() -> SatTxt:
        vision = load_tower(model.config.vision, stored.vision, "here")
        return SatTxt(model.config, vision, model.text, device=torch.device("cpu"), dtype=torch.float32)

    parts = build()
    assert parts.fingerprint == build().fingerprint
    assert len(parts.fingerprint) == 16
    for write in (lambda: parts.save_pretrained("nowhere"), lambda: parts.push_to_hub("org/name")):
        with pytest.raises(InputError, match=r"was not opened from files; write it with .*write_model"):
            write()
    stored.vision["head.ln_final.bias"] = stored.vision["head.ln_final.bias"] + 1
    assert build().fingerprint != parts.fingerprint


def test_a_model_moves_to_a_device(golden_model_dir: Path) -> None:
    model = SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False)
    assert model.to("meta") is model
    assert model.device.type == "meta"
    assert {tensor.device.type for tensor in model.vision.tower.parameters()} == {"meta"}
    assert model.text.head.proj.weight.device.type == "meta"
    with pytest.raises(InputError, match=r"device='cuda:99': this machine has \d+ CUDA devices; pass 'cpu'"):
        model.to("cuda:99")


def test_similarity_takes_embeddings_of_one_width(model: SatTxt) -> None:
    a, b = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([0.0, 2.0])
    assert model.similarity(a, b) == pytest.approx([0.8, 0])
    assert model.similarity(b, a) == pytest.approx([0.8, 0])
    assert model.similarity(a, a).shape == (2, 2)
    with pytest.raises(InputError, match=r"needs \(N, D\) and \(M, D\) embeddings, got \(2, 2\) and \(3,\)"):
        model.similarity(a, np.ones(3))
    with pytest.raises(InputError, match="NaN or infinite"):
        model.similarity(a, np.array([np.nan, 1]))


def test_a_device_map_without_accelerate_names_it(golden_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    model = SatTxt.from_pretrained(golden_model_dir, device_map="auto", text_cache=False)
    with pytest.raises(TextEncoderUnavailableError, match=r"device_map='auto'.*pip install 'sattxt\[llm\]'"):
        model.encode_text("a river")
