"""Probes of frozen features: what they learn, what they are chosen on; bands that colour tells of, and others."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from evaluation_fakes import ColourEncoder, spectral_tiles, tile, write_folders
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score

from sattxt.data.multispectral import with_bands
from sattxt.data.registry import open_data
from sattxt.errors import ImageError, InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.probe import band_means, linear_scores, neighbour_scores, probe, ridge, spectral, three_ways
from sattxt.images.bands import EUROSAT_MS
from sattxt.images.options import ImageOptions


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def embed() -> Embedder:
    return Embedder(ColourEncoder(), cache=False)


def test_linear_probe_is_scikit_learns_regression(random):
    features = random.normal(size=(120, 6)).astype(np.float32)
    for classes in (2, 4):
        targets = (features @ random.normal(size=(6, classes))).argmax(axis=1)
        found = linear_scores((features, targets), features, classes, 1.0).argmax(axis=1)
        scaled = (features - features.mean(axis=0)) / features.std(axis=0).mean()
        assert (found == LogisticRegression(C=1.0, max_iter=1000).fit(scaled, targets).predict(scaled)).all()


def test_linear_probe_never_answers_a_class_it_has_not_seen(random):
    features = random.normal(size=(60, 4)).astype(np.float32)
    targets = np.where(features[:, 0] > 0, 1, 3)
    assert set(linear_scores((features, targets), features, 5, 10.0).argmax(axis=1)) == {1, 3}
    assert set(linear_scores((features, targets), features, 5, 1e-6).argmax(axis=1)) <= {1, 3}
    assert set(linear_scores((features, np.full(60, 2)), features, 5, 1.0).argmax(axis=1)) == {2}


def test_multi_label_probe_ranks_each_class_by_itself(random):
    features = random.normal(size=(200, 5)).astype(np.float32)
    truth = features[:, :3] > 0.3
    truth = np.concatenate([truth, np.zeros((200, 1), bool), np.ones((200, 1), bool)], axis=1)
    scores = linear_scores((features, truth), features, 5, 1.0)
    for k in range(3):
        assert np.mean((scores[:, k] > 0) == truth[:, k]) > 0.95
    assert scores[:, 3].max() < scores[:, :3].min(), "no sample has it"
    assert scores[:, 4].min() > scores[:, :3].max(), "every sample has it"


def test_neighbours_vote_by_nearness():
    train = np.array([[1.0, 0], [0.99, 0.141], [0, 1]], dtype=np.float32), np.array([0, 1, 1])
    query = np.array([[1.0, 0.0]], dtype=np.float32)
    assert neighbour_scores(train, query, 1, 2).argmax() == 0
    both = neighbour_scores(train, query, 2, 2)[0]
    weight = np.exp((0.99 - 1) / 0.07)
    assert both == pytest.approx([1 / (1 + weight), weight / (1 + weight)], abs=1e-3)
    several = neighbour_scores((train[0], np.array([[1, 1], [0, 1], [0, 0]], bool)), query, 2, 2)[0]
    assert several == pytest.approx([1 / (1 + weight), 1], abs=1e-3)
    assert neighbour_scores(train, query, 20, 2).shape == (1, 2), "of three samples there are three"


def test_strength_is_the_one_that_does_best_on_held_out_samples(tmp_path, embed):
    found = probe(embed, open_data(write_folders(tmp_path / "x", 10, ("train", "val"))), shots=()).settings
    assert found["tried"][f"{found['strength']:g}"] == max(found["tried"].values())
    assert found["strength"] == min(float(s) for s, v in found["tried"].items() if v == max(found["tried"].values()))


def test_probes_learn_colours_and_say_what_they_were_chosen_on(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 20, ("train", "val")))
    document = probe(embed, data, shots=(1, 2, 50), repeats=3).to_dict()
    assert document["linear_top1"] == 100
    assert document["knn_top1"] == 100
    assert document["settings"]["train"] == 60
    assert "fifth" in document["settings"]["protocol"]
    assert [row["shots"] for row in document["few_shot"]] == [1, 2], "no class has fifty"
    assert all(row["low"] <= row["mean"] <= row["high"] for row in document["few_shot"])


def test_what_is_measured_is_never_learnt_or_chosen_on(tmp_path):
    for name, splits in (("a", ("train", "val", "test")), ("b", ("train", "val")), ("c", ("",))):
        data = open_data(write_folders(tmp_path / name, 10, splits))
        parts = [{s.id for s in part.samples} for part in three_ways(data, None, None)[:3]]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
    with pytest.raises(InputError, match="needs a training split"):
        three_ways(open_data(write_folders(tmp_path / "d", 2, ("val",))), None, None)


def test_probes_of_several_labels_give_map(tmp_path, embed):
    rows = ["path,labels,split"]
    for i in range(40):
        names = [["red"], ["blue"], ["green"], ["red", "blue"]][i % 4]
        pixels = np.concatenate([tile(c, 10 * i + j) for j, c in enumerate(names)], axis=1)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{';'.join(names)},{'train' if i < 28 else 'test'}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    document = probe(embed, open_data(tmp_path / "m.csv"), shots=(2,), repeats=2).to_dict()
    assert document["linear_map_macro"] > 95
    assert document["knn_map_micro"] > 90
    assert document["few_shot"][0]["mean"] > 60
    assert [row["n"] for row in document["per_class"]] == [6, 3, 6]


def test_few_shot_draws_are_the_same_for_every_run(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 10, ("train", "val")))
    one, two = (probe(embed, data, shots=(1,), repeats=3).tables["few_shot"] for _ in range(2))
    assert one == two


class RawColour(ColourEncoder):
    """Mean colour beside a constant, so that brightness survives the unit length."""

    def encode_images(self, images):
        rows = np.array([np.asarray(image, dtype=float).reshape(-1, 3).mean(axis=0) / 255 for image in images])
        padded = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
        return (padded / np.linalg.norm(padded, axis=1, keepdims=True)).astype(np.float32)


def test_bands_that_colour_tells_are_told_and_others_not(tmp_path):
    data = open_data(spectral_tiles(tmp_path / "x"), "folder")
    with pytest.raises(ImageError, match="names of its 13 bands are not known"):
        spectral(Embedder(RawColour(), cache=False), data.split("train"), data.split("val"))

    data = open_data(tmp_path / "x", "folder", options=ImageOptions(band_names=EUROSAT_MS))
    result = spectral(Embedder(RawColour(), cache=False), data.split("train"), data.split("val")).to_dict()
    rows = {row["target"]: row for row in result["per_target"]}
    assert rows["NIR B08"]["mean_rgb"] > 0.99
    assert rows["NIR B08"]["features"] > 0.9
    assert rows["SWIR B12"]["features"] < 0.3
    assert {"NDVI", "NDWI"} <= set(rows)


def test_training_tiles_that_are_measured_too_are_left_out(tmp_path):

    root = spectral_tiles(tmp_path / "x")
    shutil.copy(root / "val" / "Field" / "0.tif", root / "train" / "Field" / "copy.tif")
    from sattxt.images.bands import EUROSAT_MS

    data = open_data(root, "folder", options=ImageOptions(band_names=EUROSAT_MS))
    result = spectral(Embedder(RawColour(), cache=False), data.split("train"), data.split("val"))
    assert result.settings["train"] == 30
    assert result.settings["train_repeats_left_out"] == 1


@pytest.mark.tiles
def test_two_page_tiles_give_all_ten_bands(data_dir):
    data = with_bands(open_data(data_dir / "s2_tiles.zip").split("val", limit=3))
    bands = data.bands(0)
    assert set(bands) == {"B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12"}
    assert bands["B11"].shape == (32, 32)
    assert data.image(0).shape == (64, 64, 3)
    assert 0 <= band_means(bands)["NIR B08"] < 1
    assert -1 <= band_means(bands)["NDVI"] <= 1


def test_ridge_recovers_a_linear_relation_on_unseen_samples():
    random = np.random.default_rng(7)
    features, unseen = random.normal(size=(80, 5)), random.normal(size=(40, 5))
    mix = random.normal(size=(5, 2))
    found = ridge(features, features @ mix + 3, unseen)
    assert r2_score(unseen @ mix + 3, found, multioutput="raw_values").min() > 0.999
