"""Stage 1: centres, what is trained, exact resume, and a student that learns."""

from __future__ import annotations

import csv
import math
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from distilling_toy import VISION, Distilling, pair_set, teacher
from PIL import Image
from safetensors.torch import load_file
from tile_files import open_pairs
from torch import Tensor, nn

from sattxt.config import BackboneConfig, HeadConfig, VisionConfig
from sattxt.errors import InputError, SatTxtError, WeightsError
from sattxt.training.augment import AugmentConfig
from sattxt.training.loop import LoopOptions, Run
from sattxt.training.objectives.srd.model import SRDConfig, SRDModel
from sattxt.training.teachers.base import CallableTeacher
from sattxt.training.teachers.galileo import GalileoTeacher
from sattxt.training.tiles import Tiles
from sattxt.vision.tower import VisionTower

PLAIN = AugmentConfig(radiometry_probability=0.0, coarse_probability=0.0)


ENGINE = LoopOptions(log_every=1, checkpoint_every=2, validate_every=100)


def losses(run: Run) -> list[dict[str, str]]:
    with (run.out / "losses.csv").open() as handle:
        return [{k: v for k, v in row.items() if k not in ("seconds", "tiles_per_s")} for row in csv.DictReader(handle)]


def test_in_the_papers_mode_the_backbone_stays_as_it_came(tmp_path):
    run = Distilling(tmp_path, steps=2)  # the first step moves the linear map only, which starts at 0
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    run.train(ENGINE)
    changed = {k for k, v in run.model.state_dict().items() if not torch.equal(v, before[k])}
    assert not any(k.startswith("vision.backbone.") for k in changed)  # BatchNorm statistics included
    assert {"vision.head.ln_final.weight", "to_teacher.weight", "centre"} <= changed


def test_in_full_training_the_backbone_moves_too(tmp_path):
    run = Distilling(tmp_path, freeze_backbone=False, weight_decay=0.0, steps=2)
    before = run.model.vision.backbone.conv_stem.convolution.weight.detach().clone()
    run.train(ENGINE)
    assert not torch.equal(run.model.vision.backbone.conv_stem.convolution.weight, before)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_centre_follows_the_teachers_views_after_the_loss(tmp_path, accumulate):
    options = {"centre_momentum": 0.75, "augment": PLAIN, "accumulate": accumulate, "steps": 1}
    run = Distilling(tmp_path, **options)
    start = run.model.centre.clone()
    batches = [run.distiller.draw(0, micro) for micro in range(accumulate)]
    views = [teacher().encode(view, pair_set().bands).mean((2, 3)) for batch in batches for (view,) in batch.spectral]
    assert len(views) == run.distiller.config.ms_views * accumulate
    run.train(ENGINE)
    torch.testing.assert_close(run.model.centre, 0.75 * start + 0.25 * torch.cat(views).mean(0))


def test_the_centre_starts_at_the_teachers_mean_over_the_first_batch(tmp_path):
    run = Distilling(tmp_path)
    tiles = pair_set()
    seen = teacher().encode(tiles.spectral(run.distiller.sample(0)[0]), tiles.bands).mean((2, 3))
    torch.testing.assert_close(run.model.centre, seen.mean(0))
    first = run.distiller.losses(run.model, run.distiller.draw(0)).terms["srd"]
    assert float(first.detach()) == pytest.approx(math.log(4), abs=1e-5)  # the untrained student says nothing


def test_a_cached_teacher_is_asked_once_a_tile_and_says_the_same_of_whole_views(tmp_path):
    asked = []

    class Counting(CallableTeacher):
        def encode(self, bands, names=None):
            asked.append(len(bands))
            return super().encode(bands, names)

    seen = teacher()
    seen.__class__ = Counting
    whole = {"global_area": (1.0, 1.0), "augment": AugmentConfig(aspect=1.0)}
    options = {**whole, "local_views": 0, "ms_views": 1, "patch_weight": 1.0, "steps": 4}
    live, cached = (
        Distilling(tmp_path / str(cache), seen=seen, teacher_cache=cache, **options) for cache in (False, True)
    )
    wanted, found = (run.distiller.losses(run.model, run.distiller.draw(0)).terms for run in (live, cached))
    for name, value in wanted.items():  # turned and flipped whole tiles: a 2 x 2 map moves as its tile does
        assert float(found[name].detach()) == pytest.approx(float(value.detach()), abs=2e-3), name
    asked.clear()
    cached.train(ENGINE)
    assert not asked or sum(asked) <= len(pair_set())  # validation alone


