"""Stage 2: objectives, augmentation, data, and a run that learns, stops and resumes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_toy import COLOURS, EVERY_STEP, Toy, losses, to_pixels

from sattxt.errors import InputError
from sattxt.text.head import TextHead
from sattxt.training.align import AlignBatch, AlignConfig, AlignModel, AlignObjective
from sattxt.training.augment import AugmentConfig, atmosphere, augment, mixed, random_geometry, resample, restyle
from sattxt.training.calibrate import Scored, fit_logit_scale, fit_multi_label
from sattxt.training.data import Sampler, TileSet, read_captions, read_zip
from sattxt.training.fields import FIELDS, draw_fields
from sattxt.training.losses import class_contrast, info_nce, positive_pairs, sigmoid_loss
from sattxt.training.prompting import PromptBook, PromptConfig, SetTexts
from sattxt.training.recipe import read_recipe
from sattxt.training.spectral import index_captions, read_s2_tiles
from sattxt.training.text_bank import TextBank
from sattxt.training.text_isometry import make_isometric
from sattxt.training.validate import caption_recall


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


def test_texts_of_no_image_only_make_image_to_text_harder() -> None:
    torch.manual_seed(0)
    image, text, eye = unit(4, 8), unit(4, 8), torch.eye(4, dtype=torch.bool)
    plain = info_nce(image, text, torch.tensor(5.0), eye)
    further = torch.cat([text, unit(20, 8)])
    assert info_nce(image, further, torch.tensor(5.0), torch.eye(4, 24, dtype=torch.bool)) > plain


def test_info_nce_refuses_an_image_without_a_text() -> None:
    positives = torch.eye(3, dtype=torch.bool)
    positives[1, 1] = False
    with pytest.raises(InputError, match="every image needs"):
        info_nce(unit(3, 4), unit(3, 4), torch.tensor(1.0), positives)


def test_a_frequent_text_counts_as_often_as_it_occurs_towards_texts_alone() -> None:
    torch.manual_seed(0)
    image, text, eye, scale = unit(3, 8), unit(3, 8), torch.eye(3, dtype=torch.bool), torch.tensor(5.0)
    logits = scale * image @ text.T
    repeated = torch.cat([logits, logits[:, 2:], logits[:, 2:]], dim=1)  # the third text, thrice
    towards_texts = -(torch.cat([logits[:, :2], logits[:, 2:] + math.log(3)], dim=1).diagonal() - repeated.logsumexp(1))
    towards_images = -(logits.diagonal() - logits.logsumexp(0))
    wanted = 0.5 * (towards_texts.mean() + towards_images.mean())
    frequency = torch.tensor([1.0, 1.0, 3.0]).log()
    assert float(info_nce(image, text, scale, eye, frequency)) == pytest.approx(float(wanted), abs=1e-6)


@pytest.mark.parametrize("kind", ["info_nce", "sigmoid"])
def test_pairs_that_are_not_compared_take_no_part(kind: str) -> None:
    torch.manual_seed(0)
    image, text, scale, eye = unit(6, 8), unit(6, 8), torch.tensor(5.0), torch.eye(6, dtype=torch.bool)
    compared = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).bool()

    def loss(images: torch.Tensor, texts: torch.Tensor, pairs: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        if kind == "info_nce":
            return info_nce(images, texts, scale, pairs, compared=seen)
        return sigmoid_loss(images, texts, scale, torch.tensor(-2.0), pairs, seen)

    halves = [loss(image[s], text[s], eye[s, s], None) for s in (slice(0, 3), slice(3, 6))]
    within = loss(image, text, eye, compared)
    assert float(within) == pytest.approx(float(sum(halves)) / 2, abs=1e-6)
    assert float(within) < float(loss(image, text, eye, None))
    given = image.clone().requires_grad_()
    loss(given, text, eye, compared).backward()
    assert given.grad is not None
    assert bool(torch.isfinite(given.grad).all())


def test_positives_are_ones_own_texts_their_like_and_the_phrases_of_ones_class() -> None:
    vectors = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 0.01], [0, 0, 1.0], [1.0, 1.0, 1.0]]), dim=-1
    )
    own = torch.tensor([[0, 1], [3, -1], [3, 0]])
    plain = positive_pairs(vectors, own, 0.99)
    assert plain.int().tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 1, 0]]
    groups = positive_pairs(vectors, own, 0.99, torch.tensor([5, 5, -1]), torch.tensor([-1, -1, -1, -1, 5]))
    assert groups.int().tolist() == [[1, 1, 1, 0, 1], [0, 0, 0, 1, 1], [1, 0, 0, 1, 0]]


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


def test_a_log_prior_takes_the_classes_frequencies_out_of_what_is_learnt() -> None:
    """One image nine times with class 0 and once with class 1: the fitted logits are the frequencies, or are alike."""

    def learnt(prior: torch.Tensor | None) -> float:
        image = torch.zeros(10, 2, requires_grad=True)
        shared = torch.zeros(2, requires_grad=True)
        labels = torch.tensor([0] * 9 + [1])
        optimiser = torch.optim.SGD([shared], lr=1.0)
        for _ in range(300):
            optimiser.zero_grad()
            class_contrast(image + shared, torch.eye(2), labels, torch.tensor(1.0), log_prior=prior).backward()
            optimiser.step()
        return float((shared[0] - shared[1]).detach())

    assert learnt(None) == pytest.approx(math.log(9), abs=1e-2)
    assert learnt(torch.tensor([0.9, 0.1]).log()) == pytest.approx(0, abs=1e-2)


def test_a_second_class_takes_the_rest_of_the_target() -> None:
    torch.manual_seed(0)
    image, classes, scale = unit(6, 8), unit(4, 8), torch.tensor(5.0)
    labels, others, share = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([1, 2, 3, 0, 0, 2]), torch.rand(6)
    target = torch.zeros(6, 4)
    for row, (first, second, part) in enumerate(zip(labels, others, share, strict=True)):
        target[row, first] += part
        target[row, second] += 1 - part
    wanted = torch.nn.functional.cross_entropy(scale * image @ classes.T, target, label_smoothing=0.1)
    found = class_contrast(image, classes, labels, scale, 0.1, None, others, share)
    torch.testing.assert_close(found, wanted)


# -- augmentation --------------------------------------------------------------------------------------------------


def test_a_mixed_tile_has_as_much_of_the_other_as_its_share_says() -> None:
    """Black tiles with white partners: how bright a tile is is what it has of the other."""
    random = torch.Generator().manual_seed(5)
    images = torch.cat([torch.zeros(400, 3, 20, 30), torch.ones(400, 3, 20, 30)])
    chosen = torch.arange(800) < 200
    out, share = mixed(images, torch.arange(800).roll(400), chosen, random)
    torch.testing.assert_close(out[:400].mean((1, 2, 3)), 1 - share[:400])
    assert torch.equal(out[200:], images[200:])
    assert torch.equal(share[200:], torch.ones(600))
    assert 0.4 < float(share[:200].mean()) < 0.7  # uniform, and a little more where a rectangle is cut off at the edge
    pasted = ((out[:200] == 0) | (out[:200] == 1)).all(dim=3).all(dim=2).all(dim=1)
    assert 70 < int(pasted.sum()) < 130  # the others shine through


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


def test_the_atmosphere_adds_light_and_most_of_it_blue() -> None:
    images = torch.rand(200, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0, 1
    before = images.clone()
    config = AugmentConfig(atmosphere_probability=1.0, atmosphere=0.3)
    draws = [atmosphere(images, config, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(images, before), "what is given stays as it is"
    assert float(draws[0].min()) >= 0
    assert float(draws[0].max()) <= 1
    red, green, blue = (draws[0][2:] - images[2:]).mean((2, 3)).unbind(1)
    assert bool((blue > green).all())
    assert bool((green > red).all())
    assert bool((red > 0).all())
    darkest = atmosphere(torch.zeros(1000, 3, 1, 1), config, torch.Generator().manual_seed(0)).flatten(1)
    assert 0.29 < float(darkest[:, 2].max()) <= 0.3
    assert 0.294 < float((darkest[:, 0] / darkest[:, 2]).min()) < 0.31, "clear air: (490 / 665) ** 4 = 0.295"


def test_without_a_probability_there_is_no_atmosphere() -> None:
    images = torch.rand(4, 3, 8, 8)
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(atmosphere(images, AugmentConfig(), generator), images)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state()), "nothing is drawn"
    some = atmosphere(torch.zeros(1000, 3, 1, 1), AugmentConfig(atmosphere_probability=0.3), generator)
    assert 250 < int((some.amax((1, 2, 3)) > 0).sum()) < 350


def test_a_run_puts_air_before_its_tiles(tmp_path: Path) -> None:
    config = AugmentConfig(atmosphere_probability=1.0)
    plain, hazy = (Toy(tmp_path / n, augment=c).aligner.draw(0) for n, c in (("a", AugmentConfig()), ("b", config)))
    assert torch.equal(plain.texts, hazy.texts)
    added = (hazy.pixels - plain.pixels).mean((0, 2, 3))
    assert float(added[2]) > float(added[0]) > 0


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
    assert means["lake"].argmin() == 0
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
    assert "water" in water[0]
    assert "vegetation" in crop[0]
    assert "bare soil" in bare[0]


@pytest.mark.tiles
def test_real_sentinel2_tiles(data_dir: Path) -> None:
    tiles = read_s2_tiles(data_dir / "s2_tiles.zip", "val")
    assert tiles.images.shape == (333, 3, 64, 64)
    green = [i for i, c in enumerate(tiles.captions) if "dense green vegetation" in c[0] and "almost entirely" in c[0]]
    water = [i for i, c in enumerate(tiles.captions) if "by water" in c[0] and "almost entirely" in c[0]]
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


def test_a_run_on_mixed_tiles_learns_too(tmp_path: Path) -> None:
    run = Toy(tmp_path, seed=1, tile_mix=0.3)
    run.train(EVERY_STEP)
    assert run.validate()["toy"] > 70  # chance: 33, of 60 tiles


def test_a_run_learns_what_chance_cannot(tmp_path: Path) -> None:
    run = Toy(tmp_path, seed=1)
    assert run.train(EVERY_STEP) == 60
    by_class = losses(run, "class")
    assert len(by_class) == 60
    assert np.mean(by_class[-10:]) < np.mean(by_class[:10]) - 0.3
    assert run.validate()["toy"] > 70  # chance: 33, of 60 tiles
    with (tmp_path / "validation.csv").open() as handle:
        (row,) = csv.DictReader(handle)
    assert (row["step"], float(row["toy"])) == ("60", run.validate()["toy"])


def test_a_frozen_backbone_does_not_move(tmp_path: Path) -> None:
    run = Toy(tmp_path, freeze_backbone=True, freeze_text_head=True, steps=3)
    backbone, text = run.model.vision.backbone, run.model.text
    before = {k: v.clone() for k, v in (backbone.state_dict() | text.state_dict()).items()}
    head = run.model.vision.head.ln_final.weight.clone()
    run.train(EVERY_STEP)
    after = backbone.state_dict() | text.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)  # BatchNorm statistics included
    assert not torch.equal(head, run.model.vision.head.ln_final.weight)
    saved = torch.load(run.checkpoint, weights_only=True)
    assert not any("backbone" in name for name in (*saved["state_dict"], *saved["callbacks"]["average"]))


def test_early_layers_that_are_frozen_do_not_move_and_the_others_do(tmp_path: Path) -> None:
    run = Toy(tmp_path, frozen_layers=4, steps=3)
    backbone = run.model.vision.backbone
    still = {k: v.clone() for k, v in backbone.state_dict().items()}
    run.train(EVERY_STEP)
    moved = {k for k, v in backbone.state_dict().items() if not torch.equal(v, still[k])}
    early = ("conv_stem.", *(f"layer.{i}." for i in range(4)))
    assert not any(name.startswith(early) for name in moved)  # BatchNorm statistics included
    assert "layer.4.convolution.weight" in moved
    norms = run.aligner.calibrate_norms(run.average, (32,), batches=3).vision.backbone.state_dict()
    assert torch.equal(norms["layer.3.normalization.running_mean"], still["layer.3.normalization.running_mean"])
    with pytest.raises(InputError, match="frozen_layers=99: the backbone has 26 layers"):
        Toy(tmp_path / "more", frozen_layers=99)


def test_norms_that_are_frozen_keep_their_statistics_and_learn_their_gains(tmp_path: Path) -> None:
    run = Toy(tmp_path, freeze_norms=True, steps=4, warmup=0)
    before = {k: v.clone() for k, v in run.model.vision.state_dict().items()}
    run.train(EVERY_STEP)
    moved = {k for k, v in run.model.vision.state_dict().items() if not torch.equal(v, before[k])}
    assert not any("running" in name or "batches" in name for name in moved)
    assert {"backbone.layer.25.normalization.weight", "backbone.layer.25.normalization.bias"} <= moved
    assert run.aligner.calibrate_norms(run.average, (32,)) is run.average  # there is nothing to measure
    # what a step sees of a tile does not depend on the tiles beside it, as in inference
    run.model.train()
    for module in run.aligner.in_eval_mode(run.model):
        module.eval()
    pixels = to_pixels(run.sets[0].images[:40].float() / 255)
    assert torch.allclose(run.model.image(pixels)[:2], run.model.image(pixels[:2]), atol=1e-5)


def test_what_a_run_frees_it_keeps_for_the_next_step() -> None:
    """In a process of its own: the setting is the process's."""
    program = """
import resource, torch
from sattxt.training.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(25_000_000).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
without = faults()
done = keep_freed_memory()
faults()
print(int(done), without, faults())
"""
    out = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    done, without, kept = map(int, out.split())
    if done:  # glibc
        assert kept < without / 4


