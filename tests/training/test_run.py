"""The full-size recipe, made small by overrides alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from release_files import LLM

from sattxt.errors import InputError, WeightsError
from sattxt.training.prompts import Prompt
from sattxt.training.recipe import read_recipe
from sattxt.training.run import AlignRun, SRDRun, start_teacher

#: The full-size recipe made small by overrides alone.
TINY: dict[str, Any] = {
    "image.size": 32,
    "vision.random": True,
    "vision.model_type": "dinov3_vit",
    "vision.options": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_register_tokens": 4,
    },
    "head": {"dim": 32, "depth": 1, "heads": 2, "ffn_dim": 64},
    "text_encoder.base": str(LLM),
    "text_encoder.adapters": [],
    "text_encoder.dtype": "float32",
    "srd.teacher": {"kind": "random"},
}


def test_the_full_size_recipe_is_the_published_architecture() -> None:
    recipe = read_recipe("sattxt-vitl16")
    assert recipe.srd is not None
    assert recipe.srd.freeze_backbone
    assert recipe.align.freeze_backbone
    assert recipe.srd.teacher_temperature < recipe.srd.student_temperature
    assert dict(recipe.head) == {"dim": 1024, "depth": 2, "heads": 16, "ffn_dim": 2752}
    assert recipe.srd.teacher.kind == "spectralgpt"
    assert recipe.image.size == 224
    assert recipe.align.instructions


def test_teachers_open_by_the_recipe(tmp_path: Path, golden_dir: Path) -> None:
    checkpoint = golden_dir / "spectralgpt" / "spectralgpt_tiny.pth"
    meta = json.loads((golden_dir / "spectralgpt" / "meta.json").read_text())
    block = {"kind": "spectralgpt", "path": str(checkpoint), "heads": meta["num_heads"]}
    sources = []
    for overrides in ({"srd.teacher": block}, {}, TINY):
        srd = read_recipe("sattxt-vitl16", overrides).srd
        assert srd is not None
        sources.append(srd.teacher)
    assert start_teacher(sources[0], tmp_path).name == "spectralgpt"
    with pytest.raises(InputError, match="no such file"):
        start_teacher(sources[1], tmp_path)
    with pytest.raises(InputError, match="no stage 1"):
        SRDRun(read_recipe("sattxt-vitl16", {"srd": None}), tmp_path, tmp_path / "run")
    random = start_teacher(sources[2], tmp_path)
    assert random.encode(torch.rand(2, 12, 16, 16) * 3000, random.bands).shape == (2, 16, 2, 2)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A data folder: eight scenes in a shard of SSL4EO-S12 v1.1's form, their captions, and six labelled tiles."""
    import csv

    import zarr
    from PIL import Image

    random = np.random.default_rng(0)
    shard = tmp_path / "SSL4EO-S12-v1.1" / "train" / "S2L2A" / "ssl4eos12_train_seasonal_data_000001.zarr.zip"
    shard.parent.mkdir(parents=True)
    arrays = {
        "bands": random.integers(1100, 4000, (2, 4, 12, 32, 32)).astype(np.int16),
        "sample": np.array(["0000012", "0000013"]),
        "band": np.array(["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]),
    }
    store = zarr.storage.ZipStore(shard, mode="w")
    group = zarr.create_group(store, zarr_format=2)
    for name, values in arrays.items():
        chunks = (1, 1, 12, 32, 32) if name == "bands" else values.shape
        group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks)[...] = values
    store.close()
    table = tmp_path / "captions" / "Llama3-SSL4EO-S12-v1.1" / "train" / "0.csv"
    table.parent.mkdir(parents=True)
    with table.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["caption", "sample_id", "time_id"])
        writer.writerows([f"Scene {s} in season {t}.", s, t] for s in (12, 13) for t in range(4))
    for split in ("train", "val"):
        for label, grey in (("water", 40), ("wood", 90), ("sand", 200)):
            path = tmp_path / "labelled" / split / label / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (32, 32), (grey, grey, 255 - grey)).save(path)
    return tmp_path


def test_the_full_size_recipe_runs_dry_scaled_down_by_overrides_alone(scenes: Path) -> None:
    """Shards to a model that opens: both stages, every part random and small."""
    from sattxt import SatTxt
    from sattxt.training.loop import LoopOptions

    small = {"steps": 2, "warmup": 1, "precision": "float32"}
    recipe = read_recipe("sattxt-vitl16", {
        **TINY,
        **{f"{stage}.{key}": value for stage in ("srd", "align") for key, value in small.items()},
        "srd.pairs.ssl4eo.count": 4, "srd.pairs.ssl4eo.size": 32, "srd.global_size": 32, "srd.local_size": 16,
        "align.sets.ssl4eo.count": 4, "align.sets.ssl4eo.size": 32, "align.sizes": [32],
        "align.sets.labelled": {"kind": "folder", "path": "labelled", "size": 32, "count": 1},
    })  # fmt: skip
    options = LoopOptions(log_every=1)
    first = SRDRun(recipe, scenes, scenes / "run-srd")
    backbone = {k: v.clone() for k, v in first.model.vision.backbone.state_dict().items()}
    head = first.model.vision.head.ln_final.weight.clone()
    assert first.train(options) == 2
    assert all(torch.equal(backbone[k], v) for k, v in first.model.vision.backbone.state_dict().items())  # frozen
    assert not torch.equal(first.model.vision.head.ln_final.weight, head)

    second = AlignRun(recipe, scenes, scenes / "run-align", init=scenes / "run-srd")
    assert torch.equal(second.model.vision.head.ln_final.weight, first.average.vision.head.ln_final.weight)
    assert {p.text for p in second.aligner.book.row if isinstance(p, Prompt)} | {
        p for p in second.aligner.book.row if isinstance(p, str)
    } >= {f"Scene {s} in season {t}." for s in (12, 13) for t in range(4)}
    assert second.train(options) == 2
    brighter = recipe.replace(image=recipe.image.replace(mean=(0.1, 0.1, 0.1)))
    with pytest.raises(WeightsError, match=r"last.ckpt: was written with image="):
        AlignRun(brighter, scenes, scenes / "run-align", init=scenes / "run-srd").resume()

    model = SatTxt.from_pretrained(second.export(scenes / "model"), dtype="float32", text_cache=False)
    tile = next((scenes / "labelled" / "val").glob("*/*.png"))
    for vectors in (model.encode_text(["water from space"]), model.encode_image([tile])):
        assert np.asarray(vectors).shape == (1, 64)
        assert np.isfinite(np.asarray(vectors)).all()
