"""The published text encoder in miniature: golden token ids, masks and vectors, loading, merging, and refusals."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from release_files import LLM_DIGEST
from safetensors.torch import load_file, save_file

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import (
    InputError,
    MissingExtraError,
    NotEnoughMemoryError,
    TextEncoderUnavailableError,
    WeightsError,
)
from sattxt.text.llm2vec import LLM2VecEncoder, save_merged
from sattxt.text.tower import TextHead
from sattxt.vision.device import available_bytes
from sattxt.weights.tensors import weights_bytes

TEMPLATE = "<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>"
CONFIG = TextEncoderConfig(
    kind="llm2vec",
    hidden_size=48,
    weights_sha256="0" * 64,
    template=TEMPLATE,
    max_length=512,
    max_text_tokens=400,
    padding_side="left",
)


@pytest.fixture(scope="module")
def folder(golden_dir) -> Path:
    return golden_dir / "sattxt"


@pytest.fixture(scope="module")
def adapters(folder) -> list[Path]:
    return [folder / "llm2vec-mntp", folder / "llm2vec-mntp-unsup-simcse"]


@pytest.fixture(scope="module")
def meta(folder) -> dict:
    return json.loads((folder / "meta.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def expected(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "expected.safetensors")


@pytest.fixture(scope="module")
def encoder(folder, adapters) -> LLM2VecEncoder:
    return LLM2VecEncoder(CONFIG, base=folder / "llama", adapters=adapters)


@pytest.fixture(scope="module")
def head(folder) -> TextHead:
    state = torch.load(folder / "sattxt_text_head.pt", weights_only=True)
    head = TextHead(CONFIG.hidden_size, len(state["proj.weight"]))
    head.load_state_dict(state)
    return head


@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "embed_mask"])
def test_golden_tokens_and_masks(encoder, meta, expected, name):
    assert torch.equal(encoder.tokenize(meta["prompts"][:12])[name], expected[name])


def test_golden_vectors_and_embeddings(encoder, head, meta, expected):
    vectors = encoder.encode(meta["prompts"])
    np.testing.assert_allclose(vectors, expected["llm2vec_embeds"].numpy(), atol=1e-5)
    with torch.no_grad():
        embedded = head(torch.from_numpy(vectors))
    np.testing.assert_allclose(embedded.numpy(), expected["text_embeds"].numpy(), atol=1e-5)


def test_golden_vectors_one_by_one_as_the_reference_encodes_captions(encoder, meta, expected):
    vectors = np.concatenate([encoder.encode([prompt]) for prompt in meta["prompts"]])
    np.testing.assert_allclose(vectors, expected["llm2vec_embeds"].numpy(), atol=1e-5)


def test_golden_vectors_with_an_instruction(encoder, head, meta, expected, monkeypatch):
    monkeypatch.setattr(encoder, "batch_size", 4)
    vectors = encoder.encode(meta["prompts"][:10], instruction=meta["instruction"])
    np.testing.assert_allclose(vectors, expected["llm2vec_embeds_instruction"].numpy(), atol=1e-5)
    with torch.no_grad():
        embedded = head(torch.from_numpy(vectors))
    np.testing.assert_allclose(embedded.numpy(), expected["text_embeds_instruction"].numpy(), atol=1e-5)


def test_the_configs_instruction_is_used_unless_another_is_given(encoder, folder, adapters, meta, expected):
    config = replace(CONFIG, instruction=meta["instruction"])
    instructed = LLM2VecEncoder(config, base=folder / "llama", adapters=adapters)
    prompts = meta["prompts"][:2]
    np.testing.assert_allclose(
        instructed.encode(prompts), expected["llm2vec_embeds_instruction"][:2].numpy(), atol=1e-5
    )
    np.testing.assert_allclose(
        instructed.encode(prompts, instruction=""), expected["llm2vec_embeds"][:2].numpy(), atol=1e-5
    )


def test_padding_does_not_change_a_vector(encoder, meta):
    short, long = meta["prompts"][12], meta["prompts"][13]
    alone = encoder.encode([short])[0]
    beside = encoder.encode([short, long])[0]
    np.testing.assert_allclose(beside, alone, atol=1e-5)


def test_bfloat16_stays_within_two_percent(folder, adapters, meta, expected):
    encoder = LLM2VecEncoder(CONFIG, base=folder / "llama", adapters=adapters, dtype=torch.bfloat16)
    vectors, reference = encoder.encode(meta["prompts"]), expected["llm2vec_embeds"].numpy()
    assert vectors.dtype == np.float32
    error = np.linalg.norm(vectors - reference, axis=1) / np.linalg.norm(reference, axis=1)
    assert error.max() < 2e-2


def test_white_space_before_a_text_is_kept_and_after_it_is_not(encoder):
    ids = [encoder.tokenize([text])["input_ids"].tolist() for text in ("river", "river \n", "  river")]
    assert ids[0] == ids[1] != ids[2]


def test_a_local_copy_under_another_name_reads_the_same_text(encoder, folder, adapters, tmp_path, meta, expected):
    shutil.copytree(folder / "llama", tmp_path / "some-mirror")
    mirrored = LLM2VecEncoder(CONFIG, base=tmp_path / "some-mirror", adapters=adapters)
    np.testing.assert_allclose(mirrored.encode(meta["prompts"][:3]), expected["llm2vec_embeds"][:3].numpy(), atol=1e-5)


def test_long_text_without_spaces_is_an_error_and_not_an_empty_text(encoder):
    with pytest.raises(InputError, match="at most 400 tokens"):
        encoder.encode(["河流" * 600])


def test_an_instruction_that_leaves_no_room_is_an_error(encoder):
    with pytest.raises(InputError, match="shorter instruction"):
        encoder.encode(["river"], instruction="land cover " * 600)


def test_location_comes_from_the_config_where_none_is_given(folder, adapters, meta, expected):
    config = replace(
        CONFIG,
        weights_sha256=LLM_DIGEST,
        base=ModelSource(str((folder / "llama").resolve())),
        adapters=tuple(ModelSource(str(a.resolve())) for a in adapters),
    )
    vectors = LLM2VecEncoder(config).encode(meta["prompts"][:2])
    np.testing.assert_allclose(vectors, expected["llm2vec_embeds"][:2].numpy(), atol=1e-5)


def test_a_merged_copy_opens_without_adapters_and_without_peft(folder, adapters, meta, expected, tmp_path, monkeypatch):
    save_merged(folder / "llama", adapters, tmp_path / "merged")
    monkeypatch.setitem(sys.modules, "peft", None)
    merged = LLM2VecEncoder(CONFIG, base=tmp_path / "merged", adapters=())
    np.testing.assert_allclose(merged.encode(meta["prompts"]), expected["llm2vec_embeds"].numpy(), atol=1e-5)
    assert torch.equal(merged.tokenize(meta["prompts"][:12])["input_ids"], expected["input_ids"])


def test_the_llm2vec_package_is_never_imported(encoder):
    assert not [name for name in sys.modules if name == "llm2vec" or name.startswith("llm2vec.")]


def test_missing_peft_is_named_with_the_command(folder, adapters, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sattxt\[llm\]'"):
        LLM2VecEncoder(CONFIG, base=folder / "llama", adapters=adapters)


def test_too_little_memory_is_told_before_loading_with_both_figures(folder, adapters, monkeypatch):
    monkeypatch.setattr("sattxt.text.llm2vec.available_bytes", lambda device, *, spread=False: 50_000)
    with pytest.raises(
        NotEnoughMemoryError, match=r"needs .* GB in float32.*0\.0 GB free.*labels build.*import_labels"
    ):
        LLM2VecEncoder(CONFIG, base=folder / "llama", adapters=adapters)


@pytest.mark.parametrize(("device_map", "where"), [(None, "cpu has"), ("auto", "all devices together have")])
def test_memory_is_that_of_the_devices_that_are_used(folder, adapters, monkeypatch, device_map, where):
    monkeypatch.setattr(
        "sattxt.text.llm2vec.available_bytes",
        lambda device, *, spread=False: 50_000 if spread == bool(device_map) else 1e9,
    )
    with pytest.raises(NotEnoughMemoryError, match=f"float32, {where} 0.0 GB free"):
        LLM2VecEncoder(CONFIG, base=folder / "llama", adapters=adapters, device_map=device_map)


def test_free_memory_is_what_system_and_container_leave(monkeypatch):
    system = {
        "meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n",
        "memory.max": "4000000",
        "memory.current": "1500000",
        "memory.stat": "anon 7\ninactive_file 300000\nactive_file 200000\n",
    }

    def read_text(path, encoding):
        if path.name not in system:
            raise FileNotFoundError(path)
        return system[path.name]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert available_bytes(torch.device("cpu")) == 4_000_000 - (1_500_000 - 500_000)
    system["memory.stat"] = "inactive_file 2000000\nactive_file 0\n"
    assert available_bytes(torch.device("cpu")) == 4_000_000
    system["memory.max"] = "max"  # no limit
    assert available_bytes(torch.device("cpu"), spread=True) == 5000 * 1024 + sum(
        torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())
    )
    system.clear()
    assert available_bytes(torch.device("cpu")) > 1 << 30


def test_weights_go_to_the_device_without_accelerate_too(folder, monkeypatch):
    monkeypatch.setattr("sattxt.text.llm2vec.find_spec", lambda name: None)
    encoder = LLM2VecEncoder(CONFIG, base=folder / "llama", adapters=(), device="meta")
    with pytest.raises(NotImplementedError, match="meta tensor"):  # nothing was computed on the CPU
        encoder.encode(["river"])


@pytest.mark.parametrize("named", [{}, {"eos_token": "<none>"}, {"eos_token": {"content": 3}}])
def test_an_end_token_that_is_not_there_is_told(folder, tmp_path, named):
    base = _base(folder, tmp_path)
    (base / "tokenizer_config.json").write_text(json.dumps(named))
    with pytest.raises(WeightsError, match=r"llama: tokenizer_config\.json names no eos_token that tokenizer"):
        LLM2VecEncoder(CONFIG, base=base)


def test_what_the_config_and_the_folder_lack_is_told(folder, tmp_path):
    with pytest.raises(TextEncoderUnavailableError, match="config names no language model; pass base="):
        LLM2VecEncoder(CONFIG)
    with pytest.raises(WeightsError, match=r"text template '\{text\}\{text\}': it must hold \{text\} exactly once"):
        LLM2VecEncoder(replace(CONFIG, template="{text}{text}"), base=folder / "llama", adapters=())
    base = _base(folder, tmp_path)
    (base / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"llama: \*\.safetensors is missing; pass the folder of a Llama checkpoint"):
        LLM2VecEncoder(CONFIG, base=base)


def test_a_language_model_of_another_kind_is_named(folder, tmp_path):
    base = _base(folder, tmp_path)
    (base / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(WeightsError, match=r"llama: model_type is 'gpt2'; 'llama' is needed"):
        LLM2VecEncoder(CONFIG, base=base)


def test_memory_needed_follows_the_precision(folder):
    files = [folder / "llama/model.safetensors"]
    parameters = sum(t.numel() for t in load_file(files[0]).values())
    assert weights_bytes(files, torch.float32) == 4 * parameters
    assert weights_bytes(files, torch.bfloat16) == 2 * parameters
    assert weights_bytes(files, torch.float32, skip=("layers.", "norm.")) == 4 * 397 * 48


def _base(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder / "llama", tmp_path / "llama"))


def test_pickled_weights_are_refused_and_not_opened(folder, tmp_path):
    base = _base(folder, tmp_path)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is a pickle"):
        LLM2VecEncoder(CONFIG, base=base)


def test_a_pickled_adapter_is_refused(folder, adapters, tmp_path):
    adapter = Path(shutil.copytree(adapters[0], tmp_path / "adapter"))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(WeightsError, match=r"adapter_model\.bin is a pickle"):
        LLM2VecEncoder(CONFIG, base=folder / "llama", adapters=[adapter])


def test_a_missing_tensor_is_named(folder, tmp_path):
    base = _base(folder, tmp_path)
    state = load_file(base / "model.safetensors")
    state.pop("layers.2.mlp.up_proj.weight")
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"layers\.2\.mlp\.up_proj\.weight"):
        LLM2VecEncoder(CONFIG, base=base)


def test_a_damaged_file_is_named(folder, tmp_path):
    path = _base(folder, tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(WeightsError, match=r"model\.safetensors: cannot be read as safetensors"):
        LLM2VecEncoder(CONFIG, base=path.parent)


def test_a_missing_shard_is_named(folder, tmp_path):
    base = _base(folder, tmp_path)
    there, gone = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    (base / "model.safetensors").rename(base / there)
    places = {"norm.weight": there, "embed_tokens.weight": gone}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=gone):
        LLM2VecEncoder(CONFIG, base=base)


def test_a_causal_lm_checkpoint_is_read_as_the_same_encoder(folder, adapters, tmp_path, meta, expected):
    base = _base(folder, tmp_path)
    state = {f"model.{name}": tensor for name, tensor in load_file(base / "model.safetensors").items()}
    state["lm_head.weight"] = torch.zeros(397, 48)
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    vectors = LLM2VecEncoder(CONFIG, base=base, adapters=adapters).encode(meta["prompts"][:2])
    np.testing.assert_allclose(vectors, expected["llm2vec_embeds"][:2].numpy(), atol=1e-5)


def test_an_adapter_for_another_width_is_an_error(folder, adapters, tmp_path):
    adapter = Path(shutil.copytree(adapters[0], tmp_path / "adapter"))
    state = {
        k: torch.zeros(v.shape[0], v.shape[1] + 1) for k, v in load_file(adapter / "adapter_model.safetensors").items()
    }
    save_file(state, adapter / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match="does not fit the language model"):
        LLM2VecEncoder(CONFIG, base=folder / "llama", adapters=[adapter])


def test_an_adapter_with_tensors_for_layers_that_do_not_exist_is_an_error(folder, adapters, tmp_path):
    adapter = Path(shutil.copytree(adapters[0], tmp_path / "adapter"))
    state = load_file(adapter / "adapter_model.safetensors")
    state["base_model.model.layers.7.mlp.up_proj.lora_A.weight"] = torch.zeros(4, 48)
    save_file(state, adapter / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=r"layers\.7"):
        LLM2VecEncoder(CONFIG, base=folder / "llama", adapters=[adapter])


def test_a_width_that_is_not_the_configs_is_an_error(folder, adapters):
    with pytest.raises(WeightsError, match="width is 48"):
        LLM2VecEncoder(replace(CONFIG, hidden_size=64), base=folder / "llama", adapters=adapters)


def test_a_device_map_gives_the_same_vectors(folder, adapters, meta, expected):
    encoder = LLM2VecEncoder(CONFIG, base=folder / "llama", adapters=adapters, device_map="auto")
    np.testing.assert_allclose(encoder.encode(meta["prompts"][:3]), expected["llm2vec_embeds"][:3].numpy(), atol=1e-5)
