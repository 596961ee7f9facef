"""The façade: what a user of `SatTxt` notices beside the numbers of test_golden.py. On the miniature release."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sattxt import LabelBank, SatTxt, TextCache
from sattxt.errors import (
    BankMismatchError,
    ImageError,
    InputError,
    LabelError,
    TextEncoderUnavailableError,
    UnknownModelError,
    WeightsError,
)
from sattxt.text.encoder import fingerprint
from sattxt.weights.checksums import write_sums

LABELS = ["forest", "river", "city"]


@pytest.fixture(scope="module")
def model(golden_model_dir: Path) -> SatTxt:
    return SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False)


@pytest.fixture(scope="module")
def tiles() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    smooth = [Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(5)]
    return [np.asarray(s.resize((64, 64), Image.Resampling.BICUBIC)) for s in smooth]


# -- shapes: one in, one out ---------------------------------------------------------------------------------------


def test_one_tile_gives_a_vector_and_a_list_gives_a_matrix(model: SatTxt, tiles: list[np.ndarray]) -> None:
    one = model.encode_image(tiles[0])
    assert one.shape == (model.embed_dim,)
    assert one.dtype == np.float32
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    many = model.encode_image(tiles)
    assert many.shape == (5, model.embed_dim)
    assert np.allclose(many[0], one, atol=1e-5)


def test_every_form_of_the_same_tile_gives_the_same_embedding(
    model: SatTxt, tiles: list[np.ndarray], tmp_path: Path
) -> None:
    tile = tiles[0]
    path = tmp_path / "tile.png"
    Image.fromarray(tile).save(path)
    wanted = model.encode_image(tile)
    forms = [path, str(path), Image.open(path), tile.transpose(2, 0, 1), torch.from_numpy(tile.copy())]
    for form in forms:
        assert np.allclose(model.encode_image(form), wanted, atol=1e-5)
    with path.open("rb") as handle:
        assert np.allclose(model.encode_image(handle), wanted, atol=1e-5)
    assert np.allclose(model.encode_image(np.stack(tiles)), model.encode_image(tiles), atol=1e-5)
    assert np.allclose(model.encode_image(t for t in tiles), model.encode_image(tiles), atol=1e-5)


def test_an_empty_list_gives_an_empty_matrix(model: SatTxt) -> None:
    assert model.encode_image([]).shape == (0, model.embed_dim)
    assert len(model.zero_shot([], LABELS)) == 0


def test_batch_composition_changes_no_embedding(model: SatTxt, tiles: list[np.ndarray]) -> None:
    alone = np.stack([model.encode_image(t) for t in tiles])
    for batch_size in (1, 2, 5):
        assert np.abs(model.encode_image(tiles, batch_size=batch_size) - alone).max() < 1e-4
    assert np.abs(model.encode_image(tiles[::-1])[::-1] - alone).max() < 1e-4


def test_the_tower_gets_no_more_than_fits_the_cache(
    model: SatTxt, tiles: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [np.roll(tile, shift, axis=0) for shift in range(0, 20, 5) for tile in tiles]
    wanted = model.encode_image(many)
    segments = model.segment(many[0], LABELS, window=16).scores
    monkeypatch.setattr("sattxt.vision.tower._CACHE_BYTES", 1)
    assert model.vision.step == 8
    taken: list[int] = []
    hook = model.vision.tower.register_forward_pre_hook(lambda _, given: taken.append(len(given[0])))
    found = model.encode_image(many, batch_size=19)
    assert taken == [8, 8, 3, 1]
    assert np.abs(found - wanted).max() < 1e-5
    taken.clear()
    assert np.abs(model.segment(many[0], LABELS, window=16).scores - segments).max() < 1e-5
    assert max(taken) == 8
    hook.remove()


def test_activation_bytes_are_those_of_the_widest_layer(model: SatTxt) -> None:
    from sattxt.config import BackboneConfig, HeadConfig, VisionConfig
    from sattxt.vision.mobilenet import ConvLayer
    from sattxt.vision.tower import VisionTower

    config = VisionConfig(BackboneConfig("mobilenet_v1", {"depth_multiplier": 0.25}, 16), HeadConfig(256, 32, 1, 4, 64))
    mobile, vit = VisionTower(config).eval(), model.vision.tower
    for tower, kind in ((mobile, ConvLayer), (vit, torch.nn.Linear)):
        seen: list[int] = []
        hooks = [
            module.register_forward_hook(
                lambda _, given, out, seen=seen: seen.append(4 * (given[0].numel() + out.numel()))
            )
            for module in tower.backbone.modules()
            if isinstance(module, kind)
        ]
        with torch.no_grad():
            tower(torch.zeros(1, 3, 64, 64))
        for hook in hooks:
            hook.remove()
        assert tower.activation_bytes(64) == max(seen)


def test_the_same_input_gives_the_same_bits(model: SatTxt, tiles: list[np.ndarray]) -> None:
    assert np.array_equal(model.encode_image(tiles), model.encode_image(tiles))


# -- classification ------------------------------------------------------------------------------------------------


def test_zero_shot_results(model: SatTxt, tiles: list[np.ndarray]) -> None:
    result = model.zero_shot(tiles[0], LABELS)
    assert result.label in LABELS
    assert result.probs.sum() == pytest.approx(1, abs=1e-5)
    assert [label for label, _ in result.top(2)] == [LABELS[i] for i in np.argsort(-result.probs)[:2]]
    batch = model.zero_shot(tiles, LABELS)
    assert len(batch) == 5
    assert batch[0].label == result.label
    assert json.loads(batch.to_json())["results"][0]["label"] == result.label
    rows = batch.to_rows()
    assert {"source", "label", "prob", *LABELS} == set(rows[0])


def test_a_classifier_takes_images_or_their_embeddings(model: SatTxt, tiles: list[np.ndarray]) -> None:
    classifier = model.classifier({"water": ["river", "lake"], "built": ["houses", "factory"]})
    from_images = classifier(tiles)
    from_embeddings = classifier(model.encode_image(tiles))
    assert np.allclose(from_images.scores, from_embeddings.scores, atol=1e-5)
    assert classifier(model.encode_image(tiles[0])).label == from_images[0].label
    with pytest.raises(InputError, match="wide"):
        classifier(np.ones(3, dtype=np.float32))


def test_synonyms_are_averaged_and_renormalised(model: SatTxt) -> None:
    classifier = model.classifier({"water": ["river", "lake"], "wood": "forest"})
    vectors = model.encode_text(["a satellite image of river", "a satellite image of lake"])
    mean = vectors.mean(0)
    assert np.allclose(classifier.weights[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_multi_label_probabilities_are_independent_of_the_other_labels(model: SatTxt, tiles: list[np.ndarray]) -> None:
    few = model.zero_shot(tiles[0], ["forest", "river"], multi_label=True)
    more = model.zero_shot(tiles[0], ["forest", "river", "city", "desert"], multi_label=True)
    assert few.probs[:2] == pytest.approx(more.probs[:2], abs=1e-5)
    assert few.above(0.0) == [label for label, _ in few.top(2)]


def test_a_named_label_set(model: SatTxt, tiles: list[np.ndarray]) -> None:
    assert len(model.zero_shot(tiles[0], label_set="eurosat").labels) == 10


@pytest.mark.parametrize("labels", [[], ["river", "River"], ["river", ""]])
def test_bad_labels(model: SatTxt, tiles: list[np.ndarray], labels: list[str]) -> None:
    with pytest.raises(LabelError):
        model.zero_shot(tiles[0], labels)


def test_a_bad_template(model: SatTxt, tiles: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match=r"\{\}"):
        model.zero_shot(tiles[0], LABELS, templates="a satellite image")


# -- bad images ----------------------------------------------------------------------------------------------------


def test_one_bad_file_does_not_end_the_job(model: SatTxt, tiles: list[np.ndarray], tmp_path: Path) -> None:
    paths = []
    for i, tile in enumerate(tiles):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(tile).save(paths[-1])
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    with pytest.raises(ImageError, match=r"2\.png"):
        model.encode_image(paths)
    kept = model.encode_image(paths, on_error="skip")
    assert kept.indices == [0, 1, 3, 4]
    assert kept.shape == (4, model.embed_dim)
    assert kept.sources == [str(path) for path in paths if path != paths[2]]
    assert [f.index for f in kept.failures] == [2]
    batch = model.zero_shot(paths, LABELS, on_error="skip")
    assert "2.png" in batch.failures[0].source
    assert batch[2].source == str(paths[3])


def test_skipping_the_only_tile_leaves_nothing_to_answer_with(model: SatTxt, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.png"):
        model.zero_shot(tmp_path / "bad.png", LABELS, on_error="skip")
    assert [f.index for f in model.zero_shot([tmp_path / "bad.png"], LABELS, on_error="skip").failures] == [0]


def test_a_strip_is_a_failure_of_its_own_not_of_its_batch(model: SatTxt, tiles: list[np.ndarray]) -> None:
    strip = np.zeros((2, 200, 3), np.uint8)
    found = model.encode_image([*tiles[:2], strip, tiles[2]], on_error="skip", channels="last")
    assert found.indices == [0, 1, 3]
    assert [f.error for f in found.failures] == [
        "image 2: is 200 x 2 pixels, over 50 times longer than wide; cut it into tiles"
    ]
    with pytest.raises(ImageError, match="image 2: is 200 x 2 pixels"):
        model.encode_image([*tiles[:2], strip], channels="last")


def test_tiles_without_data_are_told_of_by_name(
    model: SatTxt, tiles: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    empty = np.zeros_like(tiles[0])
    assert len(model.encode_image([tiles[0], empty, tiles[1], empty + 255])) == 4
    (warning,) = caplog.records
    assert warning.getMessage().startswith("image 1, image 3: all black or all white")
    caplog.clear()
    empty[3, 5, 1] = 1
    model.encode_image([tiles[0], empty])
    assert not caplog.records


def test_unknown_options_are_named(model: SatTxt, tiles: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match="strech"):
        model.encode_image(tiles[0], strech="sentinel2")
    with pytest.raises(InputError, match="on_error"):
        model.encode_image(tiles[0], on_error="ignore")


def test_what_is_no_image(model: SatTxt) -> None:
    with pytest.raises(InputError, match="no image"):
        model.encode_image(3)
    with pytest.raises(InputError, match="axes"):
        model.encode_image(np.zeros((1, 2, 3, 4, 5)))


# -- text, cache and banks -----------------------------------------------------------------------------------------


def test_text_shapes_and_cache(golden_model_dir: Path, tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "text.sqlite3")
    model = SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=cache)
    one = model.encode_text("a river")
    assert one.shape == (model.embed_dim,)
    assert np.allclose(model.encode_text(["a river", "a lake"])[0], one, atol=1e-5)
    space = fingerprint(model.config.text, None, "float32")
    assert set(cache.get_many(space, ["a river", "a lake"])) == {"a river", "a lake"}


def without_llm(model_dir: Path, folder: Path) -> Path:
    """The model directory on a machine that has neither the LLM nor its adapters."""
    lone = folder / "model"
    shutil.copytree(model_dir, lone)
    config = json.loads((lone / "config.json").read_text())
    config["text"]["base"]["location"] = str(folder / "nowhere")
    for adapter in config["text"]["adapters"]:
        adapter["location"] = str(folder / "nowhere")
    (lone / "config.json").write_text(json.dumps(config))
    write_sums(lone)
    return lone


def test_a_label_bank_replaces_the_language_model(
    model: SatTxt, golden_model_dir: Path, tiles: list[np.ndarray], tmp_path: Path
) -> None:
    bank_path = tmp_path / "labels.safetensors"
    model.export_labels(bank_path, LABELS)
    lone = SatTxt.from_pretrained(without_llm(golden_model_dir, tmp_path), dtype="float32", text_cache=False)
    with pytest.raises(TextEncoderUnavailableError, match="sattxt labels build"):
        lone.zero_shot(tiles[0], LABELS)
    bank = lone.import_labels(bank_path)
    assert np.array_equal(lone.zero_shot(tiles, LABELS).scores, model.zero_shot(tiles, LABELS).scores)
    assert np.array_equal(lone.zero_shot(tiles, bank).scores, model.zero_shot(tiles, LABELS).scores)
    assert lone.zero_shot(tiles[0], bank, multi_label=True).probs.shape == (3,)  # backgrounds come with the bank


def test_a_bank_of_another_encoder_is_refused(model: SatTxt, tmp_path: Path) -> None:
    alien = LabelBank(space="another", texts=["a"], vectors=np.ones((1, 48), np.float32), model="other")
    alien.save(tmp_path / "alien.safetensors")
    with pytest.raises(BankMismatchError, match="other"):
        model.import_labels(tmp_path / "alien.safetensors")


# -- files ---------------------------------------------------------------------------------------------------------


def test_save_and_open_again(golden_model_dir: Path, tiles: list[np.ndarray], tmp_path: Path) -> None:
    model = SatTxt.from_pretrained(golden_model_dir, dtype="float32", preprocess="unit", text_cache=False)
    model.save_pretrained(tmp_path / "copy")
    again = SatTxt.from_pretrained(tmp_path / "copy", dtype="float32", text_cache=False)
    assert again.config.image.preset == "unit"  # the pixel scaling travels with the weights
    assert again.fingerprint == model.fingerprint
    official = SatTxt.from_pretrained(golden_model_dir, dtype="float32", text_cache=False)
    assert official.fingerprint != model.fingerprint
    assert np.array_equal(again.encode_image(tiles), model.encode_image(tiles))
    assert np.array_equal(again.encode_text(LABELS), model.encode_text(LABELS))
    with pytest.raises(InputError, match="copy"):
        model.save_pretrained(tmp_path / "copy")


def test_preprocess_choices(golden_model_dir: Path, tiles: list[np.ndarray]) -> None:
    explicit = SatTxt.from_pretrained(
        golden_model_dir,
        dtype="float32",
        preprocess={"rescale": 1 / 255, "mean": [0, 0, 0], "std": [1, 1, 1]},
        text_cache=False,
    )
    pixels = explicit.vision.preprocess(np.full((224, 224, 3), 255, np.uint8))
    assert torch.allclose(pixels, torch.ones(1, 3, 224, 224), atol=1e-6)
    with pytest.raises(InputError, match="official"):
        SatTxt.from_pretrained(golden_model_dir, preprocess="imagenet")
    with pytest.raises(InputError, match="unknown"):
        SatTxt.from_pretrained(golden_model_dir, preprocess={"scale": 1})


def test_what_is_no_name_no_text_no_embedding_no_threshold(model: SatTxt, tiles: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match="named by a text or a path, not int"):
        SatTxt.from_pretrained(5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="texts is int; pass a string or a list of strings"):
        model.encode_text(5)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="similarity takes embeddings; encode_image and encode_text make them"):
        model.similarity("a lake", "a river")
    with pytest.raises(InputError, match="NaN or infinite"):
        model.similarity(np.full(4, np.nan), np.ones(4))
    with pytest.raises(InputError, match=r"threshold=50: pass a probability in \[0, 1\]"):
        model.zero_shot(tiles[0], LABELS, multi_label=True).above(50)


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(UnknownModelError, match="sattxt-mini"):
        SatTxt.from_pretrained("satxt-mini")


def test_bad_dtype_and_device(golden_model_dir: Path) -> None:
    with pytest.raises(InputError, match="bfloat16"):
        SatTxt.from_pretrained(golden_model_dir, dtype="int8")
    with pytest.raises(InputError, match="cpu"):
        SatTxt.from_pretrained(golden_model_dir, device="gpu")


def test_a_missing_tensor_names_the_file(golden_model_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(golden_model_dir, broken)
    state = load_file(broken / "vision.safetensors")
    state.pop("head.ln_final.weight")
    save_file(state, broken / "vision.safetensors")
    write_sums(broken)
    with pytest.raises(WeightsError, match=r"vision\.safetensors.*head\.ln_final\.weight"):
        SatTxt.from_pretrained(broken)


# -- dense ---------------------------------------------------------------------------------------------------------


def test_segment_covers_the_image_at_its_own_size(model: SatTxt, tiles: list[np.ndarray]) -> None:
    scene = np.concatenate([np.concatenate([tiles[0], tiles[1]], 1), np.concatenate([tiles[2], tiles[3]], 1)], 0)
    result = model.segment(scene[:100], LABELS, window=64)
    assert result.label_map.shape == (100, 128)
    assert result.scores.shape == (3, 100, 128)
    assert np.isfinite(result.scores).all()
    assert np.array_equal(result.scores.argmax(0), result.label_map)
    assert sum(result.shares.values()) == pytest.approx(1)
    assert result.probs.sum(0) == pytest.approx(np.ones((100, 128)), abs=1e-4)


def test_segment_does_not_depend_on_how_windows_are_batched(model: SatTxt, tiles: list[np.ndarray]) -> None:
    scene = np.concatenate(tiles[:3], axis=1)
    together = model.segment(scene, LABELS, window=48)
    one_by_one = model.segment(scene, LABELS, window=48, batch_size=1)
    assert np.abs(together.scores - one_by_one.scores).max() < 1e-4


def test_segment_takes_the_window_that_the_model_names(
    model: SatTxt, golden_model_dir: Path, tiles: list[np.ndarray]
) -> None:
    named = SatTxt.from_pretrained(golden_model_dir, preprocess={"window": 48}, dtype="float32", text_cache=False)
    scene = np.concatenate(tiles[:2], axis=1)
    found = named.segment(scene, LABELS).scores
    assert np.abs(found - model.segment(scene, LABELS, window=48).scores).max() < 1e-5
    assert np.abs(found - model.segment(scene, LABELS).scores).max() > 1e-3
    assert np.abs(named.segment(scene, LABELS, window=64).scores - model.segment(scene, LABELS).scores).max() < 1e-5


@pytest.mark.parametrize(
    ("image", "told"),
    [({"size": 40}, "size=40: pass a multiple of 16"), ({"window": 4}, "window=4: pass at least 8 pixels")],
)
def test_sizes_that_cannot_be_are_refused_when_a_model_is_opened(
    golden_model_dir: Path, image: dict[str, int], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        SatTxt.from_pretrained(golden_model_dir, preprocess=image, text_cache=False)


def test_no_embedding_depends_on_the_window(golden_model_dir: Path) -> None:
    plain, named = (
        SatTxt.from_pretrained(golden_model_dir, preprocess=given, dtype="float32", text_cache=False)
        for given in ({}, {"window": 48})
    )
    assert named.fingerprint == plain.fingerprint
    assert "window" not in plain.config.to_dict()["image"]  # as sattxt 0.1 reads it
    assert type(named.config).from_dict(named.config.to_dict()) == named.config


def test_segment_writes_a_picture_with_a_legend(model: SatTxt, tiles: list[np.ndarray], tmp_path: Path) -> None:
    result = model.segment(tiles[0], LABELS)
    result.save_png(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width > picture.height  # the legend stands beside the map
    assert set(result.legend) == set(LABELS)


@pytest.mark.parametrize("options", [{"window": 2}, {"overlap": 1.0}, {"overlap": -0.1}])
def test_segment_refuses_impossible_windows(model: SatTxt, tiles: list[np.ndarray], options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        model.segment(tiles[0], LABELS, **options)


def test_an_error_in_a_list_keeps_what_was_embedded_before_it(
    model: SatTxt, tiles: list[np.ndarray], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.png") as caught:
        model.encode_image([*tiles, bad], batch_size=2)
    done = caught.value.completed
    assert done.indices == [0, 1, 2, 3, 4]
    assert np.allclose(done, model.encode_image(tiles), atol=1e-5)