def test_restyled_tiles_take_on_the_source_sets_colours() -> None:
    random = torch.Generator().manual_seed(0)
    images = 0.3 + 0.05 * torch.rand(64, 3, 16, 16, generator=random)
    source = torch.tensor([0.7, 0.5, 0.2]).view(1, 3, 1, 1) + 0.2 * torch.rand(64, 3, 16, 16, generator=random)
    assert torch.equal(restyle(images, source, 0.0, random), images)
    moved = restyle(images, source, 1.0, random)
    share = (moved.mean((0, 2, 3)) - images.mean((0, 2, 3))) / (source.mean((0, 2, 3)) - images.mean((0, 2, 3)))
    assert share.min() > 0.6  # 40 % to all of the way, 70 % in the mean
    assert share.max() < 0.8


def test_a_run_restyles_the_tiles_of_other_sets(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(3)
    grey, blue = (
        TileSet(
            name,
            (torch.tensor(colour).view(1, 3, 1, 1) + 20 * torch.rand(8, 3, 32, 32, generator=random)).to(torch.uint8),
            torch.full((8,), -1),
            (),
            [[f"{name} {i}"] for i in range(8)],
            [str(i) for i in range(8)],
        )
        for name, colour in (("aerial", (120.0, 120.0, 120.0)), ("orbit", (20.0, 40.0, 160.0)))
    )
    sets = [grey, blue]
    book = PromptBook(PromptConfig(), [SetTexts(s.name, [], s.captions, s.labels) for s in sets])
    bank = TextBank(torch.randn(len(book.prompts), 24, generator=random), book.row)

    def pixels(**options: object) -> tuple[torch.Tensor, torch.Tensor]:
        config = AlignConfig(1, (5, 3), (32,), (1.0,), **options)
        first, second = torch.split(AlignObjective(config, sets, book, bank, to_pixels).draw(0).pixels, [5, 3])
        return first, second

    plain, styled = pixels(), pixels(restyle=1.0, restyle_from="orbit")
    assert (styled[0].mean((0, 2, 3)) - plain[0].mean((0, 2, 3))).argmin() == 0  # red goes, blue comes
    assert (styled[0].mean((0, 2, 3)) - plain[0].mean((0, 2, 3))).argmax() == 2
    assert torch.equal(styled[1], plain[1])  # how rough its own tiles are tells water from forest: they stay
    with pytest.raises(InputError, match="restyle_from='s2': no such data set; pass one of toy"):
        Toy(tmp_path / "c", restyle=0.5, restyle_from="s2")


def test_tiles_are_mixed_within_their_set_and_told_by_no_caption(tmp_path: Path) -> None:
    plain, run = Toy(tmp_path / "a").aligner.draw(0), Toy(tmp_path / "b", tile_mix=0.5).aligner
    batch = run.draw(0)
    held = batch.share < 1
    assert 3 < int(held.sum()) < 15  # of 18
    assert torch.equal(batch.rows[:, 0] < 0, held)
    assert torch.equal(batch.pixels[~held], plain.pixels[~held])
    assert torch.equal(batch.labels[0], plain.labels[0])
    # a tile between two colours: by its share of each, to within the noise
    colour = torch.tensor(list(COLOURS.values()), dtype=torch.float32) / 255
    first, second = colour[batch.labels[0]], colour[batch.others[0]]
    mean = torch.lerp(second, first, batch.share[:, None])
    assert (batch.pixels.mean((2, 3)) / 2 + 0.5 - mean)[held].abs().max() < 0.3
    assert Toy(tmp_path / "c", tile_mix=0.5, tile_mix_in=("toy",)).aligner.draw(0).share.equal(batch.share)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_mix": 0.5, "class_weight": 0}, "tile_mix=0.5: only the class term sees mixed tiles"),
        ({"tile_mix_in": ("toy",)}, "pass a tile_mix above 0 too"),
        ({"tile_mix": 0.5, "tile_mix_in": ("tyo",)}, "tile_mix_in: no data set 'tyo'; pass some of toy"),
        ({"tile_mix": 1.5}, "tile_mix"),
    ],
)
def test_mixing_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Toy(tmp_path, **options)


