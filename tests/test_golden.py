"""The published model through the public API, against outputs of the original code (float32, within 1e-5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sattxt import SatTxt

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def expected(golden_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(golden_dir / "sattxt" / "expected.safetensors")


@pytest.fixture(scope="module")
def meta(golden_dir: Path) -> dict[str, Any]:
    return json.loads((golden_dir / "sattxt" / "meta.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def images(golden_dir: Path, meta: dict[str, Any]) -> list[Path]:
    return [golden_dir / "sattxt" / "images" / name for name in meta["images"]]


@pytest.fixture(scope="module", params=["official", "unit"])
def scaled(request: pytest.FixtureRequest, golden_model_dir: Path) -> tuple[str, SatTxt]:
    chosen = None if request.param == "official" else request.param  # official is what the directory stores
    return request.param, SatTxt.from_pretrained(golden_model_dir, dtype="float32", preprocess=chosen, text_cache=False)


@pytest.fixture(scope="module")
def model(golden_model_dir: Path) -> SatTxt:
    return SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False)


def close(actual: Any, wanted: Any, tolerance: float = TOLERANCE) -> None:
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert actual.shape == wanted.shape
    assert np.abs(actual - wanted).max() < tolerance


def test_pixel_values(scaled: Any, images: list[Path], expected: Any) -> None:
    mode, model = scaled
    pixels = model.vision.preprocess(images)
    assert pixels.shape == (8, 3, 224, 224)
    close(pixels[:, :, 100:108, 100:108], expected[f"pixel_values_{mode}_crop"])
    # "official" means reach 950: 1e-5 there is below float32's own spacing.
    wanted = expected[f"pixel_values_{mode}_mean"]
    assert torch.allclose(pixels.mean((2, 3)), wanted, rtol=2e-7, atol=TOLERANCE)


def test_patch_tokens(scaled: Any, images: list[Path], expected: Any) -> None:
    mode, model = scaled
    tokens = model.vision.tokens(model.vision.preprocess(images[:2]))
    assert tokens.grid == (14, 14)
    close(tokens.backbone[:, :16], expected[f"backbone_patch_tokens_{mode}"])
    close(tokens.patches[:, :16], expected[f"head_patch_tokens_{mode}"])


def test_image_embeddings(scaled: Any, images: list[Path], expected: Any) -> None:
    mode, model = scaled
    close(model.encode_image(images, normalize=False), expected[f"image_embeds_{mode}"])
    close(np.stack([model.encode_image(i, normalize=False) for i in images]), expected[f"image_embeds_{mode}"])


def test_token_ids_and_pooling_masks(model: SatTxt, meta: Any, expected: Any) -> None:
    tokens = model.text.tokenize(meta["prompts"][:12])
    for name in ("input_ids", "attention_mask", "embed_mask"):
        assert torch.equal(tokens[name], expected[name])


def test_text_embeddings(model: SatTxt, meta: Any, expected: Any) -> None:
    close(model.encode_text(meta["prompts"], normalize=False), expected["text_embeds"])
    one_by_one = [model.encode_text(p, normalize=False) for p in meta["prompts"]]
    close(np.stack(one_by_one), expected["text_embeds"])


def test_text_embeddings_with_an_instruction(model: SatTxt, meta: Any, expected: Any) -> None:
    embedded = model.encode_text(meta["prompts"][:10], instruction=meta["instruction"], normalize=False)
    close(embedded, expected["text_embeds_instruction"])


def test_cosine_table(scaled: Any, images: list[Path], meta: Any, expected: Any) -> None:
    mode, model = scaled
    table = model.similarity(model.encode_image(images), model.encode_text(meta["prompts"][:10]))
    close(table, expected[f"cosine_{mode}"])
    batch = model.zero_shot(images, meta["labels"], templates="a satellite image of {}")
    close(batch.scores, expected[f"cosine_{mode}"])


def test_bfloat16_keeps_the_ranking(golden_model_dir: Path, images: list[Path], meta: Any, expected: Any) -> None:
    model = SatTxt.from_pretrained(golden_model_dir, dtype="bfloat16", text_cache=False)
    wanted = expected["image_embeds_official"].numpy()
    actual = model.encode_image(images, normalize=False)
    assert (np.linalg.norm(actual - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max() < 2e-2
    table = model.similarity(model.encode_image(images), model.encode_text(meta["prompts"][:10]))
    assert np.abs(table - expected["cosine_official"].numpy()).max() < 2e-2


def test_a_copy_under_another_name_gives_the_same_embeddings(
    golden_dir: Path, tmp_path: Path, meta: Any, expected: Any
) -> None:
    """The chat wrapper comes from our config: a mirror's folder name changes nothing."""
    import shutil

    from sattxt import convert

    parts = golden_dir / "sattxt"
    mirror = tmp_path / "some-mirror" / "of-a-llama"
    shutil.copytree(parts / "llama", mirror)
    made = convert(
        parts / "dinov3_vit_tiny_pretrain_sat.pth",
        parts / "sattxt_vision_head.pt",
        parts / "sattxt_text_head.pt",
        mirror,
        [parts / "llm2vec-mntp", parts / "llm2vec-mntp-unsup-simcse"],
        out=tmp_path / "model",
        copy_llm=True,
    )
    shutil.rmtree(mirror)  # the model directory holds the merged LLM
    model = SatTxt.from_pretrained(made, dtype="float32", text_cache=False)
    close(model.encode_text(meta["prompts"][:4], normalize=False), expected["text_embeds"][:4])
