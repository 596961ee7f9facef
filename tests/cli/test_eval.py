"""``sattxt eval``: what it prints and writes, on a model that sees colour; once on the miniature release."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import COLOURS, ColourEncoder, tile, write_folders
from PIL import Image

from sattxt.cli import app
from sattxt.cli.eval_options import Setup

PNG = b"\x89PNG"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ColourEncoder:
    encoder = ColourEncoder()
    monkeypatch.setattr(Setup, "open_encoder", lambda self, image_size=None: encoder)
    return encoder


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "tiles", 10, ("train", "val"))


def measure(*arguments: str | Path) -> int:
    return app.run(["eval", *[str(argument) for argument in arguments]])


def test_zero_shot_writes_a_result_and_shows_a_table(model, tiles, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert measure("zero-shot", "--data", tiles, "--json", out) == 0
    document = json.loads(out.read_text())
    assert document["top1"] == 100.0
    assert document["n"] == 30
    assert {row["class"]: row["accuracy"] for row in document["per_class"]} == {
        "BlueField": 100.0,
        "GreenField": 100.0,
        "RedField": 100.0,
    }
    assert document["model"]["fingerprint"] == model.fingerprint
    assert len(document["data"]["fingerprint"]) == 64
    assert document["environment"]["versions"]["sattxt"]
    assert document["command"] == f"sattxt eval zero-shot --data {tiles}"
    shown = capsys.readouterr().out
    assert "zero-shot: colour on tiles, val, 30 images" in shown
    assert "top1" in shown
    assert "green field" in shown


def test_the_command_in_a_result_gives_the_same_figures_again(model, tiles, tmp_path, monkeypatch):
    import shlex

    monkeypatch.setenv("SATTXT_DATA", str(tmp_path))
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    options = ["--templates", "the {}", "--templates", "{} seen", "--limit", "9", "--split", "train"]
    assert measure("zero-shot", "--data", tiles, *options, "--json", first) == 0
    a = json.loads(first.read_text())
    assert "--data $SATTXT_DATA/tiles" in a["command"]
    command = shlex.split(a["command"].replace("$SATTXT_DATA", str(tmp_path)))
    assert command[0] == "sattxt"
    assert app.run([*command[1:], "--json", str(second)]) == 0
    b = json.loads(second.read_text())
    assert b["settings"] == a["settings"] == {"templates": ["the {}", "{} seen"], "names_from": "class names"}
    assert (a["n"], b["n"], a["data"]["split"]) == (9, 9, "train")
    assert a["samples"] == b["samples"]


def test_json_on_standard_output_is_all_there_is(model, tiles, capsys):
    for command in ("zero-shot", "retrieval", "probe", "scale"):
        assert measure(command, "--data", tiles, "--json", "-", "--quiet") == 0
        assert json.loads(capsys.readouterr().out)["task"] == command


def test_names_and_label_sets_give_the_words(model, tmp_path, capsys):
    root = write_folders(tmp_path / "x", 2, classes={"Forest": "green", "SeaLake": "blue"})
    assert measure("zero-shot", "--data", root) == 0
    assert "--label-set eurosat uses its names" in capsys.readouterr().err
    assert measure("zero-shot", "--data", root, "--label-set", "eurosat") == 0
    assert "sea or lake" in capsys.readouterr().out
    assert "a picture of sea or lake" in model.texts_seen
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"Forest": "green wood", "SeaLake": ["blue sea", "blue lake"]}))
    assert measure("zero-shot", "--data", root, "--names", names, "--templates", "{}") == 0
    assert {"green wood", "blue sea", "blue lake"} <= set(model.texts_seen)
    assert measure("zero-shot", "--data", root, "--names", names, "--label-set", "eurosat") == 2


def test_templates_by_several_and_by_name(model, tiles):
    assert measure("zero-shot", "--data", tiles, "--templates", "one {}", "--templates", "two {}") == 0
    assert {"one red field", "two red field"} <= set(model.texts_seen)
    assert measure("zero-shot", "--data", tiles, "--templates", "ensemble") == 0
    assert "red field seen from above" in model.texts_seen


def test_centred_scores_are_called_transductive(model, tiles, tmp_path):
    out = tmp_path / "out.json"
    assert measure("zero-shot", "--data", tiles, "--centre-scores", "--json", out) == 0
    document = json.loads(out.read_text())
    assert document["settings"]["transductive"] is True
    assert document["command"].endswith("--centre-scores")
    (tmp_path / "p.json").write_text("{}")
    assert measure("zero-shot", "--data", tiles, "--centre-scores", "--prompts", tmp_path / "p.json") == 2


def test_prompts_measure_every_phrasing(model, tiles, tmp_path, capsys):
    file = tmp_path / "p.json"
    file.write_text(json.dumps({f"{c.capitalize()}Field": [c, f"so {c}"] for c in COLOURS}))
    assert measure("zero-shot", "--data", tiles, "--prompts", file, "--json", tmp_path / "r.json") == 0
    assert "so green" in capsys.readouterr().out
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["top1"] == 100.0
    assert document["top1_std"] == 0.0


def test_a_report_has_the_confusion_matrix_as_a_picture(model, tiles, tmp_path):
    assert measure("zero-shot", "--data", tiles, "--report", tmp_path / "report") == 0
    assert (tmp_path / "report" / "confusion.png").read_bytes().startswith(PNG)


def test_probe_scale_and_retrieval_draw_and_tell(model, tiles, tmp_path, capsys):
    report = tmp_path / "report"
    assert measure("probe", "--data", tiles, "--shots", "1,2", "--report", report) == 0
    assert "linear_top1" in capsys.readouterr().out
    assert measure("scale", "--data", tiles, "--factors", "1,2", "--sizes", "32", "--report", report) == 0
    assert "top1_x2" in capsys.readouterr().out
    assert measure("retrieval", "--data", tiles) == 0
    assert "map@100" in capsys.readouterr().out
    for name in ("few_shot", "scale_gsd", "scale_input_size"):
        assert (report / f"{name}.png").read_bytes().startswith(PNG)


def test_captions_are_searched_where_there_are_any(model, tmp_path, capsys):
    for i, colour in enumerate(COLOURS):
        Image.fromarray(tile(colour, i)).save(tmp_path / f"{colour}.png")
    lines = [json.dumps({"image": f"{c}.png", "captions": [f"a {c} field"]}) for c in COLOURS]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    assert measure("retrieval", "--data", tmp_path, "--captions", tmp_path / "c.jsonl") == 0
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("mean_recall ")]
    assert row[1] == "100.00"
    assert measure("retrieval", "--data", tmp_path / "c.jsonl", "--templates", "a {}") == 2


def test_images_are_encoded_once_for_all_tasks(model, tiles):
    for command in ("zero-shot", "retrieval", "scale"):
        extra = ["--factors", "1"] if command == "scale" else []
        assert measure(command, "--data", tiles, "--quiet", *extra) == 0
    assert model.images_seen == 30
    assert measure("zero-shot", "--data", tiles, "--no-cache") == 0
    assert model.images_seen == 60


def test_compare_puts_two_results_side_by_side(model, tiles, tmp_path, capsys):
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"RedField": "green", "GreenField": "red", "BlueField": "blue"}))
    for name, extra in (("a", ["--names", names]), ("b", [])):
        assert measure("zero-shot", "--data", tiles, "--json", tmp_path / f"{name}.json", *extra) == 0
    capsys.readouterr()
    assert measure("compare", tmp_path / "a.json", tmp_path / "b.json") == 0
    shown = capsys.readouterr().out
    assert "30 images in both" in shown
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("top1")]
    assert row[1:4] == ["33.33", "100.00", "66.67"]
    assert measure("compare", tmp_path / "a.json", tmp_path / "b.json", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"][0]["low"] > 0


def test_unreadable_images_are_left_out_counted_and_named(model, tiles, tmp_path, capsys):
    good, out = tmp_path / "good.json", tmp_path / "out.json"
    assert measure("zero-shot", "--data", tiles, "--json", good) == 0
    broken = tiles / "val" / "GreenField" / "GreenField_13.png"
    broken.write_bytes(b"no picture")
    names = tmp_path / "names.json"  # blue is called green and the other way round: a label that slipped would show
    names.write_text(json.dumps({"RedField": "red", "GreenField": "blue", "BlueField": "green"}))
    assert measure("zero-shot", "--data", tiles, "--names", names, "--json", out) == 2
    assert "GreenField_13.png: is no image" in capsys.readouterr().err
    for _ in range(2):  # computed, then from the cache
        assert (
            measure("zero-shot", "--data", tiles, "--names", names, "--on-error", "skip", "--json", out, "--overwrite")
            == 0
        )
        assert (
            "1 images left out, they cannot be read:\n  val/GreenField/GreenField_13.png: " in capsys.readouterr().out
        )
        document = json.loads(out.read_text())
        assert document["skipped"]["count"] == 1
        (row,) = document["skipped"]["first"]
        assert row["name"] == "val/GreenField/GreenField_13.png"
        assert row["error"].startswith("val/GreenField/GreenField_13.png: is no image")
        assert document["n"] == 29
        assert document["confusion"] == [[0, 10, 0], [9, 0, 0], [0, 0, 10]]
        assert "--on-error skip" in document["command"]
        assert "val/GreenField/GreenField_13.png" not in document["samples"]["ids"]
    assert json.loads(good.read_text())["skipped"] == {"count": 0, "first": []}
    assert measure("zero-shot", "--data", tiles) == 2, "embeddings kept from a run that skipped do not hide a bad file"


@pytest.mark.parametrize("command", ["retrieval", "probe", "scale"])
def test_every_task_leaves_unreadable_images_out(model, tiles, tmp_path, command):
    (tiles / "val" / "RedField" / "RedField_10.png").write_bytes(b"")
    (tiles / "train" / "RedField" / "RedField_00.png").write_bytes(b"")
    out = tmp_path / "out.json"
    assert measure(command, "--data", tiles, "--json", out) == 2
    assert measure(command, "--data", tiles, "--on-error", "skip", "--json", out) == 0
    document = json.loads(out.read_text())
    assert document["n"] == 29
    assert document["skipped"]["count"] == (2 if command == "probe" else 1)


def test_nothing_readable_is_an_error(model, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "x" / name).mkdir(parents=True)
        (tmp_path / "x" / name / "1.png").write_bytes(b"no picture")
    assert measure("zero-shot", "--data", tmp_path / "x", "--on-error", "skip") == 2
    assert "none of the 2 images can be read, first a/1.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zero-shot", "--data", "missing"], "missing: no such folder"),
        (["zero-shot", "--data", "TILES", "--split", "test"], "has no split 'test'; it has 'train', 'val'"),
        (["zero-shot", "--data", "TILES", "--json", "no/such/folder/x.json"], "its folder does not exist"),
        (["zero-shot", "--data", "TILES", "--templates", "no place"], "has no {}"),
        (["probe", "--data", "TILES", "--split", "train"], "needs a training split"),
        (["spectral", "--data", "TILES"], "cannot be read as a TIFF"),
        (["segment", "--data", "TILES"], "no classes.json"),
        (["compare", "a.json", "b.json"], "a.json: cannot be read as a result"),
        (
            ["retrieval", "--data", "TILES", "--captions", "none.jsonl"],
            "none.jsonl: cannot be read (No such file or directory); pass",
        ),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_exit_code_2(model, tiles, capsys, arguments, message):
    assert measure(*[str(tiles) if a == "TILES" else a for a in arguments]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert err.splitlines()[-1].startswith("sattxt: error: ")


def test_help_needs_no_torch():
    code = (
        "import sys; from sattxt.cli import app; app.run(['eval', '--help']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'sklearn', 'matplotlib')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0
    for command in ("zero-shot", "retrieval", "probe", "segment", "spectral", "scale", "compare"):
        assert command in found.stdout


def test_segmentation_by_the_miniature_release_end_to_end(golden_model_dir, tmp_path):
    folder = tmp_path / "x"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(folder / "images" / "a.png")
    Image.fromarray(random.integers(0, 3, (70, 90), dtype=np.uint8)).save(folder / "masks" / "a.png")
    (folder / "classes.json").write_text(json.dumps(["unlabelled", "road", "water"]))
    out = tmp_path / "r.json"
    arguments = ["--data", folder, "--model", golden_model_dir, "--dtype", "float32", "--json", out]
    assert measure("segment", *arguments, "--report", tmp_path) == 0
    assert (tmp_path / "segment.png").read_bytes().startswith(PNG)
    document = json.loads(out.read_text())
    assert [row["class"] for row in document["per_class"]] == ["road", "water"]
    assert 0 < document["miou"] < 100
    assert document["model"]["kind"] == "sattxt"
    for name in ("images", "masks"):
        Image.new("RGB" if name == "images" else "L", (70, 90)).save(folder / name / "b.png")
    (folder / "images" / "b.png").write_bytes(b"no picture")
    assert measure("segment", *arguments, "--overwrite") == 2
    assert measure("segment", *arguments, "--overwrite", "--on-error", "skip") == 0
    skipping = json.loads(out.read_text())
    assert (skipping["n"], skipping["skipped"]["count"], skipping["miou"]) == (1, 1, document["miou"])


def test_other_input_sizes_of_the_miniature_release(golden_model_dir, tiles, tmp_path):
    out = tmp_path / "r.json"
    arguments = ["--data", tiles, "--model", golden_model_dir, "--dtype", "float32", "--limit", "6", "--json", out]
    assert measure("scale", *arguments, "--factors", "1", "--sizes", "64") == 0
    document = json.loads(out.read_text())
    assert [row["size"] for row in document["input_size"]] == [64]
    assert measure("scale", *arguments, "--sizes", "64", "--preprocess", "unit") == 2