def test_sets_with_different_bands_share_a_batch(tmp_path):
    torch.manual_seed(0)
    galileo = GalileoTeacher(width=16, depth=1, heads=2, hidden=32)
    for parameter in galileo.parameters():
        nn.init.normal_(parameter, std=0.2)
    full = pair_set()
    rgb_only = Tiles("rgb", full.keys[:5], full.pixels[:5, :3], bands=("B04", "B03", "B02"))
    model = SRDModel(VisionTower(VISION), 16)
    run = Distilling(
        tmp_path, seen=galileo, sets=[full, rgb_only], counts=(3, 2), model=model, patch_weight=1.0, steps=1
    )
    run.train(ENGINE)
    assert all(math.isfinite(float(value)) for value in losses(run)[0].values())
    assert run.distiller.validate(run.average, rgb_only)["kl"] > 0


@pytest.mark.parametrize("freeze", [True, False])
def test_a_killed_run_resumes_to_the_same_losses(tmp_path, freeze):
    options = {"freeze_backbone": freeze, "patch_weight": 0.5, "accumulate": 2}
    whole = Distilling(tmp_path / "whole", **options)
    whole.train(ENGINE)

    def die(step: int, means: dict[str, float]) -> None:
        if step == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Distilling(tmp_path / "killed", **options).train(ENGINE, progress=die)
    resumed = Distilling(tmp_path / "killed", **options)
    assert resumed.resume() == 2
    resumed.train(ENGINE)
    assert losses(resumed) == losses(whole)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name
    assert losses(whole)[0] != losses(whole)[1]
    assert list(losses(whole)[0]) == ["step", "srd", "entropy", "patch", "lr"]


def test_a_frozen_backbone_is_neither_saved_nor_copied(tmp_path):
    run = Distilling(tmp_path, steps=1)
    run.train(ENGINE)
    saved = torch.load(run.checkpoint, weights_only=True)
    assert not any("vision.backbone." in name for name in (*saved["model"], *saved["average"]))
    assert run.average.vision.backbone is run.model.vision.backbone
    assert run.average.vision.head is not run.model.vision.head


def test_another_teachers_checkpoint_is_refused(tmp_path):
    Distilling(tmp_path, steps=1).train(ENGINE)
    with pytest.raises(WeightsError, match=r"teacher='callable', this run has 'another'"):
        Distilling(tmp_path, steps=1, seen=teacher(name="another")).resume()


def test_a_loss_that_is_no_number_stops_the_run_and_names_its_tiles(tmp_path):
    run = Distilling(tmp_path, normalise=lambda x: x * math.nan)
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    with pytest.raises(SatTxtError, match=r"step 0: the loss is nan on made \(made/\d+\.tif, "):
        run.train(ENGINE)
    assert all(torch.equal(run.model.state_dict()[k], v) for k, v in before.items())


def test_what_does_not_fit_is_said_before_the_first_step(tmp_path):
    red_only = Tiles("rgb", pair_set().keys, pair_set().pixels[:, :3], bands=("B04", "B03", "B02"))
    with pytest.raises(InputError, match="rgb: callable needs the bands B08, which it lacks"):
        Distilling(tmp_path, sets=[red_only])
    with pytest.raises(InputError, match="maps onto width 5, callable has 4"):
        Distilling(tmp_path, model=SRDModel(VisionTower(VISION), 5))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ms_views": 3}, "ms_views=3: pass 1 to global_views=2"),
        ({"local_area": (0.5, 0.2)}, "local_area=(0.5, 0.2)"),
        ({"srd_weight": 0.0}, "at least one above 0"),
        ({"precision": "float16"}, "precision='float16'"),
    ],
)
def test_options_that_make_no_run_are_refused(options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        SRDConfig(steps=1, **options)


@pytest.mark.parametrize("freeze", [True, False])
def test_the_vision_tower_is_what_stage_two_starts_from(tmp_path, freeze):
    from sattxt.training.objectives.align.model import AlignModel
    from sattxt.training.start import initialise

    run = Distilling(tmp_path, steps=2, freeze_backbone=freeze)
    tower = VisionTower(VISION)
    tower.backbone.load_state_dict(run.model.vision.backbone.state_dict())  # the recipe's
    run.train(ENGINE)
    model = AlignModel(tower, 8, 10.0)
    initialise(run.out, model.vision, model.text)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.vision.eval()(pixels).embedding, run.average.vision(pixels).embedding)


