"""The command line against a model that sees only the brightness of a tile: what it prints, writes and returns."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sattxt.classify.classifier import Calibration, Classifier
from sattxt.cli import app, runtime
from sattxt.config import BackboneConfig, HeadConfig, ImageConfig, ModelConfig, TextEncoderConfig, VisionConfig
from sattxt.errors import HubError, ImageError, InputError, MissingExtraError, WeightsError
from sattxt.images.load import Failure
from sattxt.images.read import to_rgb
from sattxt.segment import Segmentation
from sattxt.text.cache import TextCache
from sattxt.text.label_bank import LabelBank
from sattxt.vision.embeddings import Embeddings
from sattxt.weights.checksums import write_sums


class BrightnessModel:
    """Embeds a tile as the angle that its mean brightness gives; of two labels the first means dark."""

    def __init__(self) -> None:
        self.opened_with: dict[str, Any] = {}
        self.calls: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        return "BrightnessModel"

    def encode_image(self, images: Any, *, on_error: str = "raise", options: Any = None, **rest: Any) -> Any:
        self.calls.append({"images": list(images), "options": options, **rest})
        rows, indices, failures = [], [], []
        for index, path in enumerate(images):
            try:
                angle = float(to_rgb(path, options).mean()) / 255 * np.pi / 2
            except ImageError as error:
                if on_error == "raise":
                    raise
                failures.append(Failure(index, path, str(error)))
                continue
            rows.append([np.cos(angle), np.sin(angle)])
            indices.append(index)
        vectors = np.array(rows, dtype=np.float32).reshape(-1, 2)
        return Embeddings(vectors, indices, [images[i] for i in indices], failures)

    def encode_text(self, texts: list[str], **_: Any) -> Any:
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)

    def classifier(self, labels: Any, *, multi_label: bool = False, **options: Any) -> Classifier:
        self.labels, self.label_options = labels, options
        vectors = np.array([[1, 0], [0, 1]], dtype=np.float32)
        background = np.array([[0.7, 0.7]], dtype=np.float32) if multi_label else None
        return Classifier(dict.fromkeys(labels, 1), vectors, Calibration(10), self.encode_image, background)

    def segment(self, image: Any, labels: Any, **options: Any) -> Segmentation:
        self.label_options = options
        label_map = np.array([[0, 0], [0, 1]], dtype=np.int16)
        scores = np.zeros((2, 2, 2), dtype=np.float32)
        return Segmentation(tuple(labels), label_map, scores, 10.0, np.zeros((2, 2, 3), dtype=np.uint8))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> BrightnessModel:
    opened = BrightnessModel()

    def open_model(name: str, **options: Any) -> BrightnessModel:
        opened.opened_with = {"name": name, **options}
        return opened

    monkeypatch.setattr(runtime, "open_model", open_model)
    return opened


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    folder = tmp_path / "tiles"
    (folder / "deep").mkdir(parents=True)
    Image.new("RGB", (8, 8), (10, 10, 10)).save(folder / "night.png")
    Image.new("RGB", (8, 8), (250, 250, 250)).save(folder / "deep" / "día.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


def sattxt(*arguments: str | Path) -> int:
    return app.run([str(argument) for argument in arguments])


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
        "path", "label", "label_1", "prob_1", "score_1", "label_2", "prob_2", "score_2", "error",
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
    assert model.labels == ["dark", "bright"]
    assert sattxt("classify", tiles, "-l", f"@{synonyms}") == 0
    assert model.labels == {"dark": ["night", "shadow"], "bright": ["snow"]}


@pytest.mark.parametrize(("separator", "flags"), [("\n", []), ("\r\n", []), ("\0", ["-0"])])
def test_image_list_on_stdin(model, tiles, monkeypatch, separator, flags):
    names = [str(tiles / "night.png"), str(tiles / "deep" / "día.png")]
    data = os.fsencode(separator.join([*names, ""]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert sattxt("classify", "-", *flags, "-l", "dark,bright") == 0
    assert model.calls[0]["images"] == names


def test_many_images_go_through_in_chunks_and_in_order(model, tiles, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "CHUNK", 2)
    paths = [tiles / "night.png", tiles / "deep" / "día.png", tiles / "night.png"]
    assert sattxt("classify", *paths, "-l", "dark,bright", "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["label"] for row in rows] == ["dark", "bright", "dark"]
    assert [len(call["images"]) for call in model.calls] == [2, 1]


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
        (["{tiles}", "-l", "a,b", "--label-set", "eurosat"], "exclude each other"),
        (["{tiles}", "-l", " , "], "no label in it"),
        (["{tiles}", "-l", "@{tiles}/none.txt"], "none.txt"),
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
        (["{tiles}", "-l", "a,b", "--bands", "1,2"], "bands="),
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


def test_image_options_reach_the_model(model, tiles):
    flags = ["--stretch", "0,4000", "--bands", "B4,3,red", "--band-names", "l2a", "--offset", "1000"]
    assert sattxt("classify", tiles, "-l", "dark,bright", "--on-error", "skip", *flags) == 1
    options = model.calls[0]["options"]
    assert (options.stretch, options.bands, options.offset) == ((0, 4000), ("B4", 3, "red"), 1000)
    assert options.band_names[:2] == ("B01", "B02")


def test_model_options_reach_the_model(model, tiles):
    flags = ["-m", "some/dir", "--device", "cpu", "--dtype", "float32", "--offline", "--batch-size", "7"]
    assert sattxt("classify", tiles, "-l", "dark,bright", *flags) == 0
    assert model.opened_with["name"] == "some/dir"
    assert model.opened_with["local_files_only"] is True
    assert model.opened_with["dtype"] == "float32"
    assert model.calls[0]["batch_size"] == 7


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad argument"), 2),
        (WeightsError("damaged"), 3),
        (HubError("unreachable"), 3),
        (MissingExtraError("geo", "rasterio", "reading this"), 4),
        (PermissionError(13, "Permission denied", "x.png"), 2),
    ],
)
def test_exit_codes_of_errors(monkeypatch, tiles, capsys, error, code):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(runtime, "open_model", fail)
    assert sattxt("classify", tiles, "-l", "a,b") == code
    err = capsys.readouterr().err
    assert err.startswith("sattxt: error: ")
    assert "Traceback" not in err
    assert sattxt("--debug", "classify", tiles, "-l", "a,b") == code
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_ours_shows_its_traceback(monkeypatch, tiles, capsys):
    monkeypatch.setattr(runtime, "open_model", lambda *_, **__: {}["gone"])
    assert sattxt("classify", tiles, "-l", "a,b") == 70
    assert "KeyError" in capsys.readouterr().err


def test_ctrl_c_ends_quietly(monkeypatch, tiles, capsys):
    def interrupt(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(runtime, "open_model", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may start with it ignored
    try:
        assert sattxt("classify", tiles, "-l", "a,b") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "sattxt: interrupted\n"


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_embed_writes_one_row_an_image_with_its_name(model, tiles, tmp_path, capsys, suffix):
    out = tmp_path / f"vectors{suffix}"
    bad = tiles / "broken.png"
    bad.write_bytes(b"no picture")
    assert sattxt("embed", tiles, "-o", out, "--on-error", "skip") == 1
    names = [str(tiles / "night.png"), str(tiles / "deep" / "día.png")]
    if suffix == ".npy":
        rows, ids = np.load(out), json.loads(Path(f"{out}.json").read_text())["ids"]
    elif suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(out, "numpy") as file:
            rows, ids = file.get_tensor("embeddings"), json.loads(file.metadata()["ids"])
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(out)
        rows, ids = np.stack(table["embedding"].to_numpy()), table["id"].to_pylist()
    assert ids == names
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_embed_texts(model, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("a river\nsnow\n")
    out = tmp_path / "texts.npy"
    assert sattxt("embed", "--text", tmp_path / "texts.txt", "-o", out, "--json") == 0
    np.testing.assert_array_equal(np.load(out), [[7, 1], [4, 1]])
    assert json.loads(capsys.readouterr().out) == {"output": str(out), "rows": 2, "dim": 2, "skipped": 0}


@pytest.mark.parametrize(("out", "complaint"), [("x.txt", ".npy"), ("nowhere/x.npy", "does not exist")])
def test_embed_refuses_an_output_it_cannot_write_before_any_work(model, tiles, tmp_path, capsys, out, complaint):
    assert sattxt("embed", tiles, "-o", tmp_path / out) == 2
    assert complaint in capsys.readouterr().err
    assert model.opened_with == {}


def test_segment_writes_picture_map_and_scores_and_prints_shares(model, tiles, tmp_path, capsys):
    files = [tmp_path / name for name in ("map.png", "map.npy", "scores.npy")]
    arguments = [
        "segment",
        tiles / "night.png",
        "-l",
        "dark,bright",
        "-o",
        files[0],
        "--map",
        files[1],
        "--scores",
        files[2],
    ]
    assert sattxt(*arguments) == 0
    out = capsys.readouterr().out
    assert out.split()[2:6] == ["dark", "75.0", "%", "bright"]
    assert np.load(files[1]).shape == (2, 2)
    assert np.load(files[2]).shape == (2, 2, 2)
    with Image.open(files[0]) as picture:
        assert picture.format == "PNG"
    assert sattxt(*arguments, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["height"], answer["width"]) == (2, 2)
    assert answer["shares"] == {"dark": 0.75, "bright": 0.25}


def test_segment_averages_over_the_built_in_templates_when_asked(model, tiles, tmp_path):
    assert sattxt("segment", tiles / "night.png", "-l", "dark,bright", "--ensemble", "-o", tmp_path / "map.png") == 0
    assert model.label_options["templates"] == "ensemble"


@pytest.mark.parametrize("flags", [[], ["-o", "map.jpg"], ["--map", "nowhere/map.npy"]])
def test_segment_refuses_outputs_before_any_work(model, tiles, capsys, flags):
    assert sattxt("segment", tiles / "night.png", "-l", "dark,bright", *flags) == 2
    assert capsys.readouterr().err.startswith("sattxt: error: ")
    assert model.opened_with == {}


def test_label_sets_are_listed_and_shown(capsys):
    assert sattxt("labels", "sets", "--json") == 0
    listed = {each["name"]: each["labels"] for each in map(json.loads, capsys.readouterr().out.splitlines())}
    assert "river" in listed["eurosat"]
    assert sattxt("labels", "sets", "EuroSAT") == 0
    assert "HerbaceousVegetation" in capsys.readouterr().out
    assert sattxt("labels", "sets", "eurosta") == 2
    assert "'eurosat'" in capsys.readouterr().err


@pytest.fixture
def banks(tmp_path: Path) -> list[Path]:
    """Two banks of one encoder: one text in common."""
    river, lake, ice = np.eye(3, dtype=np.float32)
    water = {"water": ["a river", "a lake"]}
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    LabelBank("encoder", ["a river", "a lake"], np.stack([river, lake]), labels=water, model="M").save(paths[0])
    LabelBank("encoder", ["a lake", "ice"], np.stack([lake, ice]), labels={"ice": ["ice"]}, model="M").save(paths[1])
    return paths


def test_labels_show(banks, capsys):
    assert sattxt("labels", "show", banks[0]) == 0
    assert "a river; a lake" in capsys.readouterr().out
    assert sattxt("labels", "show", banks[0], "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["model"], facts["texts"], facts["dim"]) == ("M", 2, 3)
    assert facts["labels"] == {"water": ["a river", "a lake"]}


def test_labels_merge(banks, tmp_path, capsys):
    out = tmp_path / "all.safetensors"
    assert sattxt("labels", "merge", *banks, "-o", out) == 0
    merged = LabelBank.load(out)
    assert merged.texts == ("a river", "a lake", "ice")
    assert merged.labels == {"water": ["a river", "a lake"], "ice": ["ice"]}
    assert sattxt("labels", "merge", *banks, "-o", tmp_path / "all.txt") == 2


def test_labels_import_fills_the_text_cache_once(banks, capsys):
    assert sattxt("labels", "import", *banks, "--json") == 0
    assert [json.loads(line)["new"] for line in capsys.readouterr().out.splitlines()] == [2, 1]
    assert set(TextCache().get_many("encoder", ["a river", "ice"])) == {"a river", "ice"}


def test_labels_show_of_something_else_is_an_error(tiles, capsys):
    assert sattxt("labels", "show", tiles / "night.png") == 3
    assert capsys.readouterr().err.startswith("sattxt: error: ")


def test_from_release_files_to_labels_on_a_machine_without_the_llm(golden_dir, tmp_path, monkeypatch, capsys):
    """The whole way: convert, build a bank, lose the language model and the cache, classify all the same."""
    release = tmp_path / "release"
    shutil.copytree(golden_dir / "sattxt", release)
    model, bank, tile = tmp_path / "model", tmp_path / "bank.safetensors", release / "images" / "0_64x64.png"
    parts = ["--dinov3", release / "dinov3_vit_tiny_pretrain_sat.pth", "--llm", release / "llama"]
    parts += ["--vision-head", release / "sattxt_vision_head.pt", "--text-head", release / "sattxt_text_head.pt"]
    parts += ["--adapter", release / "llm2vec-mntp", "--adapter", release / "llm2vec-mntp-unsup-simcse"]
    assert sattxt("convert", *parts, "--out", model) == 0
    question = ["classify", tile, "-m", model, "--dtype", "float32", "--device", "cpu", "--json", "-k", "10"]
    build = ["labels", "build", "-m", model, "--dtype", "float32", "--label-set", "eurosat", "-o", bank]
    assert sattxt(*build) == 0
    capsys.readouterr()
    assert sattxt(*question, "--label-set", "eurosat") == 0
    expected = json.loads(capsys.readouterr().out)

    for part in ("llama", "llm2vec-mntp", "llm2vec-mntp-unsup-simcse"):
        shutil.rmtree(release / part)
    monkeypatch.setenv("SATTXT_CACHE", str(tmp_path / "another-machine"))
    assert sattxt(*question, "--label-set", "eurosat") == 4
    assert "labels build" in capsys.readouterr().err
    assert sattxt(*question, "--bank", bank) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert sattxt("labels", "import", bank) == 0
    capsys.readouterr()
    assert sattxt(*question, "--label-set", "eurosat") == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_models_lists_what_exists(capsys):
    assert sattxt("models") == 0
    out = capsys.readouterr().out
    assert "sattxt-mini" in out
    assert "licences to accept: 2" in next(line for line in out.splitlines() if line.startswith("sattxt-vitl16"))
    assert sattxt("models", "--json") == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed["sattxt-mini"]["bundled"] is True
    assert listed["sattxt-vitl16"]["path"] is None
    assert 15e9 < listed["sattxt-vitl16"]["bytes"] < 20e9


def test_models_shows_licences_and_citation_of_one(capsys):
    assert sattxt("models", "sattxt-vitl16") == 0
    out = capsys.readouterr().out
    assert "DINOv3 License" in out
    assert "arXiv:2602.22613" in out
    assert sattxt("models", "satxt-mini") == 3
    assert "did you mean 'sattxt-mini'" in capsys.readouterr().err


def test_models_verify_finds_a_changed_file(tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    config = ModelConfig(
        name="little",
        embed_dim=4,
        image=ImageConfig(),
        vision=VisionConfig(BackboneConfig(), HeadConfig(2, 2, 1, 1, 4)),
        text=TextEncoderConfig("sentence", 8, "0" * 64),
        logit_scale=10.0,
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    for name in ("vision.safetensors", "text_head.safetensors"):
        (folder / name).write_bytes(b"weights")
    write_sums(folder)
    assert sattxt("models", folder, "--verify", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["verified"]) == ("little", True)
    (folder / "vision.safetensors").write_bytes(b"weighty")
    assert sattxt("models", folder, "--verify") == 3
    assert "vision.safetensors" in capsys.readouterr().out


def test_unknown_command_is_wrong_usage_with_a_suggestion(capsys):
    assert sattxt("clasify") == 2
    assert "'classify'" in capsys.readouterr().err


def test_help_lists_commands_and_exit_codes(capsys):
    assert sattxt("--help") == 0
    out = capsys.readouterr().out
    assert "classify" in out
    assert "130  interrupted" in out


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end differently there")
def test_a_reader_that_goes_away_is_no_error():
    code = (
        "import sys, sattxt.cli.models as m; from sattxt.cli import app, output\n"
        "m.app = __import__('typer').Typer()\n"
        "m.app.command()(lambda: [output.put('x' * 1000 + chr(10)) for _ in range(5000)])\n"
        "sys.exit(app.run(['models']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_embed_keeps_what_was_done_before_an_error(golden_model_dir, tmp_path, capsys):
    """With the default --on-error the first bad file ends the job; the rows before it are in a file of their own."""
    for name, shade in (("a.png", 40), ("b.png", 200)):
        Image.new("RGB", (32, 32), (shade, 90, 30)).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no picture")
    out = tmp_path / "rows.npy"
    assert sattxt("embed", tmp_path / "*.png", "-o", out, "--model", golden_model_dir) == 2
    assert "2 of 3 images" in capsys.readouterr().err
    assert not out.exists()
    assert np.load(tmp_path / "rows.partial.npy").shape[0] == 2
    ids = json.loads((tmp_path / "rows.partial.npy.json").read_text())["ids"]
    assert [Path(i).name for i in ids] == ["a.png", "b.png"]
