"""The benchmarks run, on models small enough for a test; what they count and how they compare is right."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import flops, machine, models, report  # noqa: E402
from benchmarks.isolate import ChildError, isolated  # noqa: E402
from benchmarks.settings import Result, Settings  # noqa: E402
from benchmarks.timing import Case, Series, alternate, expected_seconds, speedup  # noqa: E402
from sattxt.config import BackboneConfig, HeadConfig, VisionConfig  # noqa: E402
from sattxt.vision.device import multiplies_bfloat16  # noqa: E402
from sattxt.vision.tower import VisionTower  # noqa: E402

TINY = Settings(size="tiny").to_dict()
HEAD = HeadConfig(1024, 320, 2, 5, 896)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children run here: what they compute is the same, a new interpreter takes seconds."""
    from benchmarks import images

    def call(function: str, **arguments: object) -> object:
        module, _, name = function.partition(":")
        return json.loads(json.dumps(getattr(importlib.import_module(module), name)(**arguments)))

    monkeypatch.setattr(command, "isolated", call)
    monkeypatch.setattr(images, "isolated", call)


def rows(result: dict, title: str) -> list[dict]:
    found = [table for name, table in result["tables"].items() if title in name]
    assert found, f"no table with {title!r} among {list(result['tables'])}"
    return found[0]


# -- each benchmark ------------------------------------------------------------------------------------------------


