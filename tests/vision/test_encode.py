"""Images in, vectors out: forms, batches, and images that cannot be read. On the miniature release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tile_files import write_geotiff

from sattxt import SatTxt
from sattxt.errors import ImageError, InputError, WeightsError
from sattxt.vision import backend

LABELS = ["forest", "river", "city"]


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


def test_the_tower_gets_no_more_than_fits_the_cache(golden_model_dir: Path, tiles: list[np.ndarray]) -> None:
    """At 640 pixels a side that is 8 images at a time, whatever the batch."""
    large = SatTxt.from_pretrained(golden_model_dir, preprocess={"size": 640}, dtype="float32", text_cache=False)
    assert large.vision.tower.images_per_pass(640, large.device) == 8
    taken: list[int] = []
    hook = large.vision.tower.register_forward_pre_hook(lambda _, given: taken.append(len(given[0])))
    many = [np.roll(tile, shift, axis=0) for shift in (0, 5) for tile in tiles] + tiles[:1]
    found = large.encode_image(many, batch_size=10)
    assert taken == [8, 2, 1]
    assert np.abs(found - large.encode_image(many, batch_size=2)).max() < 1e-5
    taken.clear()
    whole = large.segment(many[0], LABELS, window=32).scores
    assert taken == [8, 1]
    assert np.abs(large.segment(many[0], LABELS, window=32, batch_size=2).scores - whole).max() < 1e-5
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
    assert "3 blank" not in warning.getMessage()
    assert warning.getMessage().endswith("2 blank images were embedded anyway; ignore their labels")
    caplog.clear()
    model.encode_image([empty] * 4)
    assert caplog.messages[0].startswith("image 0, image 1, image 2, ...: all black")
    caplog.clear()
    model.encode_image(empty)
    assert caplog.messages[0].endswith("1 blank image was embedded anyway; ignore its label")
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


def test_weights_that_give_no_numbers_are_an_error(tiles: list[np.ndarray]) -> None:
    model = SatTxt.from_pretrained(dtype="float32", text_cache=False)
    model.vision.tower.head.ln_final.weight.data.fill_(float("nan"))
    with pytest.raises(WeightsError, match="NaN or infinity in float32"):
        model.encode_image(tiles)


def test_a_whole_scene_is_no_tile(model: SatTxt, tiles: list[np.ndarray]) -> None:
    scene = np.zeros((1501, 1600, 3), np.uint8)
    for ask in (model.encode_image, lambda images, **o: model.zero_shot(images, LABELS, **o)):
        with pytest.raises(ImageError, match=r"image 0: is 1600 x 1501 pixels, a whole scene.*segment"):
            ask(scene)
        found = ask([tiles[0], scene], on_error="skip")
        assert (len(found), found.failures[0].index) == (1, 1)
    assert model.encode_image(scene[:1500]).shape == (model.embed_dim,)
    assert model.encode_image(scene[:200]).shape == (model.embed_dim,)


def test_several_images_come_in_many_forms(model: SatTxt, tiles: list[np.ndarray], tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(len(tiles))]
    for path, tile in zip(paths, tiles, strict=True):
        Image.fromarray(tile).save(path)
    wanted = model.encode_image(paths)
    series = pd.Series([str(path) for path in paths], index=range(7, 7 + len(paths)))
    forms = [series, series.astype("string"), pd.Series(paths), series.to_numpy(), np.array([str(p) for p in paths])]
    for form in [*forms, tmp_path, str(tmp_path), str(tmp_path / "*.png")]:
        found = model.encode_image(form)
        assert np.array_equal(found, wanted)
        assert found.sources == [str(path) for path in paths]
    assert [r.label for r in model.zero_shot(tmp_path, LABELS)] == [r.label for r in model.zero_shot(paths, LABELS)]
    (tmp_path / "empty").mkdir()
    for nothing, says in ((tmp_path / "*.gif", "no file matches"), (tmp_path / "empty", "holds no image")):
        with pytest.raises(ImageError, match=says):
            model.encode_image(nothing)
    with pytest.raises(ImageError, match="is a folder"):
        model.segment(tmp_path, LABELS)


def test_a_name_with_a_bracket_is_a_file_where_there_is_one(
    model: SatTxt, tiles: list[np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "tile[1].png"
    Image.fromarray(tiles[0]).save(path)
    assert model.encode_image(path).shape == (model.embed_dim,)


def test_an_open_rasterio_dataset_is_an_image(model: SatTxt, tiles: list[np.ndarray], tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    path = write_geotiff(tmp_path / "a.tif", tiles[0].transpose(2, 0, 1))
    with rasterio.open(path) as dataset:
        assert np.array_equal(model.encode_image(dataset), model.encode_image(path))
        assert model.encode_image([dataset]).sources == [str(path)]
        with pytest.raises(ImageError, match="more than max_pixels=9"):
            model.encode_image(dataset, max_pixels=9)
    with pytest.raises(ImageError, match="closed"):
        model.encode_image(dataset)


def test_pixel_values_go_back_in(model: SatTxt, tiles: list[np.ndarray]) -> None:
    pixels = model.vision.preprocess(tiles)
    wanted = model.encode_image(tiles)
    for form in (pixels, pixels.clone(), list(pixels), [pixels[:2], pixels[2:]]):
        assert np.allclose(model.encode_image(form, batch_size=2), wanted, atol=1e-4)
    assert np.allclose(model.encode_image(pixels[0]), wanted[0], atol=1e-4)
    assert model.zero_shot(pixels, LABELS).labels == model.zero_shot(tiles, LABELS).labels
    assert model.zero_shot(pixels[0], LABELS).label == model.zero_shot(tiles[0], LABELS).label
    with pytest.raises(InputError, match=r"shape \(5, 3, 10, 10\); this model's are"):
        model.encode_image(pixels[..., :10, :10])
    with pytest.raises(InputError, match="take no image options, got stretch"):
        model.encode_image(pixels, stretch="sentinel2")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"window": "big"}, "window='big': pass a whole number, 8 at least"),
        ({"window": 20.5}, "window=20.5"),
        ({"overlap": "x"}, "overlap='x': pass a share"),
        ({"batch_size": -1}, "batch_size=-1: pass a whole number, 1 at least"),
        ({"batch_size": True}, "batch_size=True"),
    ],
)
def test_settings_of_segmentation_that_mean_nothing(
    model: SatTxt, tiles: list[np.ndarray], wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        model.segment(tiles[0], LABELS, **wrong)


def test_what_is_no_image_and_no_embedding_is_told(model: SatTxt, tiles: list[np.ndarray]) -> None:
    classifier = model.classifier(LABELS)
    for ask, says in (
        (lambda: model.encode_image(torch.empty(3, 50, 50, device="meta")), "meta tensor"),
        (lambda: classifier(torch.empty(2, model.embed_dim, device="meta")), "meta tensor"),
        (lambda: classifier(np.full((3, 16), 0.25, np.float32)), "width 16 was passed"),
        (lambda: model.encode_image(tiles, batch_size="x"), "batch_size='x'"),
        (lambda: model.encode_image(tiles, workers="x"), "workers='x'"),
        (lambda: model.import_labels(["forest"]), "pass its path, not list"),
        (lambda: SatTxt.from_pretrained(text_cache=3), "pass its path, not int"),
        (lambda: SatTxt.from_pretrained(preprocess=3), "preprocess is int"),
    ):
        with pytest.raises((InputError, ImageError), match=says):
            ask()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc")
def test_folders_that_cannot_be_made_are_told(model: SatTxt, tiles: list[np.ndarray]) -> None:
    for write in (
        lambda: model.save_pretrained("/proc/sattxt/model"),
        lambda: model.segment(tiles[0], LABELS).save_png("/proc/sattxt/map.png"),
        lambda: model.segment(tiles[0], LABELS).save_png("/proc/map.png"),
    ):
        with pytest.raises(WeightsError, match=r"cannot be (made|written)"):
            write()


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_tried_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    tried: list[list[backend.Choice]] = []
    monkeypatch.setattr(backend, "_measure", lambda folder, config, choices: tried.append(choices) or choices[-1])
    model = SatTxt.from_pretrained(device="cpu", backend="torch", text_cache=False)
    assert model.dtype == (torch.bfloat16 if native else torch.float32)
    assert len(tried) == int(native)  # one choice is not measured


def test_auto_precision_is_float32_where_torch_cannot_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert SatTxt.from_pretrained(device="cpu", text_cache=False).dtype == torch.float32