@pytest.fixture(scope="module")
def eurosat(data_dir: Path) -> tuple[Tiles, Tiles]:
    pytest.importorskip("rasterio")
    entry = {"name": "eurosat-ms", "kind": "eurosat_ms", "path": "eurosat_ms.zip"}
    return open_pairs(entry, data_dir, "train"), open_pairs(entry, data_dir, "val")


@pytest.mark.tiles
def test_eurosat_rgb_made_from_bands_is_eurosat_rgb(data_dir, eurosat):
    _, val = eurosat
    assert len(val) == 35
    differences = []
    with zipfile.ZipFile(data_dir / "eurosat_rgb.zip") as archive:
        for i in range(0, 35, 7):
            with archive.open(val.keys[i].replace(".tif", ".jpg")) as handle, Image.open(handle) as image:
                jpeg = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            differences.append(np.abs(val.take(torch.tensor([i]))[0].numpy().astype(int) - jpeg).ravel())
    assert np.median(np.concatenate(differences)) <= 2


def quarters(tiles: Tiles) -> Tiles:
    """Four tiles out of each: the teacher's cost grows with the square of its tokens."""

    def cut(x: Tensor) -> Tensor:
        return torch.cat([x[:, :, i : i + 32, j : j + 32] for i in (0, 32) for j in (0, 32)])

    keys = [f"{key}#{quarter}" for quarter in range(4) for key in tiles.keys]
    return Tiles(tiles.name, keys, cut(tiles.pixels), bands=tiles.bands)


@pytest.mark.tiles
def test_a_student_learns_what_galileo_sees_in_bands_it_never_gets(tmp_path, data_dir, eurosat):
    """Forty steps on 184 tiles, measured on 35 others. No answer that ignores the tile gets below ``kl_constant``."""
    train, val = (quarters(tiles) for tiles in eurosat)
    galileo = GalileoTeacher.from_folder(data_dir / "teachers" / "galileo-nano")
    vision = VisionConfig(
        BackboneConfig("mobilenet_v1", {}, output_stride=16),
        HeadConfig(input_dim=1024, dim=64, depth=1, heads=2, ffn_dim=128),
    )
    torch.manual_seed(0)
    model = SRDModel(VisionTower(vision), galileo.width).to(memory_format=torch.channels_last)
    weights = load_file(data_dir / "backbones" / "mobilenet-v1" / "model.safetensors")
    model.vision.backbone.load_state_dict(weights, strict=False)
    config = SRDConfig(
        steps=40, global_views=1, ms_views=1, global_size=64, local_views=0, warmup=5, patch_weight=1.0,
        patch_centred=True, freeze_backbone=False, backbone_lr=1e-3, head_lr=3e-3, ema=0.9, centre_momentum=0.8,
        precision="float32",
    )  # fmt: skip
    run = Distilling(tmp_path, seen=galileo, sets=[train], counts=(16,), model=model, **dict(config))
    before = run.distiller.validate(run.average, val)
    run.train(LoopOptions(log_every=1, validate_every=1000))
    after = run.distiller.validate(run.average, val)
    excess = [float(row["srd"]) - float(row["entropy"]) for row in losses(run)]
    assert sum(excess[-5:]) < 0.7 * sum(excess[:5])
    assert before["kl"] > before["kl_constant"]
    assert after["kl"] < 0.75 * after["kl_constant"]
    assert after["patch_cosine"] > after["patch_constant"] + 0.25
