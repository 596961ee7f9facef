"""The release's original files to a model directory: numbers, layouts, and files that are not what they should be."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from release_files import (
    ADAPTERS,
    BACKBONE,
    LLM,
    TEXT_HEAD,
    VISION_HEAD,
    changed_checkpoint,
    convert_golden,
    write_transformers_checkpoint,
)
from safetensors.torch import load_file, save_file

from sattxt.config import ModelSource
from sattxt.errors import ChecksumError, InputError, WeightsError
from sattxt.images.preprocess import Preprocessor
from sattxt.images.read import to_rgb
from sattxt.vision.tower import ImageTokens, VisionTower
from sattxt.weights.directory import read_model


def run(path: Path, golden_dir: Path) -> ImageTokens:
    stored = read_model(path)
    tower = VisionTower(stored.config.vision)
    tower.load_state_dict(stored.vision)
    folder = golden_dir / "sattxt"
    names = json.loads((folder / "meta.json").read_text())["images"]
    pixels = Preprocessor(stored.config.image).batch([to_rgb(Image.open(folder / "images" / name)) for name in names])
    with torch.inference_mode():
        return tower.for_inference(torch.float32)(pixels)


@pytest.mark.parametrize("scaling", ["official", "unit"])
def test_the_converted_release_gives_the_references_numbers(tmp_path: Path, golden_dir: Path, scaling: str) -> None:
    expected = load_file(golden_dir / "sattxt" / "expected.safetensors")
    tokens = run(convert_golden(tmp_path / "model", preprocess=scaling), golden_dir)
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(tokens.embedding, expected[f"image_embeds_{scaling}"], **close)
    torch.testing.assert_close(tokens.backbone[:2, :16], expected[f"backbone_patch_tokens_{scaling}"], **close)
    torch.testing.assert_close(tokens.patches[:2, :16], expected[f"head_patch_tokens_{scaling}"], **close)


@pytest.mark.parametrize("nested", [False, True])
def test_a_transformers_checkpoint_gives_the_same_model(tmp_path: Path, nested: bool) -> None:
    checkpoint = write_transformers_checkpoint(tmp_path / "dinov3", nested=nested)
    one = read_model(convert_golden(tmp_path / "one"))
    two = read_model(convert_golden(tmp_path / "two", dinov3=checkpoint))
    assert one.config == two.config
    assert all(torch.equal(one.vision[key], two.vision[key]) for key in one.vision)


def test_the_config_says_all_that_the_text_side_needs(tmp_path: Path) -> None:
    text = read_model(convert_golden(tmp_path / "model")).config.text
    assert text.template == "<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>"
    assert (text.max_length, text.max_text_tokens, text.padding_side, text.dtype) == (512, 400, "left", "bfloat16")
    assert text.base == ModelSource(str(LLM))
    assert text.adapters == tuple(ModelSource(str(path)) for path in ADAPTERS)
    assert text.hidden_size == 48


def test_the_digest_ignores_where_the_files_lie_and_follows_what_is_in_them(tmp_path: Path) -> None:
    copied = Path(shutil.copytree(LLM, tmp_path / "mirror-of-llama"))
    digest = read_model(convert_golden(tmp_path / "a")).config.text.weights_sha256
    assert read_model(convert_golden(tmp_path / "b", llm=copied)).config.text.weights_sha256 == digest
    state = load_file(copied / "model.safetensors")
    key = next(iter(state))
    save_file({**state, key: state[key] + 1}, copied / "model.safetensors")
    assert read_model(convert_golden(tmp_path / "c", llm=copied)).config.text.weights_sha256 != digest
    swapped = read_model(convert_golden(tmp_path / "d", adapters=ADAPTERS[::-1])).config.text.weights_sha256
    assert swapped != digest


def test_a_copied_language_model_needs_no_other_folder(tmp_path: Path) -> None:
    path = convert_golden(tmp_path / "model", copy_llm=True)
    stored = read_model(path)
    assert stored.text_encoder_dir == path / "text_encoder"
    assert (stored.config.text.base, stored.config.text.adapters) == (None, ())
    names = {item.name for item in stored.text_encoder_dir.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert stored.config.text.weights_sha256 == read_model(convert_golden(tmp_path / "b")).config.text.weights_sha256


class TestPartsThatDoNotFit:
    """The error names both files and both shapes, and nothing is written."""

    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        return tmp_path / "out"

    def test_text_head_and_vision_head(self, tmp_path: Path, out: Path) -> None:
        text = changed_checkpoint(TEXT_HEAD, tmp_path / "t.pt", **{"proj.weight": torch.zeros(100, 48)})
        with pytest.raises(WeightsError, match=r"t.pt.*\(100, 48\).*128 from .*vision_head.pt.*\(64,\)"):
            convert_golden(out, text_head=text)
        assert not out.exists()

    def test_text_head_and_language_model(self, tmp_path: Path, out: Path) -> None:
        wide = {"proj.weight": torch.zeros(128, 50), "ln.weight": torch.ones(50), "ln.bias": torch.ones(50)}
        text = changed_checkpoint(TEXT_HEAD, tmp_path / "t.pt", **wide)
        with pytest.raises(WeightsError, match=r"t.pt.*width 50.*hidden_size 48"):
            convert_golden(out, text_head=text)
        assert not out.exists()

    def test_vision_head_and_backbone(self, tmp_path: Path, out: Path) -> None:
        wide = {"ln_final.weight": torch.zeros(32), "ln_final.bias": torch.zeros(32)}
        head = changed_checkpoint(VISION_HEAD, tmp_path / "v.pt", **wide)
        with pytest.raises(WeightsError, match=r"v.pt.*\(32,\).*dinov3_vit_tiny.*64 wide.*\(64, 3, 16, 16\)"):
            convert_golden(out, vision_head=head)
        assert not out.exists()

    def test_a_tensor_inside_a_part(self, tmp_path: Path, out: Path) -> None:
        head = changed_checkpoint(VISION_HEAD, tmp_path / "v.pt", **{"blocks.1.norm2.bias": torch.zeros(3)})
        with pytest.raises(WeightsError, match=r"head.blocks.1.norm2.bias.*\(3,\).*\(64,\)"):
            convert_golden(out, vision_head=head)
        assert not out.exists()

    def test_a_part_that_lacks_a_tensor(self, tmp_path: Path, out: Path) -> None:
        state = torch.load(VISION_HEAD, weights_only=True)
        del state["ln_final.bias"]
        torch.save(state, tmp_path / "v.pt")
        with pytest.raises(WeightsError, match=r"v.pt: tensor 'head.ln_final.bias' is missing.*\(64,\)"):
            convert_golden(out, vision_head=tmp_path / "v.pt")
        assert not out.exists()

    def test_an_unknown_tensor_is_refused(self, tmp_path: Path) -> None:
        more = changed_checkpoint(BACKBONE, tmp_path / "x.pth", **{"cls_norm.weight": torch.zeros(64)})
        with pytest.raises(WeightsError, match=r"x.pth.*'backbone.cls_norm.weight' of shape \(64,\) has no place"):
            convert_golden(tmp_path / "out", dinov3=more)

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("patch_embed.proj.weight", "not a DINOv3 ViT checkpoint"),
            ("blocks.0.mlp.fc1.weight", r"'model.layer.0.mlp.up_proj.weight' of 2 dimensions is needed, it is missing"),
            ("blocks.2.norm2.bias", r"'backbone.model.layer.2.norm2.bias' is missing.*\(64,\)"),
            (
                "blocks.1.attn.qkv.weight",
                r"'backbone.model.layer.1.attention.[qkv]_proj.weight' is missing.*\(64, 64\)",
            ),
        ],
    )
    def test_a_missing_tensor_is_named(self, tmp_path: Path, key: str, message: str) -> None:
        state = torch.load(BACKBONE, weights_only=True)
        del state[key]
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(WeightsError, match=f"x.pth.*{message}"):
            convert_golden(tmp_path / "out", dinov3=tmp_path / "x.pth")
        assert not (tmp_path / "out").exists()

    def test_a_patch_embedding_of_another_shape(self, tmp_path: Path, out: Path) -> None:
        head = changed_checkpoint(VISION_HEAD, tmp_path / "v.pt", **{"embed.weight": torch.zeros(64)})
        with pytest.raises(WeightsError, match=r"v.pt: not a SATtxt vision head.*'embed.weight' of 2 dimensions"):
            convert_golden(out, vision_head=head)

    def test_a_language_model_without_weights_or_width(self, tmp_path: Path, out: Path) -> None:
        bare = tmp_path / "bare"
        bare.mkdir()
        with pytest.raises(WeightsError, match=r"bare: holds no \.safetensors weights; pass a folder or hub id"):
            convert_golden(out, llm=bare)
        shutil.copy(LLM / "model.safetensors", bare)
        (bare / "config.json").write_text('{"hidden_size": "48"}')
        with pytest.raises(WeightsError, match=r"bare: has no config\.json with a hidden_size; pass a transformers"):
            convert_golden(out, llm=bare, adapters=())

    def test_files_in_each_others_place(self, out: Path) -> None:
        with pytest.raises(WeightsError, match="not a SATtxt vision head"):
            convert_golden(out, vision_head=TEXT_HEAD)
        with pytest.raises(WeightsError, match="not a DINOv3 ViT checkpoint"):
            convert_golden(out, dinov3=VISION_HEAD)
        with pytest.raises(WeightsError, match=r"adapter_model.safetensors is missing"):
            convert_golden(out, adapters=[LLM])

    def test_a_transformers_config_that_contradicts_its_tensors(self, tmp_path: Path, out: Path) -> None:
        folder = write_transformers_checkpoint(tmp_path / "dinov3")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_register_tokens": 0}))
        with pytest.raises(WeightsError, match=r"num_register_tokens is 0, .* imply 4"):
            convert_golden(out, dinov3=folder)

    @pytest.mark.parametrize("kind", ["mobilenet_v1", "resnet"])
    def test_a_backbone_of_another_kind(self, tmp_path: Path, out: Path, kind: str) -> None:
        folder = write_transformers_checkpoint(tmp_path / "backbone")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
        with pytest.raises(WeightsError, match=f"backbone.*model_type is '{kind}'.*'dinov3_vit'.* is needed"):
            convert_golden(out, dinov3=folder)
        assert not out.exists()

    def test_an_output_that_is_not_empty(self, out: Path) -> None:
        out.mkdir()
        (out / "mine.txt").write_text("x")
        with pytest.raises(InputError, match="not empty"):
            convert_golden(out)
        assert (out / "mine.txt").read_text() == "x"

    def test_bad_arguments(self, out: Path) -> None:
        with pytest.raises(InputError, match=r"config\.json: is a file; pass the path of a new folder"):
            convert_golden(LLM / "config.json")
        with pytest.raises(InputError, match=r"preprocess='offcial'.*'official'"):
            convert_golden(out, preprocess="offcial")
        with pytest.raises(InputError, match="template"):
            convert_golden(out, template="no place for the text")
        with pytest.raises(InputError, match=r"nowhere.*neither an existing folder nor a hub id"):
            convert_golden(out, llm="nowhere")
        with pytest.raises(WeightsError, match=r"nowhere.pth: no such file"):
            convert_golden(out, dinov3="nowhere.pth")


def test_a_hash_in_a_files_name_is_checked(tmp_path: Path) -> None:
    right = hashlib.sha256(BACKBONE.read_bytes()).hexdigest()[:8]
    good = Path(shutil.copy(BACKBONE, tmp_path / f"dinov3-{right}.pth"))
    assert read_model(convert_golden(tmp_path / "a", dinov3=good)).config.vision.head.heads == 4
    bad = Path(shutil.copy(BACKBONE, tmp_path / "dinov3-eadcf0ff.pth"))
    with pytest.raises(ChecksumError, match=f"dinov3-eadcf0ff.pth: its sha256 is {right}.*recorded is eadcf0ff"):
        convert_golden(tmp_path / "b", dinov3=bad)


def test_heads_that_contradict_the_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"num_heads=2, but .* says 4"):
        convert_golden(tmp_path / "two", num_heads=2)
    assert read_model(convert_golden(tmp_path / "four", num_heads=4)).config.text.max_length == 512


def test_the_card_names_the_language_model_with_its_adapters(tmp_path: Path) -> None:
    card = (convert_golden(tmp_path / "model") / "README.md").read_text()
    assert f"{LLM}, with {ADAPTERS[0]}, then {ADAPTERS[1]}" in card
