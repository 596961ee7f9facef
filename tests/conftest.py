"""Fixtures shared by the whole suite."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from sattxt import SatTxt

pytest_plugins = ("_no_skips",)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own cache."""
    monkeypatch.setenv("SATTXT_CACHE", str(tmp_path / "sattxt-cache"))


@pytest.fixture(autouse=True)
def _no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs by default is no matter of how busy this machine is: torch in float32."""
    monkeypatch.setattr("sattxt.vision.backend._measure", lambda folder, config, choices: choices[0])


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real tiles that SATTXT_DATA names; without one the test is skipped (never in CI)."""
    named = os.environ.get("SATTXT_DATA")
    if not named:
        pytest.skip("SATTXT_DATA names no folder of real tiles")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"SATTXT_DATA={named} is not a folder")
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Outputs of the original code on miniature checkpoints."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature release, converted to a model directory by the public function."""
    from sattxt import convert

    parts = GOLDEN / "sattxt"
    return convert(
        parts / "dinov3_vit_tiny_pretrain_sat.pth",
        parts / "sattxt_vision_head.pt",
        parts / "sattxt_text_head.pt",
        parts / "llama",
        [parts / "llm2vec-mntp", parts / "llm2vec-mntp-unsup-simcse"],
        out=tmp_path_factory.mktemp("golden") / "model",
    )


@pytest.fixture(scope="session")
def mini() -> SatTxt:
    """The bundled model, in float32, without a text cache on disk."""
    from sattxt import SatTxt

    return SatTxt.from_pretrained(dtype="float32", text_cache=False)


@pytest.fixture(scope="session")
def model(golden_model_dir: Path) -> SatTxt:
    """The miniature release in float32, without a text cache on disk."""
    from sattxt import SatTxt

    return SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False)


@pytest.fixture(scope="session")
def tiles() -> list[np.ndarray]:
    """Five smooth random (64, 64, 3) uint8 tiles."""
    random = np.random.default_rng(0)
    smooth = [Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(5)]
    return [np.asarray(s.resize((64, 64), Image.Resampling.BICUBIC)) for s in smooth]


@pytest.fixture(scope="session")
def bert_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as sentence-transformers writes it: with a pooler, position ids, and fixed padding."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    words = ["a", "satellite", "image", "of", "river", "forest", "city", "lake", "the", "water", "and", "built", "land"]
    words += ["describe", "cover"]
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(max_length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    model = BertModel(config)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    state["embeddings.position_ids"] = torch.arange(32)[None]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "_name_or_path": "somewhere/else"}))
    return folder
