"""A run of stage 2 that takes a second: three colours of noisy tiles, random text vectors, a small MobileNet."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import torch

from sattxt.config import BackboneConfig, HeadConfig, VisionConfig
from sattxt.training.loop import LoopOptions, Run
from sattxt.training.objectives.align.model import AlignConfig, AlignModel
from sattxt.training.objectives.align.objective import AlignObjective
from sattxt.training.prompts import PromptBook, PromptConfig
from sattxt.training.tiles import Tiles
from sattxt.training.validate import Normalise, score_labelled
from sattxt.vision.tower import VisionTower

COLOURS = {"water": (20, 40, 160), "wood": (20, 90, 30), "sand": (210, 180, 130)}


class Toy(Run[AlignModel]):
    """Three colours of noisy tiles, random frozen text vectors, a small MobileNet.

    halves: the right half of a tile has the next colour, and a map tells so.
    """

    def __init__(
        self,
        out: Path,
        *,
        seed: int = 0,
        normalise: Normalise | None = None,
        counts: tuple[int, ...] = (18,),
        halves: bool = False,
        **options: object,
    ) -> None:
        generator = torch.Generator().manual_seed(9)
        images, labels, captions = [], [], []
        for label, colour in enumerate(COLOURS.values()):
            base = torch.tensor(colour, dtype=torch.float32)[None, :, None, None]
            noise = 12 * torch.randn(20, 3, 32, 32, generator=generator)
            images.append((base + noise).clamp(0, 255).to(torch.uint8))
            labels += [label] * 20
            captions += [[f"caption {label} {i}" for i in range(3)]] * 20
        keys = [str(i) for i in labels]
        tiles = Tiles("toy", keys, torch.cat(images), torch.tensor(labels), tuple(COLOURS), captions)
        if halves:
            shown = tiles.take(torch.arange(60))
            shown[..., 16:] = shown.roll(-20, dims=0)[..., 16:]
            maps = torch.zeros(60, 3, 4, 4, dtype=torch.uint8)
            for index, label in enumerate(labels):
                maps[index, label, :, :2] = maps[index, (label + 1) % 3, :, 2:] = 255
            tiles = replace(tiles, pixels=shown, maps=maps)
        book = PromptBook(
            PromptConfig(templates=("a photo of {}",)),
            [([[colour] for colour in COLOURS], captions, tiles.labels)],
        )
        anchors = torch.randn(3, 24, generator=generator)
        near = (anchors[:, None] + 0.3 * torch.randn(3, 3, 24, generator=generator)).flatten(0, 1)
        pooled = torch.cat([anchors, near])
        torch.manual_seed(seed)
        vision = VisionConfig(
            BackboneConfig("mobilenet_v1", {"depth_multiplier": 0.25}, 16), HeadConfig(256, 16, 1, 2, 32)
        )
        small = {"steps": 60, "sizes": (32,), "size_weights": (1.0,), "warmup": 3, "pool": 8}
        config = AlignConfig(**{**small, "precision": "float32", "seed": seed, **options})
        model = AlignModel(VisionTower(vision), 24, 10.0)
        self.sets = [tiles]
        self.aligner = AlignObjective(config, self.sets, counts, book, pooled, normalise or to_pixels)
        out.mkdir(parents=True, exist_ok=True)
        super().__init__(self.aligner, model, out)

    def measure(self, model: AlignModel) -> dict[str, float]:
        model = self.aligner.calibrate_norms(model, 32, batches=10)
        scores, truth = score_labelled(model, self.sets[0], self.aligner.pooled[:3], to_pixels, 32, 60)
        return {"toy": 100 * float((scores.argmax(dim=1) == truth).float().mean())}


def to_pixels(x: torch.Tensor) -> torch.Tensor:
    return (x - 0.5) / 0.5


def losses(run: Run, column: str) -> list[float]:
    with (run.out / "losses.csv").open() as handle:
        return [float(row[column]) for row in csv.DictReader(handle)]


EVERY_STEP = LoopOptions(log_every=1)


def rows(run: Run, name: str = "losses.csv", leave_out: tuple[str, ...] = ("seconds", "tiles_per_s")) -> list[dict]:
    """The rows of a log, without what depends on the clock."""
    with (run.out / name).open() as handle:
        return [{k: v for k, v in row.items() if k not in leave_out} for row in csv.DictReader(handle)]


def assert_same_weights(ours: Run, theirs: Run) -> None:
    for one, other in ((ours.model, theirs.model), (ours.average, theirs.average)):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
