"""The tasks, on a model that sees colour and tiles that have one: what must come out is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import COLOURS, ColourEncoder, spectral_tiles, tile, write_folders
from PIL import Image

from sattxt.data.registry import open_data
from sattxt.errors import ImageError, InputError, LabelError
from sattxt.evaluation.bootstrap import Figure
from sattxt.evaluation.compare import compare
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.encoder import SatTxtEncoder
from sattxt.evaluation.multispectral import rendered
from sattxt.evaluation.phrasings import phrasings
from sattxt.evaluation.prompts import class_prompts
from sattxt.evaluation.result import read_result, write_result
from sattxt.evaluation.retrieval import caption_retrieval, class_retrieval
from sattxt.evaluation.scale import degrade, scale
from sattxt.evaluation.segment import open_masked, segment
from sattxt.evaluation.spectral import spectral
from sattxt.evaluation.zero_shot import centred, zero_shot

TEMPLATE = ("a picture of {}",)


@pytest.fixture
def embed() -> Embedder:
    return Embedder(ColourEncoder(), cache=False)


def prompts(data, **options):
    return class_prompts(data, templates=TEMPLATE, **options)


# -- zero-shot -----------------------------------------------------------------------------------------------------


def test_zero_shot_of_tiles_that_match_their_names_is_perfect(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 4)).split()
    document = zero_shot(embed, data, prompts(data)).to_dict()
    assert document["top1"] == 100
    assert document["balanced_accuracy"] == 100
    assert document["n"] == 12
    assert document["ci95"]["top1"] == [100, 100]
    assert [row["n"] for row in document["per_class"]] == [4, 4, 4]
    assert document["per_class"][0]["name"] == "blue field"
    assert np.trace(np.array(document["confusion"])) == 12
    assert "top5" not in document, "of three classes, five mean nothing"


def test_zero_shot_counts_what_names_get_wrong(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 4)).split()
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"BlueField": "blue", "GreenField": "red stuff", "RedField": "green"}))
    document = zero_shot(embed, data, prompts(data, names=names)).to_dict()
    assert document["top1"] == pytest.approx(100 / 3, abs=1e-3)
    assert document["confusion"] == [[4, 0, 0], [0, 0, 4], [0, 4, 0]]
    assert [row["accuracy"] for row in document["per_class"]] == [100, 0, 0]


def test_centred_scores_by_hand():
    scores = np.array([[0.9, 0.2], [0.8, 0.3], [0.7, 0.4]], dtype=np.float32)
    expected = np.array([[0.1, -0.1], [0.0, 0.0], [-0.1, 0.1]])
    np.testing.assert_allclose(centred(scores), expected, atol=1e-6)
    assert centred(scores).dtype == np.float32
    np.testing.assert_allclose(scores[0], [0.9, 0.2], atol=1e-6)
    with pytest.raises(InputError, match="1 tiles for 2 classes"):
        centred(scores[:1])


def test_centring_scores_mends_a_label_that_is_near_to_everything(tmp_path, embed):
    for folder, colour in (("Green", (120, 110, 100)), ("Red", (140, 100, 100))):
        (tmp_path / "x" / folder).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (colour[0] + i, *colour[1:])).save(tmp_path / "x" / folder / f"{i}.png")
    data = open_data(tmp_path / "x").split()
    classes = prompts(data)
    plain = zero_shot(embed, data, classes).to_dict()
    assert plain["confusion"] == [[0, 3], [0, 3]], "reddish all of them"
    assert "transductive" not in plain["settings"]
    document = zero_shot(embed, data, classes, centre_scores=True).to_dict()
    assert document["confusion"] == [[3, 0], [0, 3]]
    assert document["top1"] == 100
    assert document["settings"]["transductive"] is True
    assert any("unlabelled" in note and "equally frequent" in note for note in document["notes"])


def test_centred_scores_are_for_one_label_a_tile(tmp_path, embed):
    Image.fromarray(tile("red", 0)).save(tmp_path / "0.png")
    Image.fromarray(tile("blue", 1)).save(tmp_path / "1.png")
    (tmp_path / "m.csv").write_text("path,labels\n0.png,red;blue\n1.png,blue")
    data = open_data(tmp_path / "m.csv").split()
    with pytest.raises(InputError, match="one label a tile"):
        zero_shot(embed, data, prompts(data), centre_scores=True)


def test_the_command_centres_scores_and_says_so(tmp_path, monkeypatch):
    from sattxt.cli import app
    from sattxt.evaluation.options import Setup

    monkeypatch.setattr(Setup, "open_encoder", lambda self, image_size=None: ColourEncoder())
    data, out = write_folders(tmp_path / "x", 4), tmp_path / "out.json"
    command = ["eval", "zero-shot", "--data", str(data), "--centre-scores"]
    assert app.run([*command, "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["settings"]["transductive"] is True
    assert document["command"].endswith("--centre-scores")
    (tmp_path / "p.json").write_text("{}")
    assert app.run([*command, "--prompts", str(tmp_path / "p.json")]) == 2


def test_multi_label_figures_and_a_threshold_from_other_samples(tmp_path, embed):
    for i, labels in enumerate((["red"], ["blue"], ["red", "blue"], ["green"]) * 3):
        pixels = np.concatenate([tile(c, 10 * i + j) for j, c in enumerate(labels)], axis=1)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,{';'.join(x)}" for i, x in enumerate((["red"], ["blue"], ["red", "blue"], ["green"]) * 3)]
    (tmp_path / "m.csv").write_text("path,labels\n" + "\n".join(rows))
    data = open_data(tmp_path / "m.csv").split()
    document = zero_shot(embed, data, prompts(data)).to_dict()
    assert document["map_macro"] == 100
    assert document["f1_micro"] == pytest.approx(100, abs=12)
    assert document["always_negative"] == pytest.approx(100 * (1 - 15 / 36), abs=1e-3)
    assert [row["n"] for row in document["per_class"]] == [6, 3, 6]
    tuned = zero_shot(embed, data, prompts(data), tuning=data).to_dict()
    assert tuned["settings"]["threshold"]["chosen_on"] == "another split"
    assert tuned["f1_micro"] == 100


def test_phrasings_average_over_assignments_and_tell_phrases_apart(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 3)).split()
    file = tmp_path / "p.json"
    file.write_text(
        json.dumps(
            {
                "BlueField": ["blue", "deep blue"],
                "GreenField": ["green", "grass green"],
                "RedField": ["red", "all blue"],
            }
        )
    )
    document = phrasings(embed, data, file, TEMPLATE, draws=50).to_dict()
    table = {row["phrase"]: row["accuracy"] for row in document["per_phrase"]}
    assert table["red"] == 100
    assert table["blue"] == 100
    assert table["all blue"] == 0
    assert document["top1_max"] == 100
    assert document["top1_first"] == 100
    assert document["top1_min"] == pytest.approx(200 / 3, abs=1e-3)
    assert document["top1_min"] < document["top1"] < 100
    assert document["settings"]["assignments"] == 52
    assert document == phrasings(embed, data, file, TEMPLATE, draws=50).to_dict() | {"date": document["date"]}
    file.write_text(json.dumps({"BlueField": ["blue"]}))
    with pytest.raises(LabelError, match="GreenField"):
        phrasings(embed, data, file, TEMPLATE)


# -- retrieval -----------------------------------------------------------------------------------------------------


def test_class_names_find_their_images(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 4)).split()
    document = class_retrieval(embed, data, prompts(data)).to_dict()
    assert document["map@100"] == 100
    assert document["p@100"] == pytest.approx(100 / 3, abs=1e-3), "all twelve are among the first hundred"
    shallow = class_retrieval(embed, data, prompts(data), depth=4).to_dict()
    assert shallow["p@4"] == 100


def test_captions_and_images_find_each_other(tmp_path, embed):
    lines = []
    for i, colour in enumerate(COLOURS):
        Image.fromarray(tile(colour, i)).save(tmp_path / f"{i}.png")
        lines.append({"image": f"{i}.png", "captions": [f"a {colour} field", f"all is {colour}", "a field"][: 3 - i]})
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = open_data(tmp_path / "c.jsonl").split()
    document = caption_retrieval(embed, data).to_dict()
    assert document["settings"] == {"queries": "captions", "captions": 6, "captions_shared_between_images": 0}
    assert document["i2t_r@1"] == 100
    assert document["t2i_r@1"] >= 100 * 5 / 6 - 1e-3, "all but the caption without a colour"
    assert document["t2i_r@5"] == 100
    assert document["mean_recall_perfect"] == 100
    for name in ("i2t_r@1", "t2i_r@1", "mean_recall"):
        assert Figure.from_dict(document["samples"]["figures"][name]).value == pytest.approx(document[name], abs=1e-3)


def test_equal_captions_are_wrong_by_the_protocol_and_right_when_shared(tmp_path, embed):
    lines = []
    for i in range(4):
        Image.fromarray(tile("red", 0)).save(tmp_path / f"{i}.png")
        lines.append({"image": f"{i}.png", "captions": ["a red field"]})
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    document = caption_retrieval(embed, open_data(tmp_path / "c.jsonl").split()).to_dict()
    assert document["i2t_r@1"] == document["t2i_r@1"] == 25
    assert document["mean_recall_shared"] == 100
    assert document["mean_recall_perfect"] == 75, "one in four is first, all are among five"
    assert document["settings"]["captions_shared_between_images"] == 4


# -- segmentation --------------------------------------------------------------------------------------------------


class Painter(SatTxtEncoder):
    """Labels every pixel with the colour it is nearest to."""

    name = "painter"
    templates = TEMPLATE

    def __init__(self) -> None:
        self.colours = ColourEncoder()

    def describe(self):
        return {"name": self.name, "fingerprint": "p" * 64}

    def segment(self, image, prompts, **options):
        from types import SimpleNamespace

        weights = self.colours.encode_texts([texts[0] for texts in prompts.values()])
        return SimpleNamespace(label_map=(image.astype(float) @ weights.T).argmax(axis=-1))


def masked(folder: Path, names: dict[str, str]) -> Path:
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "val" / "masks").mkdir()
    pixels = np.concatenate([tile("red", 0, noise=0), tile("blue", 1, noise=0)], axis=1)
    Image.fromarray(pixels).save(folder / "val" / "images" / "a.png")
    mask = np.zeros((8, 16), np.uint8)
    mask[:, :6] = 1  # two red columns are unlabelled
    mask[:, 8:] = 2
    mask[0, 8:] = 1  # eight blue pixels are said to be red
    Image.fromarray(mask).save(folder / "val" / "masks" / "a.png")
    (folder / "classes.json").write_text(json.dumps(names))
    return folder


def test_mean_iou_by_hand_with_unlabelled_pixels_left_out(tmp_path):
    source = open_masked(masked(tmp_path / "x", {"0": "unlabelled", "1": "red roof", "2": "blue water"}))
    data = source.collection.split()
    assert data.classes == ("blue water", "red roof")[::-1]
    result, kept = segment(Painter(), source, data, prompts(data), keep=1)
    red, blue = 48 / 56, 56 / 64
    assert result.to_dict()["miou"] == pytest.approx(100 * (red + blue) / 2, abs=1e-3)
    assert (kept[0][1] == -1).sum() == 16
    with pytest.raises(InputError, match="patch tokens"):
        segment(ColourEncoder(), source, data, prompts(data))


def test_masks_that_do_not_fit_say_so(tmp_path):
    folder = masked(tmp_path / "x", {"0": "unlabelled", "1": "red"})
    source = open_masked(folder)
    data = source.collection.split()
    with pytest.raises(InputError, match=r"masks/a\.png: value 2 is no class"):
        source.truth(data, 0)
    (folder / "val" / "masks" / "a.png").rename(folder / "val" / "masks" / "b.png")
    with pytest.raises(InputError, match="in pairs"):
        open_masked(folder)


# -- spectral ------------------------------------------------------------------------------------------------------


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
    from sattxt.images.bands import EUROSAT_MS
    from sattxt.images.options import ImageOptions

    data = open_data(tmp_path / "x", "folder", options=ImageOptions(band_names=EUROSAT_MS))
    result = spectral(Embedder(RawColour(), cache=False), data.split("train"), data.split("val")).to_dict()
    rows = {row["target"]: row for row in result["per_target"]}
    assert rows["NIR B08"]["mean_rgb"] > 0.99
    assert rows["NIR B08"]["features"] > 0.9
    assert rows["SWIR B12"]["features"] < 0.3
    assert {"NDVI", "NDWI"} <= set(rows)


def test_training_tiles_that_are_measured_too_are_left_out(tmp_path):
    import shutil

    root = spectral_tiles(tmp_path / "x")
    shutil.copy(root / "val" / "Field" / "0.tif", root / "train" / "Field" / "copy.tif")
    from sattxt.images.bands import EUROSAT_MS
    from sattxt.images.options import ImageOptions

    data = open_data(root, "folder", options=ImageOptions(band_names=EUROSAT_MS))
    result = spectral(Embedder(RawColour(), cache=False), data.split("train"), data.split("val"))
    assert result.settings["train"] == 30
    assert result.settings["train_repeats_left_out"] == 1


@pytest.mark.tiles
def test_two_page_tiles_give_all_ten_bands(data_dir):
    data = open_data(data_dir / "s2_tiles.zip").split("val", limit=3)
    found = rendered(data).tile(0)
    assert set(found.bands) == {"B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12"}
    assert found.bands["B11"].shape == (32, 32)
    assert found.rgb.shape == (64, 64, 3)
    assert -1 <= found.targets["NDVI"] <= 1


# -- scale ---------------------------------------------------------------------------------------------------------


def test_degrading_averages_the_pixels_it_merges():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2] = 200
    image[0, 0] = 0
    found = degrade(image, 2)
    assert found.shape == (2, 2, 3)
    assert found[..., 0].tolist() == [[150, 0], [0, 0]]
    assert np.allclose(degrade(image.astype(np.float32), 2), found)
    assert degrade(image, 1) is image
    assert degrade(image, 100).shape == (1, 1, 3)


def test_scale_measures_every_factor_and_size(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 2)).split()
    sizes = []

    def open_at(size: int) -> Embedder:
        sizes.append(size)
        return embed

    document = scale(embed, data, prompts(data), factors=(1, 4), sizes=(32,), open_at=open_at).to_dict()
    assert (document["top1_x1"], document["top1_x4"], document["top1_32px"]) == (100, 100, 100)
    assert sizes == [32]
    assert [row["factor"] for row in document["gsd"]] == [1, 4]
    with pytest.raises(InputError, match="pass 1 or more"):
        scale(embed, data, prompts(data), factors=(0.5,))


# -- results -------------------------------------------------------------------------------------------------------


def test_a_result_reads_back_and_compares_with_another(tmp_path, embed):
    data = open_data(write_folders(tmp_path / "x", 4)).split()
    good = zero_shot(embed, data, prompts(data))
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"BlueField": "blue", "GreenField": "red", "RedField": "green"}))
    bad = zero_shot(embed, data, prompts(data, names=names))
    a, b = (read_result(write_result(tmp_path / f"{i}.json", r.to_dict())) for i, r in enumerate((bad, good)))
    assert a["samples"]["ids"] == [s.id for s in data.samples]
    found = compare(a, b)
    rows = {row["figure"]: row for row in found["figures"]}
    assert rows["top1"]["difference"] == pytest.approx(200 / 3, abs=1e-3)
    assert rows["top1"]["low"] > 0
    assert rows["balanced_accuracy"]["difference"] == pytest.approx(200 / 3, abs=1e-3)
    assert rows["ece"]["low"] is None
    assert found["paired"] == 12
    assert any("names_from differ" in warning for warning in found["warnings"])
    assert [row["B - A"] for row in found["per_class"]] == [0, 100, 100]


def test_results_of_other_samples_are_compared_on_what_both_have(tmp_path, embed):
    collection = open_data(write_folders(tmp_path / "x", 4))
    whole = collection.split()
    part = whole.take(range(0, 12, 2))
    documents = [
        read_result(write_result(tmp_path / f"{len(d)}.json", zero_shot(embed, d, prompts(d)).to_dict()))
        for d in (whole, part)
    ]
    found = compare(*documents)
    assert found["paired"] == 6
    assert any("only 6 of up to 12" in warning for warning in found["warnings"])
    with pytest.raises(InputError, match="nothing to compare"):
        compare(documents[0], documents[0] | {"task": "probe"})


def test_what_is_no_result_says_so(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("nonsense")
    for name in ("a.json", "b.json", "missing.json"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_result(tmp_path / name)