# -- the text head -------------------------------------------------------------------------------------------------


def test_an_isometric_text_head_keeps_what_the_frozen_encoder_holds_alike() -> None:
    torch.manual_seed(0)
    pooled, head = torch.randn(200, 24) + 2 * torch.randn(24), TextHead(24, 32)
    make_isometric(head, pooled)
    centred = torch.nn.functional.layer_norm(pooled, (24,))
    centred = centred - centred.mean(0)
    ours, wanted = (torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") for x in (head(pooled), centred))
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="the shared space has 16 dimensions, 24 are due"):
        make_isometric(TextHead(24, 16), pooled)


def test_an_isometric_text_head_turns_towards_the_one_it_is_to_stay_near() -> None:
    torch.manual_seed(0)
    pooled, near = torch.randn(200, 24), TextHead(24, 32)
    make_isometric(near, pooled)
    with torch.no_grad():
        near.proj.weight += 0.05 * torch.randn(32, 24)
    head = TextHead(24, 32)
    make_isometric(head, pooled, near)
    alike = torch.cosine_similarity(head(pooled), near(pooled)).mean()
    assert alike > 0.9  # a random turn: 0
    with pytest.raises(InputError, match="pass a model with the recipe's head"):
        make_isometric(head, pooled, TextHead(24, 40))


