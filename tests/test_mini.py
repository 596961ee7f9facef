"""The bundled model on real imagery: what a user gets offline, at once."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_tiles import read_tiles

from sattxt import SatTxt, label_set
from sattxt.demo import PLACES, blue_marble, crop

BUNDLED = Path(__file__).parents[1] / "src" / "sattxt" / "weights" / "bundled" / "sattxt-mini"


def accuracy(model: SatTxt, tiles: list[Image.Image], classes: list[str], name: str) -> float:
    names = {label.key: label.name for label in label_set(name).labels}
    found = model.zero_shot(tiles, label_set=name).labels
    return 100 * float(np.mean([f == names[c] for f, c in zip(found, classes, strict=True)]))


def test_the_whole_model_is_under_45_megabytes() -> None:
    assert sum(f.stat().st_size for f in BUNDLED.rglob("*") if f.is_file()) <= 45e6


def test_it_answers_with_the_network_switched_off(tmp_path: Path) -> None:
    tile = tmp_path / "tile.png"
    Image.fromarray(crop(blue_marble(), PLACES["Sahara, Algeria"])).save(tile)
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "from sattxt import SatTxt\n"
        "print(SatTxt.from_pretrained().zero_shot(sys.argv[1], ['desert', 'forest', 'water']).label)\n"
        "print('transformers' in sys.modules)\n"
    )
    environment = {**os.environ, "SATTXT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code, str(tile)], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["desert", "False"], done.stderr  # nor is transformers imported: it costs two seconds


# -- real tiles ----------------------------------------------------------------------------------------------------


@pytest.mark.tiles
def test_eurosat_by_its_own_names(mini: SatTxt, data_dir: Path) -> None:
    tiles, classes = read_tiles(data_dir / "eurosat_rgb.zip", "val", every=8)
    assert accuracy(mini, tiles, classes, "eurosat") >= 90


@pytest.mark.tiles
def test_eurosat_by_phrases_never_used_in_training(mini: SatTxt, data_dir: Path) -> None:
    recipes = Path(sys.modules["sattxt"].__file__ or "").parent / "training" / "recipes"
    phrases = json.loads((recipes / "eurosat_paraphrases.json").read_text(encoding="utf-8"))
    tiles, classes = read_tiles(data_dir / "eurosat_rgb.zip", "val", every=16)
    vectors = mini.encode_image(tiles)
    keys = list(phrases)
    rounds = []
    for turn in range(6):
        labels = {key: phrases[key][turn % len(phrases[key])] for key in keys}
        found = mini.classifier(labels)(vectors).labels
        rounds.append(np.mean([f == c for f, c in zip(found, classes, strict=True)]))
    assert 100 * np.mean(rounds) >= 60  # chance is 10


@pytest.mark.tiles
def test_aerial_scenes(mini: SatTxt, data_dir: Path) -> None:
    tiles, classes = read_tiles(data_dir / "ucm.zip", "val", every=2)
    assert accuracy(mini, tiles, classes, "ucmerced") >= 90


@pytest.mark.tiles
def test_a_sentence_finds_its_pictures(mini: SatTxt, data_dir: Path) -> None:
    """Free text, not a class name: most of the ten best matches show it."""
    tiles, classes = read_tiles(data_dir / "resisc45_128.zip", "val", every=4)
    vectors = mini.encode_image(tiles)
    for sentence, wanted in {
        "many boats are moored at the piers": {"harbor"},
        "aircraft standing beside the terminal building": {"airport", "airplane"},
        "a round green patch of irrigated land": {"circular_farmland"},
    }.items():
        scores = mini.similarity(vectors, mini.encode_text(sentence))
        best = [classes[i] for i in np.argsort(-scores)[:10]]
        assert sum(c in wanted for c in best) >= 6, (sentence, best)


@pytest.mark.tiles
def test_multi_label_probabilities_are_worth_a_threshold(mini: SatTxt, data_dir: Path) -> None:
    tiles, classes = read_tiles(data_dir / "eurosat_rgb.zip", "val", every=40)
    names = {label.key: label.name for label in label_set("eurosat").labels}
    batch = mini.zero_shot(tiles, label_set="eurosat", multi_label=True)
    truth = np.array([[name == names[c] for name in batch[0].labels] for c in classes])
    said = batch.probs >= 0.5
    assert said[truth].mean() > 0.8  # most true labels reach it
    assert said[~truth].mean() < 0.2  # few false ones do


@pytest.mark.tiles
def test_bfloat16_agrees_with_float32(mini: SatTxt, data_dir: Path) -> None:
    tiles, _ = read_tiles(data_dir / "eurosat_rgb.zip", "val", every=40)
    half = SatTxt.from_pretrained(dtype="bfloat16", text_cache=False)
    exact, rounded = mini.encode_image(tiles), half.encode_image(tiles)
    assert (exact * rounded).sum(axis=1).min() > 0.99  # cosines; both are unit vectors
    labels = mini.zero_shot(tiles, label_set="eurosat").labels, half.zero_shot(tiles, label_set="eurosat").labels
    assert np.mean([a == b for a, b in zip(*labels, strict=True)]) > 0.97


@pytest.mark.tiles
def test_reflectance_and_its_jpeg_are_classified_alike(mini: SatTxt, data_dir: Path, tmp_path: Path) -> None:
    """13-band Sentinel-2 GeoTIFFs, read with a stretch, against the RGB JPEGs of the same places."""
    with zipfile.ZipFile(data_dir / "eurosat_ms.zip") as bands, zipfile.ZipFile(data_dir / "eurosat_rgb.zip") as rgb:
        names = [n for n in bands.namelist() if n.startswith("val/") and n.endswith(".tif")][:12]
        paths = []
        for name in names:
            paths.append(tmp_path / Path(name).name)
            paths[-1].write_bytes(bands.read(name))
        jpegs = [Image.open(io.BytesIO(rgb.read(n.replace(".tif", ".jpg")))).convert("RGB") for n in names]
    classifier = mini.classifier(label_set="eurosat")
    from_bands = mini.encode_image(paths, stretch="sentinel2", bands=(4, 3, 2))
    from_jpegs = mini.encode_image(jpegs)
    assert np.median((from_bands * from_jpegs).sum(1)) > 0.9
    pairs = zip(classifier(from_bands).labels, classifier(from_jpegs).labels, strict=True)
    assert sum(a == b for a, b in pairs) >= 10


@pytest.mark.tiles
def test_segmentation_tells_water_from_buildings(mini: SatTxt, data_dir: Path) -> None:
    """A lake tile and a residential tile side by side: each half gets its own label."""
    with zipfile.ZipFile(data_dir / "eurosat_rgb.zip") as content:
        names = content.namelist()
        pick = [next(n for n in names if n.startswith(f"val/{c}/")) for c in ("SeaLake", "Residential")]
        halves = [np.asarray(Image.open(io.BytesIO(content.read(n))).convert("RGB")) for n in pick]
    scene = np.concatenate([np.tile(h, (3, 3, 1)) for h in halves], axis=1)
    result = mini.segment(scene, ["sea or lake", "residential buildings"])
    assert (result.label_map[:, :150] == 0).mean() > 0.8
    assert (result.label_map[:, -150:] == 1).mean() > 0.8
