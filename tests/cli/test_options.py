"""Options that several commands share reach the model."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings

import numpy as np
import pytest
from cli_fakes import sattxt
from PIL import Image
from pyarrow import parquet
from safetensors import safe_open
from tile_files import write_geotiff

from sattxt.images.bands import log_once


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
    ("shape", "flags", "says"),
    [
        ((8, 8, 4), [], "pass --bands RED,GREEN,BLUE, counted from 1, to say"),
        ((8, 8, 3), [], "need --stretch sentinel2 (reflectance x 10000), --stretch percentile or --stretch LOW,HIGH"),
        ((8, 8, 3), ["--bands", "9,2,1"], "has 3 bands, --bands asks for 9"),
        ((8, 8, 3), ["--max-pixels", "9"], "are more than --max-pixels 9"),
        ((8, 8, 3), ["--stretch", "auto"], "--stretch auto: pass 'sentinel2'"),
    ],
)
def test_errors_name_options_as_they_are_typed(model, tmp_path, capsys, shape, flags, says):
    write_geotiff(tmp_path / "scene.tif", np.ones((shape[2], *shape[:2]), np.uint16))
    assert sattxt("classify", tmp_path / "scene.tif", "-l", "dark,bright", *flags) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "=" not in err


def test_what_was_assumed_is_one_line_and_typed(model, tmp_path, capsys):
    values = np.random.default_rng(0).integers(0, 3000, (13, 8, 8)).astype(np.uint16)
    write_geotiff(tmp_path / "scene.tif", values)
    log_once.cache_clear()
    handlers, logging.root.handlers = logging.root.handlers, []  # pytest's, which a user has not
    try:
        assert sattxt("classify", tmp_path / "scene.tif", "-l", "dark,bright", "--band-names", "l1c") == 0
    finally:
        logging.root.handlers = handlers
    lines = capsys.readouterr().err.splitlines()
    assert "sattxt: warning: bands B04, B03, B02 are taken for red, green and blue; pass --bands for others" in lines
    assert all(line.startswith("sattxt: warning: ") for line in lines)
    assert any("--stretch sentinel2" in line for line in lines)


def test_warnings_have_no_line_of_source(model, tiles, capsys, monkeypatch):
    asked = model.classifier

    def classifier(*arguments, **options):
        warnings.warn("the cache\nis damaged", UserWarning, stacklevel=1)
        return asked(*arguments, **options)

    monkeypatch.setattr(model, "classifier", classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert sattxt("classify", tiles, "-l", "dark,bright", "-q") == 0
    assert capsys.readouterr().err == "sattxt: warning: the cache is damaged\n"


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_file_names_that_are_no_utf8_survive_json(model, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Image.new("RGB", (8, 8)).save(name)
    result = model.classifier(["dark", "bright"])([name])
    for text in (result.to_json(), result[0].to_json()):
        text.encode()
    assert os.fsencode(json.loads(result[0].to_json())["source"]).endswith(b"caf\xe9.png")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_file_names_that_are_no_utf8_survive_every_output(model, tmp_path, capfdbinary):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Image.new("RGB", (8, 8)).save(os.fsdecode(name))
    assert sattxt("classify", os.fsdecode(name), "-l", "dark,bright", "--json") == 0
    assert os.fsencode(json.loads(capfdbinary.readouterr().out.decode())["path"]) == name
    for out in ("x.npy", "x.safetensors", "x.parquet"):
        assert sattxt("embed", os.fsdecode(name), "-o", tmp_path / out) == 0
    assert os.fsencode(json.loads((tmp_path / "x.npy.json").read_text())["ids"][0]) == name
    with safe_open(tmp_path / "x.safetensors", "numpy") as file:
        assert os.fsencode(json.loads(file.metadata()["ids"])[0]) == name
    names = parquet.read_table(tmp_path / "x.parquet")["id"].to_pylist()
    assert names[0].endswith("caf\\udce9.png")
