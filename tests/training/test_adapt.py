"""Statistics adapted to unlabelled tiles: what changes, what does not, and what is refused."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from sattxt.cli import app
from sattxt.config import BackboneConfig, HeadConfig, ImageConfig, ModelConfig, TextEncoderConfig, VisionConfig
from sattxt.errors import InputError
from sattxt.images.preprocess import Preprocessor
from sattxt.training.adapt import adapt_norms
from sattxt.training.run import half_precision
from sattxt.vision.tower import VisionTower
from sattxt.weights.directory import read_model, write_model

HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random MobileNet a quarter as wide, stored as `sattxt train export` does."""
    vision = VisionConfig(
        BackboneConfig("mobilenet_v1", {"depth_multiplier": 0.25}, 16),
        HeadConfig(input_dim=256, dim=16, depth=1, heads=2, ffn_dim=32),
    )
    config = ModelConfig(
        name="tiny",
        embed_dim=32,
        image=ImageConfig(size=32, mean=HALF, std=HALF),
        vision=vision,
        text=TextEncoderConfig(kind="sentence", hidden_size=8, weights_sha256="0" * 64),
        logit_scale=17.5,
        logit_scale_source="fitted on the validation splits",
        multi_label_scale=1.5,
        multi_label_bias=-2.0,
        licence="Apache-2.0",
    )
    torch.manual_seed(0)
    state = half_precision(VisionTower(vision).state_dict())
    head = {"ln.weight": torch.ones(8), "ln.bias": torch.zeros(8), "proj.weight": torch.randn(32, 8).half()}
    return write_model(tmp_path_factory.mktemp("tiny") / "model", config, state, head)


def picture(level: int, seed: int, side: int = 32) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(np.clip(random.normal(level, 20, (side, side, 3)), 0, 255).astype(np.uint8))


