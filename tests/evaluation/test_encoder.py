"""Models as the tasks see them: this library's, and those of open_clip and transformers with random weights."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation_fakes import tile
from torch import nn

from sattxt import SatTxt
from sattxt.errors import InputError, MissingExtraError, UnknownModelError
from sattxt.evaluation.encoder import PeerEncoder, SatTxtEncoder, open_peer
from sattxt.vision.embeddings import unit_rows


@pytest.fixture(scope="module")
def tiles() -> list[np.ndarray]:
    return [tile(colour, i, side) for i, (colour, side) in enumerate((("red", 16), ("green", 20), ("blue", 40)))]


def test_this_librarys_models_embed_as_they_do_by_themselves(golden_model_dir: Path, tiles):
    model = SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False)
    encoder = SatTxtEncoder(model)
    assert np.allclose(encoder.encode_images(tiles), model.encode_image(tiles), atol=1e-5)
    mixed = [tiles[0].astype(np.float32), *tiles[1:]]
    assert np.allclose(encoder.encode_images(mixed), model.encode_image(tiles), atol=1e-4)
    assert np.allclose(encoder.encode_texts(["a forest"])[0], model.encode_text("a forest"), atol=1e-6)
    again = SatTxtEncoder(SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False))
    assert again.fingerprint == encoder.fingerprint
    other = SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False, preprocess="unit")
    assert SatTxtEncoder(other).fingerprint != encoder.fingerprint
    assert SatTxtEncoder(model, instruction="Name the land cover.").fingerprint != encoder.fingerprint


def test_a_model_that_gives_nothing_is_not_measured(tiles):
    encoder = PeerEncoder(
        "peer:broken",
        nn.Linear(1, 1),
        lambda images: torch.zeros(len(images), 3),
        lambda texts: torch.full((len(texts), 3), torch.nan),
        preprocessing=None,
    )
    with pytest.raises(InputError, match="all-zero"):
        encoder.encode_images(tiles)
    with pytest.raises(InputError, match="NaN"):
        encoder.encode_texts(["a red field"])


WORDS = ["[PAD]", "[UNK]", "[EOS]", "a", "red", "green", "blue", "picture", "of", "field"]


def _tokenizer(length: int):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A [EOS]", special_tokens=[("[EOS]", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]", model_max_length=length
    )


def _small(kind: str):
    import transformers as hf

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = {**sizes, **special, "vocab_size": len(WORDS), "max_position_embeddings": 12}
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    if kind == "clip":
        config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        model, processor = hf.CLIPModel(config), hf.CLIPImageProcessor(size=32, crop_size=32)
    else:
        config = hf.SiglipConfig(text_config=text, vision_config=vision)
        model, processor = hf.SiglipModel(config), hf.SiglipImageProcessor(size={"height": 32, "width": 32})
    return model.eval(), processor, _tokenizer(12)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PeerEncoder, tuple]:
    """A small model of random weights, opened from its folder, and its parts."""
    parts = _small(request.param)
    return open_peer(_saved(tmp_path_factory.mktemp(request.param), parts), offline=True, batch_size=2), parts


def _saved(folder: Path, parts: tuple) -> str:
    for part in parts:
        part.save_pretrained(folder)
    return f"transformers:{folder}"


def test_a_transformers_model_embeds_as_it_does_by_itself(peer, tiles):
    encoder, (model, processor, tokenizer) = peer
    pixels = torch.cat([processor(images=[t], return_tensors="pt")["pixel_values"] for t in tiles])
    with torch.inference_mode():
        images = model.get_image_features(pixel_values=pixels).pooler_output.numpy()
    assert np.allclose(encoder.encode_images(tiles), unit_rows(images), atol=1e-5)
    texts = ["a red field", "a picture of a green field", "blue"]
    padding = "max_length" if model.config.model_type == "siglip" else True
    with torch.inference_mode():
        rows = []
        for text in texts:
            tokens = tokenizer(text, padding=padding, truncation=True, max_length=12, return_tensors="pt")
            known = {k: tokens[k] for k in ("input_ids", "attention_mask") if padding is True or k == "input_ids"}
            rows.append(model.get_text_features(**known).pooler_output[0].numpy())
    assert np.allclose(encoder.encode_texts(texts), unit_rows(rows), atol=1e-5)
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert encoder.describe()["embed_dim"] == images.shape[1]


def test_long_texts_are_shortened_and_float_images_rounded(peer, tiles):
    encoder, _ = peer
    assert encoder.encode_texts(["red " * 50]).shape[0] == 1
    as_float = [t.astype(np.float32) + 0.2 for t in tiles]
    assert np.allclose(encoder.encode_images(as_float), encoder.encode_images(tiles), atol=1e-6)


def test_other_weights_are_another_model(tmp_path):
    model, processor, tokenizer = _small("clip")
    first, again = (open_peer(_saved(tmp_path / "a", (model, processor, tokenizer)), offline=True) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    assert first.describe()["kind"] == "transformers"
    with torch.no_grad():
        model.visual_projection.weight += 0.01
    other = open_peer(_saved(tmp_path / "b", (model, processor, tokenizer)), offline=True)
    assert other.fingerprint != first.fingerprint
    changed = type(processor)(size=32, crop_size=32, image_mean=[0.1, 0.2, 0.3])
    third = open_peer(_saved(tmp_path / "c", (model, changed, tokenizer)), offline=True)
    assert third.fingerprint != other.fingerprint, "another preprocessing gives other embeddings"


def test_models_that_cannot_be_opened_say_so(tmp_path):
    with pytest.raises(UnknownModelError, match=r"transformers:.*cannot be opened"):
        open_peer(f"transformers:{tmp_path}", offline=True)
    with pytest.raises(InputError, match="names no model"):
        open_peer("transformers:")
    with pytest.raises(InputError, match="names no weights"):
        open_peer("open_clip:ViT-B-32")
    with pytest.raises(InputError, match="checkpoint file"):
        open_peer("open_clip:ViT-B-32/openai", offline=True)


class FakeOpenClip(nn.Module):
    """An open_clip model as far as the adapter sees it, with the library's own signatures (it needs torchvision)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.visual = nn.Linear(3, 4)
        self.words = nn.Embedding(len(WORDS), 4, padding_idx=0)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_image(self, image: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        assert not normalize
        return self.visual(image.mean(dim=(2, 3)))

    def encode_text(self, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        assert text.dtype == torch.long
        return self.words(text).sum(dim=1)


def _open_clip_preprocess(image) -> torch.Tensor:
    """The evaluation transform: a PIL image to a (3, S, S) tensor."""
    return torch.from_numpy(np.array(image.resize((8, 8)))).permute(2, 0, 1) / 255


def _open_clip_tokenize(texts: str | list[str], context_length: int | None = None) -> torch.Tensor:
    """(N, context length) token numbers, padded with 0."""
    rows = [[WORDS.index(w) if w in WORDS else 1 for w in text.split()] for text in texts]
    return torch.tensor([(row + [0] * 8)[: context_length or 8] for row in rows], dtype=torch.long)


def test_an_open_clip_model_is_asked_as_its_library_wants(tiles, monkeypatch):
    model = FakeOpenClip()
    asked = {}

    def training_transform(image):
        raise AssertionError("images to measure are not augmented")

    def create_model_and_transforms(
        model_name, pretrained=None, precision="fp32", device="cpu", jit=False, force_quick_gelu=False, **model_kwargs
    ):
        assert not model_kwargs
        asked.update(architecture=model_name, pretrained=pretrained)
        return model, training_transform, _open_clip_preprocess

    def get_tokenizer(model_name="", context_length=None, cache_dir=None, **kwargs):
        assert model_name == asked["architecture"]
        return _open_clip_tokenize

    fake = SimpleNamespace(create_model_and_transforms=create_model_and_transforms, get_tokenizer=get_tokenizer)
    monkeypatch.setitem(sys.modules, "open_clip", fake)
    encoder = open_peer("open_clip:ViT-B-32/path/to/file.pt", batch_size=2)
    assert encoder.describe()["kind"] == "open_clip"
    assert asked == {"architecture": "ViT-B-32", "pretrained": "path/to/file.pt"}
    from PIL import Image

    pixels = torch.stack([_open_clip_preprocess(Image.fromarray(t)) for t in tiles])
    with torch.no_grad():
        assert np.allclose(encoder.encode_images(tiles), unit_rows(model.encode_image(pixels).numpy()), atol=1e-6)
        texts = ["a red field", "blue", "a picture of a green field"]
        words = unit_rows(model.encode_text(_open_clip_tokenize(texts)).numpy())
    assert np.allclose(encoder.encode_texts(texts), words, atol=1e-6)
    assert encoder.logit_scale == pytest.approx(np.exp(3), rel=1e-5)
    with pytest.raises(InputError, match="checkpoint file"):
        open_peer("open_clip:ViT-B-32/openai", offline=True)


def test_without_open_clip_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtraError, match="open_clip_torch"):
        open_peer("open_clip:ViT-B-32/openai")
