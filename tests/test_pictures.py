"""Results as pictures and tables: colours of labels, plots, notebooks, pandas. On the miniature release."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from sattxt import SatTxt
from sattxt.errors import InputError, MissingExtraError
from sattxt.pictures import draw_legend, label_colours

LABELS = ["forest", "river", "city"]


@pytest.fixture
def paths(tiles: list[np.ndarray], tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"<{i}>.png" for i in range(3)]
    for path, tile in zip(found, tiles, strict=False):
        Image.fromarray(tile).save(path)
    return found


def test_colours_mean_what_labels_say() -> None:
    labels = ["water", "Forests", "bare soil", "a photo of buildings", "roads", "crop fields"]
    water, forest, soil, buildings, roads, fields = label_colours(labels).values()
    assert max(water) == water[2] > water[0] + 100
    assert max(forest) == forest[1] > forest[0] + 50
    assert soil[0] > soil[1] > soil[2]
    assert buildings[0] > 2 * max(buildings[1:])
    assert len(set(roads)) == 1
    assert min(fields[:2]) > fields[2] + 100


def test_labels_that_mean_the_same_get_lighter_and_darker_shades() -> None:
    river, lake, sea, pond, bay = label_colours(["river", "lake", "sea", "pond", "bay"]).values()
    assert river == (30, 100, 200)
    assert all(lighter > part for lighter, part in zip(lake, river, strict=True))
    assert all(darker < part for darker, part in zip(sea, river, strict=True))
    assert sum(pond) > sum(lake)
    assert sum(bay) < sum(sea)


@pytest.mark.parametrize("names", [["river", "lake", "sea"] * 9, ["thing", "forest"] * 30])
def test_every_label_has_its_own_colour_the_same_every_time(names: list[str]) -> None:
    labels = [f"{i} {name}" for i, name in enumerate(names)]
    colours = list(label_colours(labels).values())
    assert len(set(colours)) == len(labels)
    assert colours == list(label_colours(labels).values())
    assert all(0 <= part <= 255 and isinstance(part, int) for colour in colours for part in colour)


def test_colours_of_the_users_own(model: SatTxt, tiles: list[np.ndarray]) -> None:
    found = model.segment(tiles[0], LABELS)
    palette: dict[str, Any] = {"forest": "#010203", "river": (4, 5, 6), "city": "navy"}
    drawn = np.asarray(found.to_image(opacity=1, legend=False, colours=palette))
    table = np.array([(1, 2, 3), (4, 5, 6), (0, 0, 128)], np.uint8)
    np.testing.assert_array_equal(drawn, table[found.label_map])
    for wrong, says in (
        ({"forrest": "red"}, "did you mean 'forest'"),
        ({"forest": "reddish"}, "'reddish' for 'forest' is no colour"),
        ({"forest": (1, 2)}, "is no colour"),
        ({"forest": (1, 2, 300)}, "0-255"),
    ):
        with pytest.raises(InputError, match=says):
            found.to_image(colours=wrong)
    with pytest.raises(InputError, match="opacity='x'"):
        found.to_image(opacity="x")


def test_overlays_have_the_images_own_size(model: SatTxt, tiles: list[np.ndarray], tmp_path: Path) -> None:
    found = model.segment(tiles[0][:40], LABELS)
    with Image.open(found.save_png(tmp_path / "own.png", legend=False)) as picture:
        assert picture.size == (tiles[0].shape[1], 40)


def test_a_legend_names_shares_the_largest_first() -> None:
    legend = {"sea": (0, 0, 250), "a long name": (0, 250, 0)}
    drawn = draw_legend(Image.new("RGB", (100, 90), "red"), legend, {"sea": 0.256, "a long name": 0.744})
    assert drawn.height == 5 * 90  # by a whole factor to 384 at least
    assert drawn.getpixel((499, 449)) == (255, 0, 0)
    assert [drawn.getpixel((520, top)) for top in (20, 44)] == [(0, 250, 0), (0, 0, 250)]
    font = ImageFont.load_default(size=15)
    for top, text in ((10, "a long name  74 %"), (34, "sea  26 %")):
        alone = Image.new("RGB", drawn.size, "white")
        ImageDraw.Draw(alone).text((538, top), text, fill="black", font=font)
        box = (530, top, drawn.width, top + 24)
        assert np.array_equal(np.asarray(drawn.crop(box)), np.asarray(alone.crop(box)))
    assert draw_legend(Image.new("RGB", (384, 500)), legend, dict.fromkeys(legend, 0.5)).height == 500


def test_a_batch_is_a_data_frame(model: SatTxt, paths: list[Path]) -> None:
    batch = model.zero_shot([paths[0], "none.png", paths[2]], LABELS, on_error="skip")
    frame = batch.to_pandas()
    assert list(frame.columns) == ["source", "label", "prob", "fit", *LABELS]
    assert list(frame.index) == [0, 2]
    assert list(frame["source"]) == [str(paths[0]), str(paths[2])]
    assert frame[LABELS].to_numpy() == pytest.approx(batch.probs)
    assert batch.to_rows() == frame.to_dict("records")
    assert list(model.zero_shot([], LABELS).to_pandas().columns) == ["source", "label", "prob", "fit"]


def test_notebooks_show_thumbnails_where_files_can_be_read(model: SatTxt, paths: list[Path]) -> None:
    batch = model.zero_shot([*paths, np.zeros((30, 30, 3), np.uint8), "none.png"], LABELS, on_error="skip")
    shown = batch._repr_html_()
    assert shown.count("<tr>") == 4
    assert shown.count("data:image/png;base64,") == 3
    assert "&lt;0&gt;.png" in shown
    assert "<0>" not in shown
    assert "1 could not be read" in shown
    assert batch[0]._repr_html_().count("data:image/png") == 1
    assert "... and 5 more" in model.zero_shot([paths[0]] * 25, LABELS)._repr_html_()
    assert model.segment(paths[0], LABELS)._repr_html_().startswith('<img src="data:image/png;base64,')


def test_text_of_a_segmentation_is_short(model: SatTxt, tiles: list[np.ndarray]) -> None:
    text = repr(model.segment(tiles[0], LABELS))
    height, width = tiles[0].shape[:2]
    assert text.startswith(f"Segmentation({height} x {width}: ")
    assert text.count("%") == 3
    assert len(text) < 100


def test_text_of_classifiers_and_banks_is_short(model: SatTxt, tmp_path: Path) -> None:
    assert repr(model.classifier(LABELS)) == "Classifier(3 labels: forest, river, city)"
    assert repr(model.classifier([f"label {i}" for i in range(9)])).endswith("label 4, ...)")
    assert repr(model.classifier(LABELS, multi_label=True)).endswith("city; several a tile)")
    bank = model.export_labels(tmp_path / "bank.safetensors", LABELS)
    assert repr(bank).startswith("LabelBank(3 labels, ")
    assert len(repr(bank)) < 120


def test_results_plot_themselves(model: SatTxt, paths: list[Path]) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    batch = model.zero_shot(paths, LABELS)
    bars = batch[0].plot(k=2)
    assert [text.get_text() for text in bars.get_yticklabels()] == [label for label, _ in batch[0].top(2)][::-1]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([prob for _, prob in batch[0].top(2)][::-1])
    grid = batch.plot(limit=2)
    assert [each.get_title().rsplit(" ", 2)[0] for each in grid] == batch.labels[:2]
    assert all(len(each.images) == 1 for each in grid)
    found = model.segment(paths[0], LABELS)
    own = pyplot.subplots()[1]
    drawn = found.plot(own)
    assert drawn is own
    assert drawn.images[0].get_array().shape == (*found.label_map.shape, 3)
    shown = [f"{label}  {100 * found.shares[label]:.0f} %" for label in sorted(LABELS, key=lambda x: -found.shares[x])]
    assert [text.get_text() for text in drawn.get_legend().get_texts()] == shown
    assert len(model.zero_shot(paths[0], [f"label {i}" for i in range(7)]).plot().patches) == 5
    many = model.zero_shot([paths[0]] * 30, LABELS).plot()
    assert len(many) == 24
    assert many[0].get_gridspec().get_geometry() == (4, 6)
    with pytest.raises(InputError, match="no results"):
        model.zero_shot([], LABELS).plot()
    pyplot.close("all")


def test_what_is_not_installed_is_named(
    model: SatTxt, tiles: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = model.zero_shot(tiles, LABELS)
    for module, ask, says in (
        ("pandas", batch.to_pandas, r"pip install 'sattxt\[eval\]'"),
        ("matplotlib.pyplot", batch.plot, r"pip install 'sattxt\[demo\]'"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=says):
            ask()