# -- objective -----------------------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_step_micro_batch_and_rank(tmp_path: Path) -> None:
    draw = Toy(tmp_path, accumulate=2).aligner.draw
    first, again, other = draw(4, 1, 1, 2), draw(4, 1, 1, 2), draw(4, 1, 0, 2)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.texts, again.texts)
    assert len(first) == 9  # half of 18
    assert not set(first.parts[0].tolist()) & set(other.parts[0].tolist())
    assert torch.equal(first.classes[0], other.classes[0])  # common to the ranks of a step
    assert torch.equal(first.extra, other.extra)


def test_a_tile_is_told_by_as_many_of_its_captions_as_asked_for(tmp_path: Path) -> None:
    aligner = Toy(tmp_path, captions=2).aligner
    written = list(aligner.book.prompts)
    seen = set()
    for step in range(4):
        batch = aligner.draw(step)
        for label, rows in zip(batch.labels[0], batch.rows.tolist(), strict=True):
            assert len(set(rows)) == 2
            assert all(written[row].startswith(f"caption {int(label)} ") for row in rows)
            seen |= set(rows)
        torch.testing.assert_close(batch.texts, aligner.bank.vectors(batch.rows.flatten()).view_as(batch.texts))
    assert len(seen) == 9  # in time, all of them
    few = Toy(tmp_path, captions=5).aligner.draw(0)  # a tile has three
    assert [len(set(rows)) for rows in few.rows[:, :3].tolist()] == [3] * 18
    assert (few.rows[:, 3:] == -1).all()
    assert not few.texts[:, 3:].any()


