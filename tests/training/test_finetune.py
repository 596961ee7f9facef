"""The recipe ``finetune``: a model learns a user's names for folders and keeps what it knew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sattxt import SatTxt, label_set
from sattxt.errors import InputError
from sattxt.training import AlignRun, read_recipe
from sattxt.training.prompts import shipped_texts

COLOURS = {"zembla": (20, 40, 130), "quorin": (20, 90, 30), "ploom": (210, 180, 130)}
KNOWN = [f"a satellite image of {name}" for name in (*label_set("eurosat").names, *label_set("resisc45").names)]
SHORT: dict[str, Any] = {"align.keep_texts": KNOWN, "align.steps": 60, "align.sets.mine.count": 12}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve noisy tiles of each of three colours, in folders of invented names."""
    root, random = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(12):
            pixels = np.clip(colour + random.normal(0, 14, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def start() -> SatTxt:
    return SatTxt.from_pretrained(backend="torch", dtype="float32")


def tune(folders: Path, out: Path, **changes: Any) -> SatTxt:
    recipe = read_recipe("finetune", SHORT | {f"align.{key}": value for key, value in changes.items()})
    run = AlignRun(recipe, folders, out / "run", init="sattxt-mini")
    run.train()
    return SatTxt.from_pretrained(run.export(out / "model"), backend="torch", dtype="float32")


def moved(ours: SatTxt, start: SatTxt) -> float:
    """The mean squared distance of what the model knew by name from where it was."""
    return float(np.square(ours.encode_text(KNOWN) - start.encode_text(KNOWN)).sum(axis=1).mean())


def test_new_names_are_learnt_and_known_ones_stay(folders: Path, start: SatTxt, tmp_path: Path) -> None:
    ours = tune(folders, tmp_path)
    files = sorted(folders.glob("*/*.png"))
    truth = np.array([file.parent.name for file in files])

    def share_right(model: SatTxt) -> float:
        return float(np.mean(truth == [result.label for result in model.zero_shot(files, list(COLOURS))]))

    assert share_right(ours) > 0.95
    assert share_right(start) < 0.7
    assert moved(ours, start) < 0.02
    # Images, their stored embeddings, calibration and refusal are those of the start.
    np.testing.assert_allclose(ours.encode_image(files[:4]), start.encode_image(files[:4]), atol=1e-6)
    assert ours.config.logit_scale == start.config.logit_scale
    assert ours.zero_shot(files[0], ["sea or lake"]).fit is not None


def test_without_keep_texts_the_known_names_move_and_refusal_is_left_out(
    folders: Path, start: SatTxt, tmp_path: Path
) -> None:
    held = moved(tune(folders, tmp_path / "held"), start)
    loose = tune(folders, tmp_path / "loose", keep_texts=None)
    assert moved(loose, start) > 5 * held
    assert loose.zero_shot(folders / "ploom" / "00.png", ["sand"]).fit is None


def test_there_must_be_something_to_keep(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"keep_texts.*--init"):
        AlignRun(read_recipe("finetune", SHORT), folders, tmp_path)


def test_the_shipped_texts_hold_every_label_and_phrase_once() -> None:
    texts = shipped_texts()
    assert len(set(texts)) == len(texts)
    assert {"river", "a satellite image of river", "a satellite image of sparse residential"} <= set(texts)
    assert read_recipe("finetune").align.keep_texts == texts
