"""``sattxt classify`` with a model that sees only the brightness of a tile: what it prints and returns."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest
from cli_fakes import sattxt

from sattxt.cli import options


def test_table_names_the_label_of_every_tile_of_a_folder(model, tiles, capsys):
    assert sattxt("classify", tiles, "--labels", "dark, bright") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [str(tiles / "night.png"), "dark"],
        [str(tiles / "deep" / "día.png"), "bright"],
    ]
    assert len({line.index("0.") for line in lines}) == 1, "columns are aligned"
    assert err == ""


def test_json_is_one_object_a_line(model, tiles, capsys):
    assert sattxt("classify", f"{tiles}/**/*.png", "-l", "dark,bright", "--json", "--top", "1") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {Path(a["path"]).name: a["label"] for a in answers} == {"night.png": "dark", "día.png": "bright"}
    (best,) = answers[0]["top"]
    assert set(best) == {"label", "prob", "score"}
    assert 0.5 < best["prob"] <= 1
    assert len(str(best["prob"])) <= 6


def test_csv_has_a_header_and_one_row_a_tile(model, tiles, capsys):
    assert sattxt("classify", tiles, "-l", '"dark, very",bright', "--csv", "-k", "2") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["label"] for row in rows] == ["dark, very", "bright"]
    assert set(rows[0]) == {
        "path", "label", "label_1", "prob_1", "score_1", "label_2", "prob_2", "score_2", "fit", "error",
    }  # fmt: skip
    assert float(rows[0]["prob_1"]) + float(rows[0]["prob_2"]) == pytest.approx(1, abs=1e-3)


def test_multi_label_answers_with_all_labels_above_the_threshold(model, tiles, capsys):
    arguments = ("classify", tiles / "night.png", "-l", "dark,bright", "--multi-label", "--json")
    assert sattxt(*arguments) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["dark"]
    assert sattxt(*arguments, "--threshold", "0") == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["dark", "bright"]


def test_labels_from_files(model, tiles, tmp_path):
    lines = tmp_path / "labels.txt"
    lines.write_text("\ufeffdark\n\nbright \n", encoding="utf-8")
    synonyms = tmp_path / "labels.json"
    synonyms.write_text('{"dark": ["night", "shadow"], "bright": "snow"}')
    assert sattxt("classify", tiles, "-l", f"@{lines}") == 0
    assert model.labels == {"dark": ("dark",), "bright": ("bright",)}
    assert sattxt("classify", tiles, "-l", f"@{synonyms}") == 0
    assert model.labels == {"dark": ("night", "shadow"), "bright": ("snow",)}


@pytest.mark.parametrize(("separator", "flags"), [("\n", []), ("\r\n", []), ("\0", ["-0"])])
def test_image_list_on_stdin(model, tiles, monkeypatch, separator, flags):
    names = [str(tiles / "night.png"), str(tiles / "deep" / "día.png")]
    data = os.fsencode(separator.join([*names, ""]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert sattxt("classify", "-", *flags, "-l", "dark,bright") == 0
    assert model.calls[0]["images"] == names


def test_many_images_go_through_in_chunks_and_in_order(model, tiles, monkeypatch, capsys):
    monkeypatch.setattr(options, "FIRST_CHUNK", 2)
    paths = [tiles / "night.png", tiles / "deep" / "día.png", tiles / "night.png"]
    assert sattxt("classify", *paths, "-l", "dark,bright", "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["label"] for row in rows] == ["dark", "bright", "dark"]
    assert [len(call["images"]) for call in model.calls] == [2, 1]


def test_what_was_computed_before_a_bad_image_is_shown(golden_model_dir, tiles, capsys):
    bad = tiles / "broken.png"
    bad.write_bytes(b"no picture")
    paths = [tiles / "night.png"] * 70 + [bad] + [tiles / "night.png"] * 5
    model = ("--model", golden_model_dir, "--dtype", "float32")
    assert sattxt("classify", *paths, "-l", "dark,bright", *model) == 2
    out, err = capsys.readouterr()
    assert out.count("night.png") == 70
    assert err.count(str(bad)) == 1


def test_no_label_that_fits_is_an_answer(tiles, tmp_path, capsys):
    arguments = ("classify", tiles / "night.png", "-l", "unicorn,guitar")
    assert sattxt(*arguments) == 0
    assert capsys.readouterr().out.endswith("weak match\n")
    assert sattxt(*arguments, "--none-of-these", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["label"] == "none of these"
    assert answer["fit"] < 0.5
    assert answer["fits"] is False
    assert sattxt(*arguments, "--multi-label") == 0
    assert "(unicorn" in (out := capsys.readouterr().out) or "(guitar" in out


def test_none_of_these_needs_a_model_that_can_tell(model, tiles, capsys):
    assert sattxt("classify", tiles, "-l", "dark,bright", "--none-of-these") == 2
    assert "cannot tell whether a label fits" in capsys.readouterr().err


def test_skipped_images_are_told_and_change_the_exit_code(model, tiles, capsys):
    bad = tiles / "broken.png"
    bad.write_bytes(b"no picture")
    missing = tiles / "missing.png"
    assert sattxt("classify", tiles, missing, "-l", "dark,bright", "--on-error", "skip", "--json") == 1
    out, err = capsys.readouterr()
    answers = {Path(a["path"]).name: a for a in map(json.loads, out.splitlines())}
    assert len(answers) == 4
    assert "label" in answers["night.png"]
    assert "no such file" in answers["missing.png"]["error"]
    assert err.count("sattxt: skipped: ") == 2
    assert str(bad) in err
    assert err.endswith("sattxt: 2 of 4 images skipped\n")


def test_without_skip_the_first_bad_image_ends_the_job_with_one_line(model, tiles, capsys):
    (tiles / "broken.png").write_bytes(b"no picture")
    assert sattxt("classify", tiles, "-l", "dark,bright") == 2
    err = capsys.readouterr().err
    assert err.startswith("sattxt: error: ")
    assert err.count("\n") == 1
    assert "broken.png" in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{tiles}"], "no labels"),
        (["{tiles}", "-l", "a,b", "--label-set", "eurosat"], "labels and label_set are both given: pass one"),
        (["{tiles}", "-l", " , "], "labels is empty: pass at least one"),
        (["{tiles}", "-l", "@{tiles}/none.txt"], "none.txt: cannot be read"),
        (["{tiles}/nowhere.png", "-l", "a,b"], "nowhere.png: no such file"),
        (["{tiles}/*.gif", "-l", "a,b"], "no file matches"),
        (["{tiles}/empty", "-l", "a,b"], "holds no image"),
        (["-", "-", "-l", "a,b"], "once"),
        (["{tiles}", "-l", "a,b", "--json", "--csv"], "exclude each other"),
        (["{tiles}", "-l", "a,b", "--threshold", "0.3"], "--multi-label"),
        (["{tiles}", "-l", "a,b", "--template", "a photo"], "{{}}"),
        (["{tiles}", "-l", "a,b", "--template", "a {{}}", "--ensemble"], "exclude each other"),
        (["{tiles}", "-l", "a,A"], "duplicate"),
        (["{tiles}", "--label-set", "eurosta"], "'eurosat'"),
        (["{tiles}", "--bank", "b.safetensors", "--template", "a {{}}"], "--template means nothing"),
        (["{tiles}", "-l", "a,b", "--stretch", "3,x"], "--stretch 3,x"),
        (["{tiles}", "-l", "a,b", "--bands", "1,2"], "--bands 1,2: pass three"),
    ],
)
def test_wrong_usage_is_told_before_a_model_is_opened(model, tiles, capsys, arguments, complaint):
    (tiles / "empty").mkdir()
    assert sattxt("classify", *(a.format(tiles=tiles) for a in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sattxt: error: ")
    assert complaint.replace("{{}}", "{}") in err
    assert model.opened_with == {}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep file names as text")
@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_file_names_that_are_no_utf8_come_out_as_they_are(form, model, tiles, capsysbinary):
    name = os.fsencode(tiles) + b"/caf\xe9.png"
    os.rename(tiles / "night.png", name)
    assert sattxt("classify", tiles, "-l", "dark,bright", form) == 0
    out = capsysbinary.readouterr().out
    if form == "--json":
        paths = [os.fsencode(json.loads(line)["path"]) for line in out.splitlines()]
    else:
        paths = [line.split(b",")[0] for line in out.splitlines()[1:]]
    assert name in paths
