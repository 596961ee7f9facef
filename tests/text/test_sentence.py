"""The small text encoder, on a tiny random BERT: parity with transformers, int8, batches, instructions, damage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from sattxt.config import TextEncoderConfig
from sattxt.errors import InputError, WeightsError
from sattxt.text.sentence import (
    SCALE_SUFFIX,
    SentenceEncoder,
    export_sentence_encoder,
    pack_int8,
    unpack_int8,
)

TEXTS = ["a satellite image of a river", "forest", "city and lake and built land and water", "the river"]
CONFIG = TextEncoderConfig(kind="sentence", hidden_size=32, weights_sha256="0" * 64, max_length=16)


@pytest.fixture(scope="session")
def exported(bert_source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_sentence_encoder(bert_source, folder, int8=False)
    return folder


@pytest.fixture
def encoder(exported) -> SentenceEncoder:
    return SentenceEncoder(CONFIG, exported)


def _reference(source: Path, text: str) -> np.ndarray:
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    model = BertModel(BertConfig.from_dict(json.loads((source / "config.json").read_text())))
    state = load_file(source / "model.safetensors")
    state.pop("embeddings.position_ids")
    model.load_state_dict(state)
    with torch.no_grad():
        return model.eval()(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0].mean(dim=0).numpy()


def test_vectors_are_the_mean_over_all_tokens_of_transformers_bert(bert_source, encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(vector, _reference(bert_source, text), atol=1e-6)


def test_order_and_values_do_not_depend_on_the_batch(encoder):
    encoder.batch_size = 3
    together = encoder.encode(TEXTS)
    np.testing.assert_allclose(together, np.concatenate([encoder.encode([t]) for t in TEXTS]), atol=1e-5)
    np.testing.assert_allclose(together[::-1], encoder.encode(TEXTS[::-1]), atol=1e-5)


def test_on_batch_sees_every_text_once_with_its_vector(encoder):
    seen: dict[str, np.ndarray] = {}
    sizes = []

    def keep(texts, vectors):
        sizes.append(len(texts))
        seen.update(zip(texts, vectors, strict=True))

    encoder.batch_size = 3
    vectors = encoder.encode(TEXTS, on_batch=keep)
    assert sizes == [3, 1]
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_array_equal(seen[text], vector)


def test_text_beyond_max_length_is_cut(encoder):
    long = "river " * 40
    assert encoder.tokenize([long])["input_ids"].shape == (1, 16)
    np.testing.assert_allclose(encoder.encode([long]), encoder.encode([long + "forest"]), atol=1e-6)


def test_a_cut_text_is_warned_of_by_its_beginning(encoder, caplog):
    encoder.encode(["river lake", "lake " * 30])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "1 of 2 texts are longer than the encoder's 16 tokens" in caplog.text
    assert "lake lake" in caplog.text


def test_tokens_are_padded_on_the_right(encoder):
    tokens = encoder.tokenize(["forest", "the river"])
    assert tokens["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert tokens["input_ids"][0, -1] == 0
    assert torch.equal(tokens["embed_mask"], tokens["attention_mask"])


def test_an_instruction_changes_the_vector_and_is_not_pooled(encoder):
    tokens = encoder.tokenize(["a river"], "describe the land cover")
    assert tokens["embed_mask"].tolist() == [[1, 0, 0, 0, 0, 1, 1, 1]]
    plain = encoder.encode(["a river"])
    assert np.abs(encoder.encode(["a river"], instruction="describe the land cover") - plain).max() > 1e-3
    np.testing.assert_array_equal(encoder.encode(["a river"], instruction=""), plain)
    assert encoder.fingerprint("describe the land cover") != encoder.fingerprint("")


def test_an_instruction_that_leaves_no_room_is_an_error(encoder):
    with pytest.raises(InputError, match="shorter instruction"):
        encoder.encode(["a river"], instruction="land " * 30)


def test_int8_export_is_small_reproducible_and_close(bert_source, exported, tmp_path):
    digest = export_sentence_encoder(bert_source, tmp_path / "a")
    assert digest == export_sentence_encoder(bert_source, tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").stat().st_size < 0.6 * (exported / "model.safetensors").stat().st_size
    assert not any(k.startswith("pooler") for k in load_file(tmp_path / "a/model.safetensors"))
    assert "somewhere" not in (tmp_path / "a/config.json").read_text()
    packed = SentenceEncoder(CONFIG, tmp_path / "a").encode(TEXTS)
    plain = SentenceEncoder(CONFIG, exported).encode(TEXTS)
    cosine = (packed * plain).sum(1) / np.linalg.norm(packed, axis=1) / np.linalg.norm(plain, axis=1)
    assert cosine.min() > 0.998


def test_bfloat16_stays_close_and_has_its_own_fingerprint(encoder, exported):
    half = SentenceEncoder(CONFIG, exported, dtype=torch.bfloat16)
    plain, rounded = encoder.encode(TEXTS), half.encode(TEXTS)
    assert rounded.dtype == np.float32
    assert np.abs(plain - rounded).max() > 1e-4, "it does compute in bfloat16"
    assert np.linalg.norm(plain - rounded) / np.linalg.norm(plain) < 2e-2
    assert half.fingerprint() != encoder.fingerprint()


@pytest.mark.parametrize(
    ("texts", "message"),
    [(["river", ""], r"texts\[1\] is empty"), ([" \n"], "empty"), ([3], "int"), (b"river", "bytes"), (5, "int")],
)
def test_what_is_no_text_is_refused(encoder, texts, message):
    with pytest.raises(InputError, match=message):
        encoder.encode(texts)


def _drop_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("encoder.layer.1.output.dense.weight")
    save_file(state, folder / "model.safetensors")


def _reshape_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["encoder.layer.1.output.dense.bias"] = torch.zeros(7)
    save_file(state, folder / "model.safetensors")


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _three_heads(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_attention_heads": 3}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop_tensor, "encoder.layer.1.output.dense.weight"),
        (_reshape_tensor, "encoder.layer.1.output.dense.bias"),
        (_truncate, "model.safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: is missing"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'), "'gpt2'"),
        (_three_heads, "hidden_size is no multiple of num_attention_heads"),
    ],
    ids=["missing tensor", "wrong shape", "truncated", "no tokeniser", "bad tokeniser", "other model", "heads"],
)
def test_a_damaged_folder_is_an_error_that_names_the_part(exported, tmp_path, damage, message):
    folder = tmp_path / "damaged"
    shutil.copytree(exported, folder)
    damage(folder)
    with pytest.raises(WeightsError, match=message):
        SentenceEncoder(CONFIG, folder)
    if damage in (_drop_tensor, _reshape_tensor, _three_heads):
        with pytest.raises(WeightsError, match=f"^{folder}: .*{message}"):
            export_sentence_encoder(folder, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_config_of_another_width_is_an_error(exported):
    with pytest.raises(WeightsError, match=r"width is 32, config\.json says 33"):
        SentenceEncoder(replace(CONFIG, hidden_size=33), exported)


def test_no_more_tokens_than_the_model_has_positions(exported):
    assert SentenceEncoder(replace(CONFIG, max_length=32), exported).encode("river " * 40).shape == (1, 32)
    with pytest.raises(WeightsError, match=r"max_length 33 is more than the model's 32 positions"):
        SentenceEncoder(replace(CONFIG, max_length=33), exported)


def test_the_first_answer_does_not_wait_for_transformers(exported):
    code = (
        "import sys\nfrom sattxt.config import TextEncoderConfig\nfrom sattxt.text.sentence import SentenceEncoder\n"
        f"config = TextEncoderConfig('sentence', 32, '0' * 64, max_length=16)\n"
        f"SentenceEncoder(config, {str(exported)!r}).encode('a river')\n"
        "print([m for m in ('transformers', 'torch._dynamo') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- weights in 8 bits ----------------------------------------------------------------------------------------------


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