def test_a_caption_of_many_tiles_is_weighed_by_how_often_it_is_written(tmp_path: Path) -> None:
    def caption_term(aligner: AlignObjective, model: AlignModel) -> float:
        return float(aligner.losses(model, aligner.draw(0)).terms["caption"].detach())

    plain, weighed = (Toy(tmp_path, captions=3, pool=0, caption_prior=prior) for prior in (0.0, 1.0))
    alike = caption_term(plain.aligner, plain.model)
    assert caption_term(weighed.aligner, plain.model) == pytest.approx(alike, abs=1e-5)  # each tells of twenty tiles

    def with_a_rare_class(run: Toy) -> AlignObjective:
        tiles, own = run.sets[0], run.aligner
        captions = [[c.replace("1", "0") for c in texts] for texts in tiles.captions[:40]] + tiles.captions[40:]
        book = PromptBook(PromptConfig(), [SetTexts("toy", [[c] for c in COLOURS], captions, tiles.labels)])
        vectors = torch.randn(len(book.prompts), 24, generator=torch.Generator().manual_seed(1))
        return AlignObjective(own.config, [tiles], book, TextBank(vectors, book.row), to_pixels)

    assert caption_term(with_a_rare_class(weighed), plain.model) != pytest.approx(
        caption_term(with_a_rare_class(plain), plain.model), abs=1e-2
    )


