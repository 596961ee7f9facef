"""Stage 2: objectives, augmentation, data, and a run that learns, stops and resumes."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sattxt.config import BackboneConfig, HeadConfig, VisionConfig
from sattxt.errors import InputError
from sattxt.training.align import AlignConfig, Aligner, AlignModel, TextBank
from sattxt.training.augment import AugmentConfig, augment, random_geometry, resample
from sattxt.training.calibrate import Scored, fit_logit_scale, fit_multi_label
from sattxt.training.data import Sampler, read_captions, read_zip
from sattxt.training.fields import FIELDS, draw_fields
from sattxt.training.losses import class_contrast, info_nce, sigmoid_loss
from sattxt.training.recipe import read_recipe
from sattxt.training.spectral import index_captions, read_s2_tiles


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


# -- objectives ----------------------------------------------------------------------------------------------------


def test_info_nce_of_one_pair_each_is_the_textbook_formula() -> None:
    torch.manual_seed(0)
    image, text, scale = unit(5, 8), unit(5, 8), torch.tensor(7.0)
    logits = scale * image @ text.T
    target = torch.arange(5)
    wanted = 0.5 * (
        torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
    )
    assert info_nce(image, text, scale, torch.eye(5, dtype=torch.bool)) == pytest.approx(float(wanted), abs=1e-6)


def test_info_nce_with_two_positives_shares_the_mass() -> None:
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    text = image.clone()
    loss = info_nce(image, text, torch.tensor(50.0), torch.ones(2, 2, dtype=torch.bool))
    assert float(loss) == pytest.approx(math.log(2), abs=1e-5)  # the best two equal targets allow


def test_extra_texts_only_make_image_to_text_harder() -> None:
    torch.manual_seed(0)
    image, text, eye = unit(4, 8), unit(4, 8), torch.eye(4, dtype=torch.bool)
    plain = info_nce(image, text, torch.tensor(5.0), eye)
    assert info_nce(image, text, torch.tensor(5.0), eye, extra_text=unit(20, 8)) > plain


def test_info_nce_refuses_a_row_without_a_partner() -> None:
    positives = torch.eye(3, dtype=torch.bool)
    positives[1, 1] = False
    with pytest.raises(InputError, match="partner"):
        info_nce(unit(3, 4), unit(3, 4), torch.tensor(1.0), positives)


def test_sigmoid_loss_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = sigmoid_loss(image, image, torch.tensor(2.0), torch.tensor(-1.0), torch.eye(2, dtype=torch.bool))
    wanted = 2 * (math.log1p(math.exp(-1)) + math.log1p(math.exp(-1))) / 2  # logits 1 and -1, both rightly signed
    assert float(loss) == pytest.approx(wanted, abs=1e-6)


def test_class_contrast_falls_when_the_right_class_is_nearer() -> None:
    classes = torch.eye(3)
    right = class_contrast(classes, classes, torch.arange(3), torch.tensor(5.0))
    wrong = class_contrast(classes, classes, torch.tensor([1, 2, 0]), torch.tensor(5.0))
    assert right < 0.1 < wrong


# -- augmentation --------------------------------------------------------------------------------------------------


def test_augmentation_is_a_function_of_its_generator() -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    draws = [augment(images, 24, AugmentConfig(), torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert draws[0].shape == (4, 3, 24, 24)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert float(draws[0].min()) >= 0
    assert float(draws[0].max()) <= 1


def test_geometry_moves_every_band_alike() -> None:
    """RGB and multispectral stacks resampled by the same map stay aligned."""
    generator = torch.Generator().manual_seed(3)
    rgb = torch.rand(6, 3, 40, 40)
    theta = random_geometry(6, AugmentConfig(), generator)
    stacked = resample(torch.cat([rgb, rgb[:, :1]], dim=1), theta, 32)
    assert torch.allclose(stacked[:, 0], stacked[:, 3])
    assert torch.allclose(stacked[:, :3], resample(rgb, theta, 32))


def test_whole_crops_are_flips_and_quarter_turns() -> None:
    image = torch.rand(1, 1, 8, 8)
    symmetries = [torch.rot90(f, k, (-2, -1)) for f in (image, image.flip(-1)) for k in range(4)]
    config = AugmentConfig(min_area=1.0, aspect=1.0)
    seen = set()
    for seed in range(60):
        moved = resample(image, random_geometry(1, config, torch.Generator().manual_seed(seed)), 8)
        matches = [i for i, s in enumerate(symmetries) if torch.allclose(moved, s, atol=1e-5)]
        assert len(matches) == 1
        seen.update(matches)
    assert seen == set(range(8))


# -- data ----------------------------------------------------------------------------------------------------------


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "tiles.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("train/lake/a.png", png((0, 0, 200)))
        out.writestr("train/wood/b.png", png((0, 100, 0)))
        out.writestr("train/wood/broken.png", png((0, 90, 0))[:40])
        out.writestr("val/wood/c.png", png((0, 80, 0)))
    return path


def test_tiles_are_read_in_place_and_bad_ones_counted(archive: Path) -> None:
    tiles = read_zip(archive, "train", 16, name="t", captions={"train/lake/a.png": ["blue"]})
    assert tiles.images.shape == (2, 3, 16, 16)
    assert tiles.classes == ("lake", "wood")
    assert tiles.labels.tolist() == [0, 1]
    assert tiles.captions == [["blue"], []]
    assert [key for key, _ in tiles.skipped] == ["train/wood/broken.png"]
    with pytest.raises(InputError, match="test/"):
        read_zip(archive, "test", 16, name="t")


def test_captions_name_the_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"image": "a.png", "captions": ["x "]}\n{"image": null, "captions": ["y"]}\n')
    assert read_captions(path) == {"a.png": ["x"]}
    path.write_text('{"image": "a.png"}\n')
    with pytest.raises(InputError, match=":1:"):
        read_captions(path)


def test_sampler_walks_each_set_in_whole_epochs() -> None:
    sampler = Sampler([10, 3], [4, 2], seed=1)
    first = torch.cat([sampler.batch(step)[0] for step in range(5)])
    assert sorted(first[:10].tolist()) == list(range(10))
    assert sorted(first[10:].tolist()) == list(range(10))
    again = Sampler([10, 3], [4, 2], seed=1)
    assert torch.equal(again.batch(3)[0], sampler.batch(3)[0])  # any step, without the ones before it


def test_drawn_fields_look_like_their_captions() -> None:
    tiles = draw_fields(len(FIELDS) * 2, seed=5)
    means = {key.split("/")[0]: image.float().mean((1, 2)) for key, image in zip(tiles.keys, tiles.images, strict=True)}
    assert float(means["ice"].min()) > 190
    assert means["water"].argmax() == 2
    assert means["forest"].argmax() == 1
    assert all(tiles.captions)


def reflectance(values: list[float], count: int) -> np.ndarray:
    return np.broadcast_to(np.array(values, np.float32), (count, count, len(values)))


def test_captions_written_from_bands() -> None:
    water = index_captions(
        reflectance([0.06, 0.05, 0.04, 0.02], 8), reflectance([0.03, 0.02, 0.02, 0.02, 0.01, 0.01], 4)
    )
    crop = index_captions(reflectance([0.04, 0.07, 0.04, 0.45], 8), reflectance([0.1, 0.3, 0.4, 0.45, 0.2, 0.1], 4))
    bare = index_captions(reflectance([0.12, 0.16, 0.2, 0.25], 8), reflectance([0.22, 0.24, 0.25, 0.26, 0.33, 0.3], 4))
    assert "open water" in water[0]
    assert "vegetation" in crop[0]
    assert "bare soil" in bare[0]


@pytest.mark.tiles
def test_real_sentinel2_tiles(data_dir: Path) -> None:
    tiles = read_s2_tiles(data_dir / "s2_tiles.zip", "val")
    assert tiles.images.shape == (333, 3, 64, 64)
    green = [i for i, c in enumerate(tiles.captions) if "dense green vegetation" in c[0] and "almost entirely" in c[0]]
    water = [i for i, c in enumerate(tiles.captions) if "open water" in c[0] and "almost entirely" in c[0]]
    assert len(green) > 20
    assert len(water) > 20
    excess = (2 * tiles.images[:, 1].float() - tiles.images[:, 0] - tiles.images[:, 2]).mean((1, 2))
    assert float(excess[green].median()) > float(excess[water].median()) + 5  # seen in RGB, derived from other bands


# -- calibration ---------------------------------------------------------------------------------------------------


def test_calibration_finds_the_temperature_that_made_the_labels() -> None:
    torch.manual_seed(0)
    scores = torch.rand(4000, 5) - 0.5
    truth = torch.multinomial((12 * scores).softmax(1), 1)[:, 0]
    scored = [Scored(scores, torch.zeros(4000, 2), truth)]
    assert fit_logit_scale(scored) == pytest.approx(12, rel=0.15)
    scale, _ = fit_multi_label(scored, 12.0)
    assert scale > 0


# -- a run ---------------------------------------------------------------------------------------------------------

COLOURS = {"water": (20, 40, 160), "wood": (20, 90, 30), "sand": (210, 180, 130)}


def toy(seed: int = 0, **options: object) -> Aligner:
    """Three colours of noisy tiles, random frozen text vectors, a small MobileNet."""
    from sattxt.training.data import TileSet

    generator = torch.Generator().manual_seed(9)
    images, labels, captions = [], [], []
    for label, colour in enumerate(COLOURS.values()):
        base = torch.tensor(colour, dtype=torch.float32)[None, :, None, None]
        noise = 12 * torch.randn(20, 3, 32, 32, generator=generator)
        images.append((base + noise).clamp(0, 255).to(torch.uint8))
        labels += [label] * 20
        captions += [[f"caption {label} {i}" for i in range(3)]] * 20
    tiles = TileSet("toy", torch.cat(images), torch.tensor(labels), tuple(COLOURS), captions, [str(i) for i in labels])
    texts = [*(f"a photo of {c}" for c in COLOURS), *(f"caption {k} {i}" for k in range(3) for i in range(3))]
    anchors = torch.randn(3, 24, generator=generator)
    pooled = torch.cat([anchors, (anchors[:, None] + 0.3 * torch.randn(3, 3, 24, generator=generator)).flatten(0, 1)])
    bank = TextBank(pooled, {t: i for i, t in enumerate(texts)})
    torch.manual_seed(seed)
    vision = VisionConfig(BackboneConfig("mobilenet_v1", {"depth_multiplier": 0.25}, 16), HeadConfig(256, 16, 1, 2, 32))
    model = AlignModel(vision, 24, 10.0)
    config = AlignConfig(
        steps=60, counts=(18,), sizes=(32,), size_weights=(1.0,), warmup=3, pool=8, seed=seed, **options
    )
    prompts = [[[f"a photo of {c}"] for c in COLOURS]]
    return Aligner(config, model, [tiles], prompts, bank, lambda x: (x - 0.5) / 0.5)


def accuracy(run: Aligner) -> float:
    model = run.calibrate_norms((32,), batches=10)
    tiles = run.sets[0]
    with torch.no_grad():
        image = model.image(run.normalise(tiles.images.float() / 255))
        classes = model.texts(run.bank.pooled[:3])
    return float(((image @ classes.T).argmax(1) == tiles.labels).float().mean())


def test_a_run_learns_what_chance_cannot() -> None:
    run = toy()
    losses = [run.train_step()["class"] for _ in range(60)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.3
    assert accuracy(run) > 0.7  # chance: 1 / 3, of 60 tiles


def test_a_killed_run_resumes_to_the_same_losses(tmp_path: Path) -> None:
    whole = toy()
    wanted = [whole.train_step() for _ in range(8)]
    first = toy()
    for _ in range(4):
        first.train_step()
    first.save(tmp_path / "last.pt")
    second = toy(seed=0)
    for parameter in second.model.parameters():  # whatever it started from is replaced
        parameter.data.zero_()
    second.load(tmp_path / "last.pt")
    assert second.step == 4
    assert [second.train_step() for _ in range(4)] == wanted[4:]
    for ours, theirs in zip(second.ema.parameters(), whole.ema.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_frozen_backbone_does_not_move() -> None:
    run = toy(freeze_backbone=True)
    before = {k: v.clone() for k, v in run.model.vision.backbone.state_dict().items()}
    head = run.model.vision.head.ln_final.weight.clone()
    for _ in range(3):
        run.train_step()
    after = run.model.vision.backbone.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not torch.equal(head, run.model.vision.head.ln_final.weight)


# -- recipes -------------------------------------------------------------------------------------------------------


def test_the_shipped_recipe_reads_and_takes_overrides() -> None:
    recipe = read_recipe("mini", {"steps": 7, "seed": 3})
    assert recipe.align.steps == 7
    assert recipe.align.seed == 3
    assert len(recipe.align.counts) == len(recipe.sets)
    assert recipe.vision.head.dim == 320


def test_a_wrong_recipe_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mini"):
        read_recipe("maxi")
    with pytest.raises(InputError, match="stepz"):
        read_recipe("mini", {"stepz": 3})
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"name": "x", "surprise": 1}))
    with pytest.raises(InputError, match="surprise"):
        read_recipe(path)
