"""``sattxt embed``: what is written, and what is kept when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_fakes import sattxt
from PIL import Image


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_embed_writes_one_row_an_image_with_its_name(model, tiles, tmp_path, capsys, suffix):
    out = tmp_path / f"vectors{suffix}"
    bad = tiles / "broken.png"
    bad.write_bytes(b"no picture")
    assert sattxt("embed", tiles, "-o", out, "--on-error", "skip") == 1
    names = [str(tiles / "night.png"), str(tiles / "deep" / "día.png")]
    if suffix == ".npy":
        rows, ids = np.load(out), json.loads(Path(f"{out}.json").read_text())["ids"]
    elif suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(out, "numpy") as file:
            rows, ids = file.get_tensor("embeddings"), json.loads(file.metadata()["ids"])
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(out)
        rows, ids = np.stack(table["embedding"].to_numpy()), table["id"].to_pylist()
    assert ids == names
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_embed_texts(model, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("a river\nsnow\n")
    out = tmp_path / "texts.npy"
    assert sattxt("embed", "--text", tmp_path / "texts.txt", "-o", out, "--json") == 0
    np.testing.assert_array_equal(np.load(out), [[7, 1], [4, 1]])
    assert json.loads(capsys.readouterr().out) == {"output": str(out), "rows": 2, "dim": 2, "skipped": 0}


@pytest.mark.parametrize(("out", "complaint"), [("x.txt", ".npy"), ("nowhere/x.npy", "a folder that exists")])
def test_embed_refuses_an_output_it_cannot_write_before_any_work(model, tiles, tmp_path, capsys, out, complaint):
    assert sattxt("embed", tiles, "-o", tmp_path / out) == 2
    assert complaint in capsys.readouterr().err
    assert model.opened_with == {}


def test_embed_keeps_what_was_done_before_an_error(golden_model_dir, tmp_path, capsys):
    """With the default --on-error the first bad file ends the job; the rows before it are in a file of their own."""
    for name, shade in (("a.png", 40), ("b.png", 200)):
        Image.new("RGB", (32, 32), (shade, 90, 30)).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no picture")
    out = tmp_path / "rows.npy"
    assert sattxt("embed", tmp_path / "*.png", "-o", out, "--model", golden_model_dir) == 2
    assert "2 of 3 images" in capsys.readouterr().err
    assert not out.exists()
    assert np.load(tmp_path / "rows.partial.npy").shape[0] == 2
    ids = json.loads((tmp_path / "rows.partial.npy.json").read_text())["ids"]
    assert [Path(i).name for i in ids] == ["a.png", "b.png"]


def test_a_file_that_is_there_is_replaced_only_where_that_is_asked(model, tiles, tmp_path, capsys):
    out = tmp_path / "tiles.npy"
    out.write_text("precious")
    assert sattxt("embed", tiles, "-o", out) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert model.calls == [], "refused before any work"
    assert sattxt("embed", tiles, "-o", out, "--overwrite") == 0
    assert np.load(out).shape == (2, 2)
