"""Stage 2: what a batch holds, what is trained and what stays, and a run that learns."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from training_toy import COLOURS, EVERY_STEP, Toy, losses, to_pixels

from sattxt.errors import InputError
from sattxt.training.augment import AugmentConfig
from sattxt.training.objectives.align.model import add_noise
from sattxt.training.objectives.align.objective import AlignObjective
from sattxt.training.prompts import PromptBook, PromptConfig
from sattxt.training.tiles import Tiles


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def test_a_run_puts_air_before_its_tiles(tmp_path: Path) -> None:
    config = AugmentConfig(atmosphere_probability=1.0)
    plain, hazy = (Toy(tmp_path / n, augment=c).aligner.draw(0) for n, c in (("a", AugmentConfig()), ("b", config)))
    assert torch.equal(plain.texts, hazy.texts)
    added = (hazy.images - plain.images).mean((0, 2, 3))
    assert float(added[2]) > float(added[0]) > 0


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
    assert not any("backbone" in name for name in (*saved["model"], *saved["average"]))


def test_norms_that_are_frozen_keep_their_statistics_and_learn_their_gains(tmp_path: Path) -> None:
    run = Toy(tmp_path, freeze_norms=True, steps=4, warmup=0)
    before = {k: v.clone() for k, v in run.model.vision.state_dict().items()}
    run.train(EVERY_STEP)
    moved = {k for k, v in run.model.vision.state_dict().items() if not torch.equal(v, before[k])}
    assert not any("running" in name or "batches" in name for name in moved)
    assert {"backbone.layer.25.normalization.weight", "backbone.layer.25.normalization.bias"} <= moved
    assert run.aligner.calibrate_norms(run.average, 32, batches=3) is run.average  # there is nothing to measure
    # what a step sees of a tile does not depend on the tiles beside it, as in inference
    run.model.train()
    for module in run.aligner.in_eval_mode(run.model):
        module.eval()
    pixels = to_pixels(run.sets[0].pixels[:40].float() / 255)
    assert torch.allclose(run.model.image(pixels)[:2], run.model.image(pixels[:2]), atol=1e-5)


def test_a_batch_is_a_function_of_step_micro_batch_and_rank(tmp_path: Path) -> None:
    draw = Toy(tmp_path, accumulate=2).aligner.draw
    first, again, other = draw(4, 1, 1, 2), draw(4, 1, 1, 2), draw(4, 1, 0, 2)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.texts, again.texts)
    assert len(first) == 9  # half of 18
    assert not set(first.parts[0].tolist()) & set(other.parts[0].tolist())
    assert torch.equal(first.classes[0], other.classes[0])  # common to the ranks of a step
    assert torch.equal(first.extra, other.extra)


def test_ranks_walk_the_tiles_together(tmp_path: Path) -> None:
    draw = Toy(tmp_path, counts=(10,)).aligner.draw
    seen = torch.cat([draw(step, 0, rank, 3).parts[0] for step in range(2) for rank in range(3)])
    assert sorted(seen.tolist()) == list(range(60))  # an epoch of 60 tiles, each once


def test_text_noise_has_the_size_asked_for_and_depends_on_the_batch_alone(tmp_path: Path) -> None:
    pooled = 7 * torch.randn(400, 24, generator=torch.Generator().manual_seed(0))
    noised = [add_noise(pooled, 0.1, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    relative = (noised[0] - pooled).square().mean().sqrt() / pooled.square().mean().sqrt()
    assert float(relative) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(noised[0], noised[1])
    assert not torch.equal(noised[0], noised[2])
    plain, noisy = (Toy(tmp_path / str(share), text_noise=share) for share in (0.0, 0.5))
    batches = [noisy.aligner.draw(0), noisy.aligner.draw(0), noisy.aligner.draw(1)]
    losses = [float(noisy.aligner.losses(noisy.model.eval(), batch).total.detach()) for batch in batches]
    assert losses[0] == losses[1]
    assert losses[0] != float(plain.aligner.losses(plain.model.eval(), batches[0]).total.detach())


def test_mixed_phrases_lie_between_two_of_a_class(tmp_path: Path) -> None:
    run = Toy(tmp_path, text_mix=1.0)
    book = PromptBook(
        PromptConfig(templates=("{}",)),
        [([["a", "b"], ["c"]], [[]] * 60, torch.zeros(60, dtype=torch.int64))],
    )
    pooled = torch.tensor([[0.0, 1.0], [2.0, 1.0], [9.0, 9.0]])
    aligner = AlignObjective(run.aligner.config, run.sets, (18,), book, pooled, to_pixels)
    drawn = torch.cat([aligner.draw(step).classes[0][:1] for step in range(50)])
    assert bool((drawn[:, 1] == 1).all())
    between = (drawn[:, 0] > 0) & (drawn[:, 0] < 2)
    assert 15 < int(between.sum()) < 35  # half of the draws pick the same phrase twice


def test_data_sets_weigh_as_their_tiles(tmp_path: Path) -> None:
    toy = Toy(tmp_path, caption_weight=0.0)
    tiles, labels = toy.sets[0], toy.sets[0].labels
    other = dataclasses.replace(tiles, name="other", labels=(labels + 1) % 3)  # what is right here is wrong there
    book = PromptBook(
        PromptConfig(templates=("a photo of {}",)),
        [([[colour] for colour in COLOURS], s.captions, s.labels) for s in (tiles, other)],
    )

    def class_term(sets: list[Tiles], counts: tuple[int, ...]) -> float:
        part = PromptBook(book.config, [([[c] for c in COLOURS], s.captions, s.labels) for s in sets])
        aligner = AlignObjective(toy.aligner.config, sets, counts, part, toy.aligner.pooled, to_pixels)
        whole = dataclasses.replace(aligner.draw(0), images=embedded[: sum(counts)])
        parts = [torch.arange(count) for count in counts]
        known = [s.labels[index] for s, index in zip(sets, parts, strict=True)]
        batch = dataclasses.replace(whole, parts=parts, labels=known)
        return float(aligner.losses(toy.model, batch).terms["class"].detach())

    embedded = unit(60, 32)
    one = class_term([tiles], (45,))
    both = class_term([tiles, other], (45, 15))
    embedded = embedded[45:]
    second = class_term([other], (15,))
    assert both == pytest.approx(0.75 * one + 0.25 * second, abs=1e-5)


def test_with_the_vision_side_frozen_no_image_embedding_moves(tmp_path: Path) -> None:
    def aligner() -> Toy:
        return Toy(tmp_path, freeze_backbone=True, freeze_head=True, steps=3)

    run = aligner()
    pixels = to_pixels(run.sets[0].take(torch.arange(60)).float() / 255)
    texts = run.aligner.pooled
    with torch.no_grad():
        images, before = run.model.eval().image(pixels), run.model.texts(texts)
    run.train(EVERY_STEP)
    with torch.no_grad():
        assert torch.equal(images, run.model.eval().image(pixels))
        assert torch.equal(images, run.average.eval().image(pixels))
        assert (run.average.texts(texts) - before).abs().max() > 1e-4
    saved = torch.load(run.checkpoint, weights_only=True)
    assert not any("vision" in name for name in (*saved["model"], *saved["average"]))
    again = aligner()
    assert again.resume() == 3
    torch.testing.assert_close(again.average.texts(texts), run.average.texts(texts))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"freeze_backbone": True, "freeze_head": True, "freeze_text_head": True}, "pass at most two"),
        ({"precision": "float16"}, "precision='float16': pass 'auto', 'bfloat16' or 'float32'"),
        ({"class_weight": 0.0, "caption_weight": 0.0}, "at least one above 0"),
        ({"text_mix": 1.5}, "text_mix=1.5"),
        ({"head_lr": -1.0}, "head_lr=-1.0: pass 0 or more"),
        ({"head_lr": math.inf}, "head_lr=inf: pass a finite number"),
        ({"class_weight": math.nan}, "class_weight=nan: pass a finite number"),
        ({"ema": 1.5}, "ema=1.5: pass a number below 1"),
        ({"sizes": (-32,)}, "sizes[0]=-32: pass 1 or more"),
        ({"size_weights": (0.0,)}, "at least one above 0"),
        ({"counts": (61,)}, "data set 'toy': count 61 of its 60 tiles, so that a step would hold some twice"),
        ({"accumulate": 19}, "accumulate=19"),
        ({"sizes": (32, 64)}, "2 sizes, 1 size_weights"),
    ],
)
def test_options_that_make_no_run_are_refused(tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Toy(tmp_path, **options)


@pytest.mark.parametrize("phrases", [[], [["one class"]]])
def test_without_two_classes_or_captions_there_is_nothing_to_learn(tmp_path: Path, phrases: list[list[str]]) -> None:
    run = Toy(tmp_path)
    labels = torch.full((60,), len(phrases) - 1)
    book = PromptBook(PromptConfig(), [(phrases, [[]] * 60, labels)], extras=["x"])
    pooled = torch.zeros(len(book.prompts), 24)
    with pytest.raises(InputError, match="nothing to learn from"):
        AlignObjective(run.aligner.config, run.sets, (18,), book, pooled, to_pixels)


def test_maps_of_land_cover_move_with_their_tiles(tmp_path: Path) -> None:
    run = Toy(tmp_path, halves=True, augment=AugmentConfig(radiometry_probability=0, coarse_probability=0))
    batch = run.aligner.draw(0)
    pool = torch.nn.functional.adaptive_avg_pool2d
    told, shown = pool(batch.maps[0], 4), pool(batch.images, 4)
    sure = told.amax(dim=1) > 0.95
    assert float(sure.float().mean()) > 0.5
    colours = to_pixels(torch.tensor(list(COLOURS.values())) / 255)
    nearest = (shown[:, None] - colours[None, :, :, None, None]).square().sum(dim=2).argmin(dim=1)
    assert torch.equal(told.argmax(dim=1)[sure], nearest[sure])


def test_places_learn_what_lies_there(tmp_path: Path) -> None:
    run = Toy(tmp_path, halves=True, seed=1, caption_weight=0.0)
    run.train(EVERY_STEP)
    by_place = losses(run, "place")
    assert np.mean(by_place[-10:]) < np.mean(by_place[:10]) - 0.1