@pytest.mark.parametrize("contrast", ["set", "all"])
def test_captions_of_other_sets_are_compared_only_where_asked_for(tmp_path: Path, contrast: str) -> None:
    toy = Toy(tmp_path)
    first = toy.sets[0]
    second = dataclasses.replace(first, name="other", captions=[[f"another {t}" for t in c] for c in first.captions])
    book = PromptBook(
        PromptConfig(), [SetTexts(s.name, [], s.captions, -torch.ones(60).long()) for s in (first, second)]
    )
    bank = TextBank(torch.randn(len(book.prompts), 24, generator=torch.Generator().manual_seed(1)), book.row)
    config = dataclasses.replace(toy.aligner.config, counts=(6, 4), contrast=contrast)
    aligner = AlignObjective(config, [first, second], book, bank, to_pixels)
    batch = aligner.draw(0)
    theirs = torch.arange(10)[:, None] >= 6
    elsewhere = aligner.book.origins()[batch.extra_rows, 1]
    assert bool(elsewhere.any())
    changed = dataclasses.replace(
        batch,
        texts=torch.where(theirs[..., None], -batch.texts, batch.texts),
        extra=torch.where(elsewhere[:, None], -batch.extra, batch.extra),
    )

    def pull(given: AlignBatch) -> torch.Tensor:
        """On the images of the first set."""
        image = torch.nn.functional.normalize(torch.randn(10, 32, generator=torch.Generator().manual_seed(2)), dim=-1)
        image.requires_grad_()
        aligner.losses(toy.model, dataclasses.replace(given, pixels=None, embedded=image)).terms["caption"].backward()
        assert image.grad is not None
        return image.grad[:6] / image.grad[:6].norm()

    assert torch.allclose(pull(batch), pull(changed), atol=1e-5) == (contrast == "set")


def test_ranks_walk_the_tiles_together(tmp_path: Path) -> None:
    draw = Toy(tmp_path, counts=(10,)).aligner.draw
    seen = torch.cat([draw(step, 0, rank, 3).parts[0] for step in range(2) for rank in range(3)])
    assert sorted(seen.tolist()) == list(range(60))  # an epoch of 60 tiles, each once


def test_the_sigmoid_loss_learns_its_bias_from_minus_ten(tmp_path: Path) -> None:
    run = Toy(tmp_path, loss="sigmoid", steps=4, class_weight=0)
    assert float(run.model.bias.detach()) == -10
    assert Toy(tmp_path).model.bias is None
    batch = run.aligner.draw(0)
    run.aligner.losses(run.model, batch).total.backward()
    assert float(run.model.bias.grad) < 0  # most pairs are right already, the few positives are not


