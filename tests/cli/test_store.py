"""``sattxt store`` and ``sattxt search``: from scenes to hits, and what is told on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_fakes import sattxt
from store_files import write_scene

from sattxt.cli import exits


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for number in range(2):
        write_scene(folder / f"s{number}.tif", seed=number, east=number * 2000)
    return folder


@pytest.fixture
def store(tmp_path: Path, golden_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "store"
    made = ("store", "create", path, "--model", golden_model_dir, "--dtype", "float32", "--chip", "32")
    assert sattxt(*made) == exits.DONE
    assert sattxt(*made) == exits.DONE
    capsys.readouterr()
    return path


def test_from_scenes_to_hits(store: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sattxt("store", "add", store, scenes, "--dry-run") == exits.DONE
    assert "2 scenes, 0 done; to do: at most" in capsys.readouterr().err
    assert sattxt("store", "add", store, scenes, "--json") == exits.DONE
    report = json.loads(capsys.readouterr().out)
    assert (report["scenes"], report["done"], report["failures"]) == (2, 0, [])
    assert sattxt("store", "add", store, scenes) == exits.DONE
    assert "2 scenes, 2 were there; 0 of 0 chips kept" in capsys.readouterr().err

    hits = tmp_path / "hits.geojson"
    assert sattxt("search", store, "river", "-k", "3", "--after", "2024", "--geojson", hits) == exits.DONE
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["score", "id", "lon,", "lat", "date"]
    assert lines[1].endswith("2024-05-17")
    assert sattxt("search", store, "river", "-k", "3", "--json") == exits.DONE
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in rows] == [each["id"] for each in json.loads(hits.read_text())["features"]]
    liked = [argument for row in rows[:2] for argument in ("--like", row["id"])]
    assert sattxt("search", store, *liked, "--unlike", rows[2]["id"], "--bbox", "14,44,16,46") == exits.DONE
    assert rows[0]["id"] not in capsys.readouterr().out
    assert sattxt("search", store, "river", "--before", "2020") == exits.DONE
    assert "no hits: the period (before 2020-01-01) leaves none of the store's" in capsys.readouterr().err
    assert sattxt("search", store, "river", "--geojson", hits) == exits.USAGE
    assert "--overwrite" in capsys.readouterr().err

    assert sattxt("store", "index", store) == exits.DONE
    assert sattxt("store", "info", store) == exits.DONE
    told = capsys.readouterr().out
    assert "rows" in told
    assert "2024-05-17" in told
    assert sattxt("store", "export", store, "-o", tmp_path / "out") == exits.DONE
    assert (tmp_path / "out" / "collection.json").is_file()


def test_what_went_wrong_is_told(
    store: Path, scenes: Path, tmp_path: Path, golden_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "text.tif").write_text("no picture")
    assert sattxt("store", "add", store, tmp_path / "bad", scenes, "--on-error", "skip") == exits.SKIPPED
    told = capsys.readouterr().err
    assert "skipped: " in told
    assert "1 of 3 scenes skipped; the same command tries them again" in told
    assert sattxt("store", "add", store, tmp_path / "bad") == exits.USAGE
    assert sattxt("store", "check", store) == exits.DONE
    assert "2 items" in capsys.readouterr().out
    next(store.glob("parts/s0/*")).write_bytes(b"PAR1")
    assert sattxt("store", "check", store, "--json") == exits.MODEL
    assert len(json.loads(capsys.readouterr().out)["damaged"]) == 1
    assert sattxt("store", "create", store, "--model", golden_model_dir, "--dtype", "float32") == exits.USAGE
    assert "chip is 32, not 64" in capsys.readouterr().err
    assert sattxt("search", tmp_path / "nothing", "river") == exits.MODEL
    assert sattxt("search", store) == exits.USAGE
    assert "nothing to look for" in capsys.readouterr().err
    assert sattxt("store", "add", store, scenes, "--engine", "task:9/3") == exits.USAGE
    assert "--engine task:9/3: pass" in capsys.readouterr().err