def tiles(root: Path, count: int = 40, split: str = "") -> Path:
    """Half of them dark, half bright, in folders whose names sort the dark ones first."""
    for i in range(count):
        place = root / split / ("a-dark" if i < count // 2 else "b-bright")
        place.mkdir(parents=True, exist_ok=True)
        picture(40 if i < count // 2 else 210, i).save(place / f"{i:03}.png")
    return root


def stem(path: Path, folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first norm's running mean and variance, and the (N, C, H, W) values that the tiles give it."""
    stored = read_model(path)
    tower = VisionTower(stored.config.vision)
    tower.load_state_dict(stored.vision)
    layer = tower.backbone.conv_stem
    seen: list[torch.Tensor] = []
    layer.register_forward_pre_hook(  # in eval mode a norm is folded into its convolution, and is not called itself
        lambda module, inputs: seen.append(module._convolved(inputs[0], module.convolution.weight, None))
    )
    images = [np.asarray(Image.open(file)) for file in sorted(folder.rglob("*.png"))]
    with torch.no_grad():
        tower.eval()(Preprocessor(stored.config.image).batch(images))
    return layer.normalization.running_mean, layer.normalization.running_var, torch.cat(seen)


def test_statistics_are_those_of_the_tiles(model: Path, tmp_path: Path) -> None:
    folder = tiles(tmp_path / "tiles", 150)
    done = adapt_norms(model, folder, tmp_path / "new")
    assert (done.path, done.tiles, done.skipped) == (tmp_path / "new", 150, [])
    mean, variance, values = stem(done.path, folder)
    torch.testing.assert_close(mean, values.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    # Were the dark tiles one batch and the bright ones another, a few percent of it would be left.
    torch.testing.assert_close(variance, values.var(dim=(0, 2, 3)), rtol=0.1, atol=1e-4)


def test_a_sensor_of_lower_contrast_looks_the_same_to_the_network_once_adapted(model: Path, tmp_path: Path) -> None:
    folder, dim = tiles(tmp_path / "tiles", 60), tmp_path / "dim"
    dim.mkdir()
    for file in folder.rglob("*.png"):
        low = 127.5 + 0.5 * (np.asarray(Image.open(file)) - 127.5)
        Image.fromarray(low.round().astype(np.uint8)).save(dim / file.name)
    usual, adapted = (adapt_norms(model, f, tmp_path / f"new-{f.name}").path for f in (folder, dim))

    def normalised(path: Path, files: Path) -> torch.Tensor:
        mean, variance, values = (each.movedim(1, -1) if each.ndim > 1 else each for each in stem(path, files))
        return (values - mean) / variance.sqrt()

    expected = normalised(usual, folder)
    off, mended = (float((normalised(path, dim) - expected).norm() / expected.norm()) for path in (usual, adapted))
    assert mended < 0.05
    assert off > 0.3


def test_everything_but_the_statistics_stays(model: Path, tmp_path: Path) -> None:
    out = adapt_norms(model, tiles(tmp_path / "my-tiles"), tmp_path / "new").path
    before, after = read_model(model), read_model(out)
    changed = {key for key, value in before.vision.items() if not torch.equal(value, after.vision[key])}
    assert changed == {key for key in before.vision if key.rsplit(".", 1)[1].startswith(("running_", "num_batches"))}
    assert all(torch.equal(value, after.text_head[key]) for key, value in before.text_head.items())
    assert after.config.name == "tiny-adapted"
    assert {**after.config.to_dict(), "name": "tiny"} == before.config.to_dict()
    with safe_open(str(out / "vision.safetensors"), "pt") as file:
        assert file.get_tensor("head.embed.weight").dtype == torch.float16, "stored as before, not twice as large"
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "40 unlabelled tiles of `my-tiles`" in card
    assert "`tiny`" in card
    assert str(tmp_path) not in card


def test_weights_that_are_no_half_precision_are_not_rounded(model: Path, tmp_path: Path) -> None:
    stored = read_model(model)
    vision = {k: v + 1e-5 if k.endswith("convolution.weight") else v for k, v in stored.vision.items()}
    exact = write_model(tmp_path / "exact", stored.config, vision, stored.text_head)
    after = read_model(adapt_norms(exact, tiles(tmp_path / "tiles"), tmp_path / "new").path).vision
    assert all(torch.equal(after[key], value) for key, value in vision.items() if key.endswith("weight"))


def test_bad_tiles_are_skipped_and_counted(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiles(tmp_path / "tiles")
    clean = adapt_norms(model, folder, tmp_path / "clean").path
    (folder / "a-dark" / "bad.png").write_bytes(b"no picture")
    done = adapt_norms(model, folder, tmp_path / "new")
    assert done.tiles == 40
    assert [each.source for each in done.skipped] == ["a-dark/bad.png"]
    assert "1 of 41 tiles cannot be read, first a-dark/bad.png" in caplog.text
    assert "1 more could not be read" in (done.path / "README.md").read_text(encoding="utf-8")
    one, other = read_model(clean).vision, read_model(done.path).vision
    assert all(torch.allclose(one[key].float(), other[key].float(), atol=1e-4) for key in one)


def test_a_zip_is_read_as_its_folder_is(model: Path, tmp_path: Path) -> None:
    folder = tiles(tmp_path / "tiles", 36)
    with zipfile.ZipFile(tmp_path / "tiles.zip", "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, file.relative_to(folder).as_posix())
    one, other = (
        read_model(adapt_norms(model, source, tmp_path / f"{i}").path).vision
        for i, source in enumerate((folder, tmp_path / "tiles.zip"))
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_split_and_a_limit_choose_the_tiles(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    tiles(folder, 50, "train")
    tiles(folder, 34, "val")
    assert adapt_norms(model, folder, tmp_path / "all").tiles == 84
    assert adapt_norms(model, folder, tmp_path / "val", split="val").tiles == 34
    few = adapt_norms(model, folder, tmp_path / "few", split="train", limit=32)
    assert few.tiles == 32
    mean, _, values = stem(few.path, folder / "train")
    torch.testing.assert_close(mean, values.mean(dim=(0, 2, 3)), rtol=0.1, atol=0.02)  # dark and bright alike
    with pytest.raises(InputError, match=r"has no split 'test'; it has 'train', 'val'"):
        adapt_norms(model, folder, tmp_path / "new", split="test")


def test_another_size_is_the_new_models_own(model: Path, tmp_path: Path) -> None:
    folder = tiles(tmp_path / "tiles", 40)
    stored = read_model(adapt_norms(model, folder, tmp_path / "new", size=48).path)
    assert stored.config.image.size == 48
    mean, _, values = stem(stored.path, folder)
    assert values.shape[-1] == 24
    torch.testing.assert_close(mean, values.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_what_cannot_be_adapted_is_refused(model: Path, golden_model_dir: Path, tmp_path: Path) -> None:
    folder, out = tiles(tmp_path / "tiles", 31), tmp_path / "new"
    (folder / "a-dark" / "bad.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"31 tiles can be read, 1 cannot, first a-dark/bad.png: .*at least 32"):
        adapt_norms(model, folder, out)
    with pytest.raises(InputError, match="dinov3_vit backbone has no BatchNorm"):
        adapt_norms(golden_model_dir, folder, out)
    with pytest.raises(InputError, match="size=16: pass 32 or more"):
        adapt_norms(model, folder, out, size=16)
    with pytest.raises(InputError, match="no data set is called 's3'"):
        adapt_norms(model, folder, out, kind="s3")
    with pytest.raises(InputError, match="no such folder or archive"):
        adapt_norms(model, tmp_path / "nowhere", out)
    plain = tmp_path / "plain"
    plain.mkdir()
    with pytest.raises(InputError, match="holds no image"):
        adapt_norms(model, plain, out)
    for i in range(40):
        Image.new("RGB", (32, 32), (9, 9, 9)).save(plain / f"{i}.png")
    with pytest.raises(InputError, match="all 40 tiles are of one colour"):
        adapt_norms(model, plain, out)
    assert not out.exists()


def test_a_model_that_is_there_is_replaced_only_when_asked(model: Path, tmp_path: Path) -> None:
    folder, out = tiles(tmp_path / "tiles"), shutil.copytree(model, tmp_path / "there")
    with pytest.raises(InputError, match="is not empty"):
        adapt_norms(model, folder, out)
    assert read_model(out).config.name == "tiny"
    adapt_norms(model, folder, out, overwrite=True)
    assert read_model(out).config.name == "tiny-adapted"


def test_the_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tiles(tmp_path / "tiles"), tmp_path / "new"
    arguments = ["train", "adapt", "--model", str(model), "--images", str(folder), "--out", str(out)]
    assert app.run(arguments) == 0
    assert "statistics of 40 tiles, 0 unreadable" in capsys.readouterr().out
    assert read_model(out).config.name == "tiny-adapted"
    assert app.run(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    assert app.run([*arguments, "--overwrite", "--limit", "31"]) == 2
    assert "greater than or equal to 32" in capsys.readouterr().err


def test_deep_pixels_are_read_as_the_options_say(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    folder.mkdir()
    for i in range(33):
        values = np.random.default_rng(i).integers(0, 2750, (32, 32)).astype(np.uint16)
        Image.fromarray(values).save(folder / f"{i}.png")
    command = ["train", "adapt", "--model", str(model), "--images", str(folder), "--out", str(tmp_path / "new")]
    assert app.run(command) == 2, "16 bits are not guessed at"
    assert app.run([*command, "--stretch", "sentinel2"]) == 0


def test_real_sentinel2_tiles(model: Path, data_dir: Path, tmp_path: Path) -> None:
    few = tmp_path / "s2.zip"
    with zipfile.ZipFile(data_dir / "s2_tiles.zip") as whole, zipfile.ZipFile(few, "w") as archive:
        names = [name for name in whole.namelist() if name.startswith("train/") and name.endswith(".tif")]
        for name in names[:34]:
            archive.writestr(name, whole.read(name))
        archive.writestr("train/x/broken.tif", b"II*\0")
    done = adapt_norms(model, few, tmp_path / "new", kind="s2")
    assert done.tiles == 34
    assert [each.source for each in done.skipped] == ["train/x/broken.tif"]
    assert "`s2.zip`, train split" in (done.path / "README.md").read_text(encoding="utf-8")