def test_text_noise_has_the_size_asked_for_and_depends_on_the_batch_alone(tmp_path: Path) -> None:
    aligner = Toy(tmp_path, text_noise=0.1).aligner
    pooled = 7 * torch.randn(400, 24, generator=torch.Generator().manual_seed(0))
    noised = [aligner._noised(pooled, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    relative = (noised[0] - pooled).square().mean().sqrt() / pooled.square().mean().sqrt()
    assert float(relative) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(noised[0], noised[1])
    assert not torch.equal(noised[0], noised[2])


def test_mixed_phrases_lie_between_two_of_a_class(tmp_path: Path) -> None:
    from sattxt.training.seeds import generator

    run = Toy(tmp_path, text_mix=1.0)
    book = PromptBook(
        PromptConfig(templates=("{}",)),
        [SetTexts("toy", [["a", "b"], ["c"]], [[]] * 60, torch.zeros(60, dtype=torch.int64))],
    )
    bank = TextBank(torch.tensor([[0.0, 1.0], [2.0, 1.0], [9.0, 9.0]]), book.row)
    aligner = AlignObjective(run.aligner.config, run.sets, book, bank, to_pixels)
    drawn = torch.cat([aligner._classes(generator(i))[0][:1] for i in range(50)])
    assert bool((drawn[:, 1] == 1).all())
    between = (drawn[:, 0] > 0) & (drawn[:, 0] < 2)
    assert 15 < int(between.sum()) < 35  # half of the draws pick the same phrase twice


def test_class_prior_takes_the_training_labels_frequencies_into_the_class_term(tmp_path: Path) -> None:
    def class_term(run: Toy) -> float:
        return float(run.aligner.losses(run.model, run.aligner.draw(0)).terms["class"].detach())

    plain, even = (Toy(tmp_path, class_prior=prior, text_noise=0.0) for prior in (0.0, 1.0))
    assert class_term(even) == pytest.approx(class_term(plain), abs=1e-5)  # 20 tiles a class: nothing to make up for
    tiles = dataclasses.replace(even.sets[0], labels=torch.tensor([0] * 59 + [1]))
    aligner = AlignObjective(even.aligner.config, [tiles], even.aligner.book, even.aligner.bank, to_pixels)
    (prior,) = aligner._log_priors
    assert prior is not None
    assert prior.exp().tolist() == pytest.approx([59 / 60, 1 / 60, 0.01], rel=1e-4)  # a hundredth at the least
    even.aligner = aligner
    plain.aligner = AlignObjective(plain.aligner.config, [tiles], aligner.book, aligner.bank, to_pixels)
    assert class_term(even) < class_term(plain) - 0.3  # what is frequent needs less evidence


def test_data_sets_weigh_as_their_tiles_or_all_alike(tmp_path: Path) -> None:
    toy = Toy(tmp_path, caption_weight=0.0)
    tiles, labels = toy.sets[0], toy.sets[0].labels
    other = dataclasses.replace(tiles, name="other", labels=(labels + 1) % 3)  # what is right here is wrong there
    book = PromptBook(
        PromptConfig(templates=("a photo of {}",)),
        [SetTexts(s.name, [[colour] for colour in COLOURS], s.captions, s.labels) for s in (tiles, other)],
    )

    def class_term(sets: list[TileSet], counts: tuple[int, ...], average: str = "tiles") -> float:
        config = dataclasses.replace(toy.aligner.config, counts=counts, class_average=average)
        part = PromptBook(book.config, [SetTexts(s.name, [[c] for c in COLOURS], s.captions, s.labels) for s in sets])
        aligner = AlignObjective(config, sets, part, toy.aligner.bank, to_pixels)
        whole = dataclasses.replace(aligner.draw(0), pixels=None, embedded=embedded[: sum(counts)])
        parts = [torch.arange(count) for count in counts]
        known = [s.labels[index] for s, index in zip(sets, parts, strict=True)]
        batch = dataclasses.replace(whole, parts=parts, labels=known)
        return float(aligner.losses(toy.model, batch).terms["class"].detach())

    embedded = unit(60, 32)
    one = class_term([tiles], (45,))
    both = [class_term([tiles, other], (45, 15), average) for average in ("tiles", "sets")]
    embedded = embedded[45:]
    second = class_term([other], (15,))
    assert both == pytest.approx([0.75 * one + 0.25 * second, 0.5 * one + 0.5 * second], abs=1e-5)
    assert abs(both[0] - both[1]) > 1e-3


def test_with_the_vision_side_frozen_no_image_embedding_moves(tmp_path: Path) -> None:
    def aligner() -> Toy:
        return Toy(tmp_path, freeze_backbone=True, freeze_head=True, steps=3)

    run = aligner()
    pixels = to_pixels(run.sets[0].take(torch.arange(60)).float() / 255)
    texts = run.aligner.bank.pooled
    with torch.no_grad():
        images, before = run.model.eval().image(pixels), run.model.texts(texts)
    run.train(EVERY_STEP)
    with torch.no_grad():
        assert torch.equal(images, run.model.eval().image(pixels))
        assert torch.equal(images, run.average.eval().image(pixels))
        assert (run.average.texts(texts) - before).abs().max() > 1e-4
    saved = torch.load(run.checkpoint, weights_only=True)
    assert not any("vision" in name for name in (*saved["state_dict"], *saved["callbacks"]["average"]))
    again = aligner()
    assert again.resume() == 3
    torch.testing.assert_close(again.average.texts(texts), run.average.texts(texts))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"freeze_backbone": True, "freeze_head": True, "freeze_text_head": True}, "pass at most two"),
        ({"class_prior": 1.5}, "class_prior=1.5: pass 0 or more, at most 1"),
        ({"loss": "triplet"}, "loss='triplet'"),
        ({"contrast": "none"}, "contrast='none': pass 'all' or 'set'"),
        ({"class_average": "tile"}, "class_average='tile': pass 'tiles' or 'sets'"),
        ({"precision": "float16"}, "precision='float16': pass one of 'auto', 'bfloat16', 'float32'"),
        ({"class_weight": 0.0, "caption_weight": 0.0}, "at least one above 0"),
        ({"text_mix": 1.5}, "text_mix=1.5"),
        ({"head_lr": -1.0}, "head_lr=-1.0: pass a finite number, 0 or more"),
        ({"head_lr": math.inf}, "head_lr=inf: pass a finite number"),
        ({"class_weight": math.nan}, "class_weight=nan: pass a finite number, 0 or more"),
        ({"ema": 1.5}, "ema=1.5: pass 0 or more, below 1"),
        ({"sizes": (-32,)}, "sizes=(-32,): pass a finite number, above 0"),
        ({"size_weights": (0.0,)}, "at least one above 0"),
        ({"counts": (61,)}, "data set 'toy': count 61 of its 60 tiles, so that a step would hold some twice"),
        ({"accumulate": 19}, "accumulate=19"),
        ({"captions": 0}, "captions=0: pass 1 or more"),
        ({"caption_prior": 1.5}, "caption_prior=1.5: pass 0 or more, at most 1"),
        ({"sizes": (32, 64)}, "2 sizes, 1 size_weights"),
    ],
)
def test_options_that_make_no_run_are_refused(tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Toy(tmp_path, **options)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"min_area": 3.0}, "min_area=3.0"), ({"gamma": -1.0}, "gamma=-1.0"), ({"noise": math.nan}, "noise=nan")],
)
def test_augmentation_out_of_range_is_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        AugmentConfig(**settings)


