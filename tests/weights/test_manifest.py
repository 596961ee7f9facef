"""weights_manifest.json: complete, the same in both places, and readable without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from release_files import convert_golden

from sattxt.config import IMAGE_PRESETS
from sattxt.weights.checksums import read_sums
from sattxt.weights.directory import is_model_dir, read_model
from sattxt.weights.manifest import RECORDS, find_model, list_models, model_card
from sattxt.weights.resolver import BUNDLED

ROOT = Path(__file__).parents[2]
PACKAGED = ROOT / "src" / "sattxt" / "weights" / "weights_manifest.json"


def test_the_copy_at_the_top_is_the_packaged_file() -> None:
    assert (ROOT / "weights_manifest.json").read_bytes() == PACKAGED.read_bytes()


def test_both_models_are_listed_without_torch() -> None:
    code = (
        "import sys; from sattxt.weights.manifest import list_models; "
        "print(*[entry.name for entry in list_models()], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sattxt-mini", "sattxt-vitl16", "False"]


def test_every_component_says_where_it_is_and_under_which_licence() -> None:
    for entry in list_models():
        assert entry.citations
        assert entry.licences
        for part in entry.components:
            assert part.files, part
            assert part.licence, part
            assert part.format, part
            assert part.source in ("bundled", "hub"), part


def test_the_published_model_names_its_gates_and_what_to_accept() -> None:
    entry = find_model("sattxt-vitl16")
    assert entry is not None
    assert entry.preprocessing in IMAGE_PRESETS
    assert entry.embed_dim == 2048
    assert set(entry.gated) == {
        "facebook/dinov3-vitl16-pretrain-sat493m",
        "meta-llama/Meta-Llama-3-8B-Instruct",
    }
    assert {"MIT", "llama3"} <= {item["says"] for item in entry.licences if "head" in item["covers"]}
    assert sum(item["accept"] is not None for item in entry.licences) >= 3


@pytest.mark.skipif(not is_model_dir(BUNDLED / "sattxt-mini"), reason="the bundled model is not in this checkout yet")
def test_the_bundled_files_are_those_of_the_manifest() -> None:
    entry = find_model("sattxt-mini")
    assert entry is not None
    folder = BUNDLED / "sattxt-mini"
    sums = read_sums(folder)
    for part in entry.components:
        for item in part.files:
            assert item["sha256"] == sums[item["name"]], "run scripts/refresh_manifest.py"
            assert item["bytes"] == (folder / item["name"]).stat().st_size
    assert entry.embed_dim == read_model(folder).config.embed_dim


def test_every_record_is_complete_and_its_keys_are_known() -> None:
    manifest = json.loads(PACKAGED.read_text(encoding="utf-8"))
    assert manifest["manifest_version"] == 1
    optional = {"accept", "use", "command", "date", "source"}
    for model in manifest["models"]:
        for section, keys in RECORDS.items():
            for record in model[section]:
                assert set(keys) - optional <= set(record) <= set(keys), record
        for metric in model["metrics"]:
            assert {"command", "date"} <= set(metric) or "source" in metric, metric


def test_what_a_record_lacks_is_none() -> None:
    bundled, published = list_models()
    assert bundled.metrics[0]["source"] is None
    assert published.metrics[0]["command"] is None


def test_the_bundled_card_is_written_from_todays_manifest() -> None:
    stored = read_model(BUNDLED / "sattxt-mini")
    card = (BUNDLED / "sattxt-mini" / "README.md").read_text(encoding="utf-8")
    assert card == model_card(stored.config), "run scripts/refresh_manifest.py"


def test_the_card_states_licences_preprocessing_and_numbers(tmp_path: Path) -> None:
    stored = read_model(convert_golden(tmp_path / "model"))
    card = model_card(stored.config)
    for text in ("library_name: sattxt", "DINOv3 License", "llama3", "`official`", "73.4", "128 dimensions", "arXiv"):
        assert text in card, text