def test_images_compares_ours_with_the_reference_and_clip(in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import images

    monkeypatch.setattr(machine, "bfloat16_is_native", lambda device: False)
    monkeypatch.setattr("sattxt.vision.device.multiplies_bfloat16", lambda device: False)  # what dtype="auto" goes by
    result = images.run(**TINY)
    cases = {row["case"]: row for row in rows(result, "ViT-L/16") if row["batch"] == 2}
    assert {"ours float32", "reference float32, same batch", "reference float32, one by one"} <= set(cases)
    assert any(case.startswith("CLIP ViT-L/14") for case in cases)
    assert cases["reference float32, same batch"]["× reference"] == 1.0
    assert all(row["images/s"] > 0 for row in cases.values())
    assert all(row["peak MB"] > 0 for row in rows(result, "Peak memory"))
    assert any("bfloat16 is not measured: this cpu" in note for note in result["notes"])
    assert not any("bfloat16" in row["case"] for table in ("ViT-L/16", "Peak memory") for row in rows(result, table))
    assert "ViT-L/16 float32, share of the float32 matrix product" in {goal["goal"] for goal in result["goals"]}


def test_a_batch_size_that_would_take_too_long_is_left_out_and_said_so(
    in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import images

    monkeypatch.setattr(machine, "bfloat16_is_native", lambda device: False)
    monkeypatch.setattr(Settings, "most_seconds", 0.0)
    result = Result("images", "cpu")
    images._vitl(Settings(**TINY), result)
    assert {row["batch"] for row in rows(result.to_dict(), "ViT-L/16")} == {1}
    assert any("batch 2: left out" in note for note in result.notes)


@pytest.mark.skipif(not multiplies_bfloat16(torch.device("cpu")), reason="this CPU emulates bfloat16")
def test_images_compares_bfloat16_where_it_is_native(in_process: None) -> None:
    from benchmarks import images

    result = images.run(**TINY)
    assert {"ours bfloat16", "CLIP ViT-L/14 bfloat16"} <= {row["case"] for row in rows(result, "ViT-L/16")}


def test_images_refuses_to_compare_what_computes_something_else() -> None:
    from benchmarks.images import _same_values, tiles
    from benchmarks.peers import Reference

    config = models.vitl16_config("tiny")
    ours = models.in_memory(config, torch.float32, "cpu")
    reference = Reference(config.vision)
    reference.load_state_dict(models.tower(ours).state_dict())
    _same_values(ours, reference, tiles(2, 64))
    torch.nn.init.normal_(reference.head.blocks[0].mlp["w3"].weight)
    with pytest.raises(RuntimeError, match="differ"):
        _same_values(ours, reference, tiles(2, 64))


def test_zero_shot_runs_the_references_procedure_beside_ours() -> None:
    from benchmarks import zero_shot

    result = zero_shot.run(**TINY)
    table = rows(result, "One tile over K labels")
    assert {row["K"] for row in table} == {3, 5}
    reference = [row for row in table if row["case"] == "reference's procedure"]
    assert [row["× reference's procedure"] for row in reference] == [1.0, 1.0]
    assert "extrapolated from 3 labels" in " ".join(result["notes"])
    ms = {row["case"]: row["ms"] for row in table if row["K"] == 3}
    assert ms["the labels' part, seen before"] < ms["zero_shot, new labels"]


def test_text_reports_new_and_cached_prompts_and_banks() -> None:
    from benchmarks import text

    result = text.run(**TINY)
    assert all(row["prompts/s"] > 0 for row in rows(result, "Prompts"))
    assert {row["case"].partition(",")[0] for row in rows(result, "Label banks")} >= {"LabelBank.load", "import_labels"}
    assert rows(result, "A text cache of 300 prompts")


def test_folder_embeds_every_tile_and_splits_the_time() -> None:
    from benchmarks import folder

    result = folder.run(**TINY)
    table = {row["stage"]: row for row in rows(result, "48 tiles")}
    assert {"decode", "preprocess", "model", "folder to embeddings"} <= set(table)
    assert table["model"]["× model alone"] == 1.0
    shares = sum(table[stage]["share of CPU time"] for stage in ("decode", "preprocess", "model"))
    assert shares == pytest.approx(1, abs=0.35)  # medians of each stage, not of their sum


def test_training_sets_a_step_beside_stock_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import training

    monkeypatch.setattr(training, "keep_freed_memory", lambda: True)  # for the rest of this process otherwise
    result = training.run(**TINY)
    table = rows(result, "Forward and backward")
    assert [row["memory"] for row in table] == ["as the C library has it"] * 3 + ["freed memory is kept"] * 3
    assert [row["× stock modules"] for row in table if row["case"] == "stock modules"] == [1.0, 1.0]
    assert all(row["tiles/s"] > 0 for row in table)
    ours = training.VisionTower(training.VisionConfig(training.BackboneConfig("mobilenet_v1", {}, 16), HEAD))
    stock = training._Stock(HEAD, 1.0)
    counts = [sum(p.numel() for p in model.parameters()) for model in (stock, ours)]
    assert 0.99 < counts[0] / counts[1] < 1.01
    pixels = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        assert stock(pixels).shape == ours(pixels).embedding.shape
        assert stock.backbone(pixels).last_hidden_state.shape[-2:] == ours(pixels).grid


@pytest.mark.slow
def test_cold_start_in_fresh_processes() -> None:
    result = isolated("benchmarks.cold_start:run", **TINY)
    stages = {row["stage"]: row for row in rows(result, "Cold start")}
    assert stages["process start to first answer"]["ms, text new"] > stages["import sattxt"]["ms, text new"] > 0
    assert stages["first answer"]["peak MB"] >= stages["import sattxt"]["peak MB"]
    assert any(row["package"] == "torch" for row in rows(result, "What importing"))


# -- the command and its report ------------------------------------------------------------------------------------


def test_the_command_prints_tables_and_writes_json(in_process: None, tmp_path: Path, capsys) -> None:
    out = tmp_path / "text.json"
    command.main(["text", "--tiny", "--device", "cpu", "--json", str(out)])
    page = capsys.readouterr().out
    assert page.startswith("# Benchmarks")
    assert "## Goals" in page
    saved = json.loads(out.read_text(encoding="utf-8"))
    assert saved["size"] == "tiny"
    assert saved["machine"]["torch"] == torch.__version__
    assert [result["name"] for result in saved["results"]] == ["text"]


def test_the_report_has_goals_tables_and_a_chart(tmp_path: Path) -> None:
    result = Result("images", "cpu")
    result.tables["Rates"] = [{"case": "ours", "images/s": 1234.5}, {"case": "theirs", "images/s": 0.0123}]
    result.goal("faster", 4, 4.5, unit="×")
    result.goal("memory", 1.0, 2.0, at_least=False, unit=" GB")
    result.panel("Rates", "images/s", [("ours", 1234.5), ("theirs", 0.0123)], log=True)
    machine = {"cpu": "a processor", "cores": 2, "date": "2025-01-01T00:00", "sattxt": "0.1.0", "load_before": 3.0}
    made = {"command": "python -m benchmarks all", "size": "quick", "machine": machine, "results": [result.to_dict()]}
    command.write_report(made, tmp_path / "docs" / "benchmarks")
    page = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "| faster | cpu | ≥ 4× | 4.50 | yes |" in page
    assert "| memory | cpu | ≤ 1 GB | 2.00 | no |" in page
    assert "| ours | 1,234 |" in page
    assert "not idle" in page
    assert "(benchmarks/chart.png)" in page
    assert "## What was found on the way" in page, "what is written by hand outlives a new measurement"
    assert (tmp_path / "docs" / "benchmarks" / "chart.png").stat().st_size > 5000
    assert json.loads((tmp_path / "docs" / "benchmarks" / "results.json").read_text(encoding="utf-8")) == made


# -- what they rest on ---------------------------------------------------------------------------------------------


def test_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    mobile = VisionConfig(BackboneConfig("mobilenet_v1", {"depth_multiplier": 0.25}, 16), HeadConfig(256, 32, 2, 2, 64))
    for config, size in ((models.vitl16_config("tiny").vision, 64), (mobile, 80)):
        tower = VisionTower(config).eval()
        with (
            torch.no_grad(),  # with gradients, more is computed than needed where that is faster
            FlopCounterMode(display=False) as counter,
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            tower(torch.zeros(1, 3, size, size))
        counted = counter.get_total_flops()
        # grouped convolutions are counted by some versions as if they were not
        expected = flops.vision_tower(config, size)
        assert counted == pytest.approx(expected, rel=0.02), config.backbone.model_type


def test_a_vit_l_takes_some_hundred_thirty_billion_operations() -> None:
    config = models.vitl16_config("full")
    # 24 layers x 201 tokens x 12 D^2 multiply-adds are 121.4e9 operations; attention, patches and head are the rest
    assert flops.vision_tower(config.vision, 224) == pytest.approx(121.4e9 + 3.97e9 + 0.31e9 + 10.5e9, rel=0.01)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in VisionTower(config.vision).backbone.parameters())
    assert 300e6 < parameters < 307e6


def test_cases_take_turns_and_ratios_are_of_the_same_round() -> None:
    calls: list[str] = []
    series = alternate({name: Case(lambda name=name: calls.append(name)) for name in "ab"}, rounds=2)
    assert calls == ["a", "b", "a", "b", "b", "a"]  # warm-up, a round, a round in reverse
    assert len(series["a"].wall) == 2
    assert speedup(Series(wall=[2.0, 40.0, 6.0]), Series(wall=[1.0, 10.0, 2.0])) == 3.0


@pytest.mark.parametrize(("budget", "rounds"), [(None, 4), (0.0, 2), (3600.0, 4)])
def test_a_budget_costs_rounds_but_leaves_two(budget: float | None, rounds: int) -> None:
    calls: list[int] = []
    series = alternate({"a": Case(lambda: calls.append(1))}, rounds=4, budget=budget)
    assert len(series["a"].wall) == rounds
    assert len(calls) == 1 + rounds


def test_what_a_larger_batch_will_take_is_reckoned_from_the_one_before() -> None:
    case = Case(lambda: None, items=16)
    assert expected_seconds({"a": case, "new": case}, {"a": Series(wall=[0.5, 0.5])}) == pytest.approx(3 * 16 * 0.5)


def test_the_machine_is_classed_by_its_widest_instructions() -> None:
    assert machine.machine_class(["avx2", "avx512f", "avx512_bf16", "amx_bf16"]) == "AMX"
    assert machine.machine_class(["avx2", "avx512f"]) == "AVX512"
    assert machine.machine_class(["avx2"]) == "AVX2"
    found = machine.facts()
    assert found["machine_class"] == machine.machine_class(found["instructions"])
    assert found["bfloat16"] == ("native" if multiplies_bfloat16(torch.device("cpu")) else "emulated")


def test_labels_are_different_and_every_series_is_new() -> None:
    first, second = models.labels(1000), models.labels(1000, series=1)
    assert len({*first, *second}) == 2000


def test_a_child_gives_its_value_or_says_why_not() -> None:
    assert isolated("benchmarks.machine:usable_cores") >= 1
    with pytest.raises(ChildError, match="no_such_function"):
        isolated("benchmarks.machine:no_such_function")


def test_cells_keep_three_digits_without_exponents() -> None:
    assert [report._cell(value) for value in (12345.6, 3.14159, 0.5, True, "x")] == [
        "12,346",
        "3.14",
        "0.500",
        "yes",
        "x",
    ]