@pytest.mark.parametrize("phrases", [[], [["one class"]]])
def test_without_two_classes_or_captions_there_is_nothing_to_learn(tmp_path: Path, phrases: list[list[str]]) -> None:
    run = Toy(tmp_path)
    labels = torch.full((60,), len(phrases) - 1)
    book = PromptBook(PromptConfig(), [SetTexts("toy", phrases, [[]] * 60, labels)], extras=["x"])
    bank = TextBank(torch.zeros(len(book.prompts), 24), book.row)
    with pytest.raises(InputError, match="nothing to learn from"):
        AlignObjective(run.aligner.config, run.sets, book, bank, to_pixels)


def test_auto_precision_is_bfloat16_only_where_the_hardware_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from sattxt.training import precision

    device = torch.device("cpu")
    for native in (True, False):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda _, native=native: native)
        with precision.autocast("auto", device):
            assert torch.is_autocast_enabled("cpu") is native
        with precision.autocast("float32", device):
            assert not torch.is_autocast_enabled("cpu")
        with precision.autocast("bfloat16", device):
            assert torch.is_autocast_enabled("cpu")


def test_recall_counts_captions_that_tiles_share(tmp_path: Path) -> None:
    run = Toy(tmp_path)
    figures = caption_recall(
        run.model, run.sets[0], lambda texts: run.aligner.bank.vectors(run.aligner.bank.rows(texts)), to_pixels, 32, 60
    )
    assert set(figures) == {f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)} | {"recall"}
    assert figures["i2t_r10"] == 100  # nine captions in all
    assert figures["recall"] == pytest.approx(np.mean([v for k, v in figures.items() if k != "recall"]))


# -- recipes -------------------------------------------------------------------------------------------------------


def test_the_shipped_recipe_reads_and_takes_overrides() -> None:
    recipe = read_recipe("mini", {"align.steps": 7, "align.seed": 3})
    assert recipe.align.steps == 7
    assert recipe.align.seed == 3
    assert len(recipe.align.counts) == len(recipe.sets)
    assert recipe.vision.head.dim == 320


def test_a_wrong_recipe_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mini"):
        read_recipe("maxi")
    with pytest.raises(InputError, match="stepz"):
        read_recipe("mini", {"align.stepz": 3})
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"name": "x", "surprise": 1}))
    with pytest.raises(InputError, match="surprise"):
        read_recipe(path)
