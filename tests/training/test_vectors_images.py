"""Stage 2 with the vision side frozen: every tile is embedded once, before the first step."""

from __future__ import annotations

import dataclasses
import errno
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_toy import Toy, losses, to_pixels

from sattxt.errors import DiskFullError, InputError
from sattxt.training.loop import LoopOptions
from sattxt.training.objectives.align.objective import AlignObjective
from sattxt.training.prompts import PromptBook, PromptConfig
from sattxt.training.tiles import Tiles

EVERY_STEP = LoopOptions(log_every=1)
CPU = torch.device("cpu")


def still(out: Path, views: int = 1, **options: object) -> Toy:
    """With norms that fit the tiles: else random weights give all of them the same embedding."""
    run = Toy(out, freeze_backbone=True, freeze_head=True, image_views=views, **{"steps": 12, **options})
    norms = [m for m in run.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    run.model.train()
    with torch.no_grad():
        run.model.image(to_pixels(run.sets[0].pixels.float() / 255))
    run.model.eval()
    return run


def embeddings(run: Toy) -> torch.Tensor:
    """Of the whole tiles, as evaluation computes them."""
    with torch.no_grad():
        return run.model.eval().image(to_pixels(run.sets[0].take(torch.arange(60)).float() / 255))


def assert_alike(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)  # norms are folded into kernels


def stored(out: Path, which: int = 0) -> torch.Tensor:
    """(N, V, D) embeddings of a data set, as they lie in the run's folder."""
    return load_file(files(out)[which])["views"]


def files(out: Path) -> list[Path]:
    return sorted(out.glob("images-*.safetensors"))


def test_one_view_is_the_whole_tile(tmp_path: Path) -> None:
    run = still(tmp_path)
    run.aligner.prepare(run.model, tmp_path, CPU)
    batch = run.aligner.draw(3)
    assert_alike(batch.images, embeddings(run)[batch.parts[0]])


def test_further_views_are_augmented_and_drawn_at_random(tmp_path: Path) -> None:
    run = still(tmp_path, views=4)
    run.aligner.prepare(run.model, tmp_path, CPU)
    views = stored(tmp_path)
    assert views.shape == (60, 4, 32)
    assert_alike(views[:, 0], embeddings(run))
    apart = 1 - torch.einsum("nvd,nwd->vwn", views, views).mean(-1)
    assert bool((apart[~torch.eye(4, dtype=torch.bool)] > 1e-5).all())
    drawn = torch.cat([run.aligner.draw(step).images for step in range(20)])
    tiles = torch.cat([run.aligner.draw(step).parts[0] for step in range(20)])
    which = (views[tiles] - drawn[:, None]).abs().sum(-1).argmin(1)
    assert bool((torch.bincount(which, minlength=4) > 50).all())  # 90 of 360 each


def test_every_set_has_its_own_views(tmp_path: Path) -> None:
    run = still(tmp_path, views=2)
    first = run.sets[0]
    second = dataclasses.replace(first, name="night", pixels=first.pixels // 4)
    book = PromptBook(
        PromptConfig(templates=("a photo of {}",)),
        [([[name] for name in s.classes], s.captions, s.labels) for s in (first, second)],
    )
    aligner = AlignObjective(run.aligner.config, [first, second], (5, 3), book, run.aligner.pooled, to_pixels)
    aligner.prepare(run.model, tmp_path, CPU)
    assert len(files(tmp_path)) == 2
    every = [stored(tmp_path, which) for which in range(2)]
    assert_alike(every[0][:, 0], embeddings(run))
    assert (every[0] - every[1]).abs().amax() > 0.01
    batch = aligner.draw(0)
    assert [len(part) for part in batch.parts] == [5, 3]
    for part, views, embedded in zip(batch.parts, every, torch.split(batch.images, [5, 3]), strict=True):
        assert bool((views[part] == embedded[:, None]).all(-1).any(-1).all())


def test_the_text_head_learns_from_stored_embeddings(tmp_path: Path) -> None:
    run = still(tmp_path, views=2, steps=60, head_lr=1e-2, text_noise=0.1)
    before = run.validate()["toy"]
    run.train(EVERY_STEP)
    by_class = losses(run, "class")
    assert np.mean(by_class[-10:]) < np.mean(by_class[:10]) - 0.2
    assert run.validate()["toy"] > max(before, 70)  # chance: 33


def test_what_is_embedded_is_read_again_and_not_computed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sattxt")
    for _ in range(2):
        run = still(tmp_path)
        run.aligner.prepare(run.model, tmp_path, CPU)
    assert caplog.text.count("embedded once") == 1
    views = stored(tmp_path)
    assert_alike(views[:, 0], embeddings(run))


@pytest.mark.parametrize("changed", ["seed", "image_views", "tiles", "byte", "cut"])
def test_embeddings_of_something_else_are_not_taken(tmp_path: Path, changed: str) -> None:
    first = still(tmp_path)
    first.aligner.prepare(first.model, tmp_path, CPU)
    run = still(tmp_path, views=2 if changed == "image_views" else 1, seed=1 if changed == "seed" else 0)
    if changed == "tiles":
        run.sets[0].pixels = 255 - run.sets[0].pixels
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    if changed == "byte":
        content[-2000] ^= 1
        path.write_bytes(content)
    elif changed == "cut":
        path.write_bytes(content[:-5000])
    run.aligner.prepare(run.model, tmp_path, CPU)
    views = stored(tmp_path)
    assert views.shape[1] == (2 if changed == "image_views" else 1)
    assert_alike(views[:, 0], embeddings(run))


def test_what_stands_in_for_an_unreadable_tile_keeps_its_own_label(tmp_path: Path) -> None:
    run = still(tmp_path)
    images = run.sets[0].pixels.numpy()

    def decode(index: int) -> np.ndarray:
        if index == 19:  # the last of the first colour; the next is of the second
            raise ValueError("broken")
        return images[index]

    def aligner() -> AlignObjective:
        tiles = Tiles("toy", run.sets[0].keys, decode, run.sets[0].labels.clone(), run.sets[0].classes)
        return AlignObjective(run.aligner.config, [tiles], (18,), run.aligner.book, run.aligner.pooled, to_pixels)

    for _ in range(2):  # computed, then read
        made = aligner()
        made.prepare(run.model, tmp_path, CPU)
        batch = next(b for b in (made.draw(step) for step in range(4)) if 19 in made.parts(b.step, 0, 0, 1)[0])
        place = int((made.parts(batch.step, 0, 0, 1)[0] == 19).nonzero()[0, 0])
        assert int(batch.parts[0][place]) == 20
        assert int(batch.labels[0][place]) == 1
        assert_alike(batch.images[place], embeddings(run)[20])


def test_a_full_disk_is_named_and_leaves_no_half_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: str, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sattxt.training.vectors.save_file", full)
    run = still(tmp_path)
    with pytest.raises(DiskFullError, match=r"images-0\.safetensors: no space left"):
        run.aligner.prepare(run.model, tmp_path, CPU)
    assert not files(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_batch_before_that_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="call prepare"):
        still(tmp_path).aligner.draw(0)


@pytest.mark.parametrize(
    "options",
    [
        {"freeze_head": False},
        {"freeze_backbone": False},
        {"sizes": (32, 64), "size_weights": (1.0, 1.0)},
    ],
)
def test_only_what_stays_the_same_can_be_embedded_once(tmp_path: Path, options: dict[str, object]) -> None:
    given = {"freeze_backbone": True, "freeze_head": True, **options}
    with pytest.raises(InputError, match=r"image_views=1: pass freeze_backbone and freeze_head"):
        Toy(tmp_path, image_views=1, **given)
