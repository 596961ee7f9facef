"""SSL4EO-S12 v1.1: both layouts of its shards, written small, and its captions."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tile_files import open_pairs, open_set, pack, table

from sattxt.data.registry import open_data
from sattxt.errors import InputError, MissingExtraError
from sattxt.images.options import ImageOptions
from sattxt.training.sets import describe

L2A = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
SIDE = 16


def reflectance(sample: int, time: int, bands: int = 12) -> np.ndarray:
    """(bands, SIDE, SIDE) int16 without offset, telling sample, time and band."""
    tile = np.full((bands, SIDE, SIDE), 100 * sample + 10 * time, np.int16)
    return tile + np.arange(1, bands + 1, dtype=np.int16)[:, None, None] + np.arange(SIDE, dtype=np.int16)


def zarr_zip(path: Path, arrays: dict[str, np.ndarray], chunks: tuple[int, ...]) -> None:
    zarr = pytest.importorskip("zarr")
    store = zarr.storage.ZipStore(path, mode="w")
    group = zarr.create_group(store, zarr_format=2)
    for name, values in arrays.items():
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=chunks if name == "bands" else values.shape or "auto"
        )
        array[...] = values
    store.close()


IDS = np.array(["0080717", "0000012", "0000013"])


@pytest.fixture
def chunk_files(tmp_path: Path) -> Path:
    for modality, dtype, bands in (("S2L2A", np.int16, L2A), ("S2RGB", np.uint8, ["red", "green", "blue"])):
        folder = tmp_path / "ssl4eo" / "train" / modality
        folder.mkdir(parents=True)
        stack = np.stack([[reflectance(s, t, len(bands)) for t in range(4)] for s in range(3)])
        stack = (stack + 1000 if modality == "S2L2A" else stack % 200).astype(dtype)
        if modality == "S2L2A":
            stack[2, 3] = 0  # no data
        arrays = {"bands": stack, "sample": IDS, "band": np.array(bands), "time": np.arange(4)}
        zarr_zip(folder / "ssl4eos12_train_seasonal_data_000001.zarr.zip", arrays, (1, 1, len(bands), SIDE, SIDE))
    return tmp_path


@pytest.fixture
def tar_shards(tmp_path: Path) -> Path:
    folder = tmp_path / "wds" / "train" / "S2L2A"
    folder.mkdir(parents=True)
    members = {}
    for s in range(3):
        stack = np.stack([reflectance(s, t) for t in range(4)])
        single = tmp_path / "one.zarr.zip"
        zarr_zip(single, {"bands": stack, "sample": np.array(IDS[s]), "band": np.array(L2A)}, (1, 12, SIDE, SIDE))
        members[f"ssl4eos12_train_seasonal_data_{s + 1:07d}.zarr.zip"] = single.read_bytes()
    pack(folder / "ssl4eos12_shard_000001.tar", members)
    return tmp_path


def caption_table(path: Path, rows: list[tuple[int, int]]) -> Path:
    return table(
        path,
        [
            {
                "caption": f"at {s} {t}",
                "question_1": "Q? A.",
                "file": "f.zarr.zip",
                "sample_id": s,
                "time_id": t,
                "tags": "x",
            }
            for s, t in rows
        ],
    )


def test_chunk_files_give_rgb_with_captions(chunk_files):
    caption_table(chunk_files / "captions.csv", [(80717, 0), (80717, 1), (12, 2), (999, 0)])
    entry = {"name": "ssl4eo", "kind": "ssl4eo", "path": "ssl4eo", "captions": "captions.csv", "size": SIDE}
    tiles = open_set(entry, chunk_files, "train")
    assert len(tiles) == 12
    assert tiles.keys[5] == "ssl4eos12_train_seasonal_data_000001/01_1"
    assert tiles.captions[:7] == [["at 80717 0"], ["at 80717 1"], [], [], [], [], ["at 12 2"]]
    assert tiles.take(torch.tensor([5]))[0, :, 3, 0].tolist() == (reflectance(1, 1, 3) % 200)[:, 3, 0].tolist()
    assert "3 captions for 3 of them" in describe(tiles)
    asked = open_set({**entry, "times": [2], "caption_columns": ["caption", "question_1"]}, chunk_files, "train")
    assert asked.captions == [[], ["at 12 2", "Q? A."], []]


@pytest.mark.parametrize("memory", [True, False])
def test_both_layouts_give_the_same_reflectance(chunk_files, tar_shards, memory):
    chunked = open_pairs(
        {"name": "c", "kind": "ssl4eo", "path": "ssl4eo", "size": SIDE, "memory": memory}, chunk_files, "train"
    )
    packed = open_pairs(
        {"name": "p", "kind": "ssl4eo", "path": "wds", "size": SIDE, "memory": memory}, chunk_files, "train"
    )
    assert isinstance(packed.pixels, torch.Tensor) is memory
    assert packed.bands == tuple(L2A)
    assert len(packed) == 12
    index = torch.tensor([0, 6, 9])
    expected = torch.from_numpy(np.stack([reflectance(0, 0), reflectance(1, 2), reflectance(2, 1)])).float()
    assert torch.equal(packed.spectral(index), expected)
    assert torch.equal(chunked.spectral(index), expected)  # the 1000 that chunk files add is off
    assert torch.equal(chunked.take(index), packed.take(index))
    red = (expected[:, 3] * 255 / 2750).round().to(torch.uint8)
    assert torch.equal(packed.take(index)[:, 0], red)
    if memory:
        assert [reason for _, reason in chunked.skipped] == ["holds no data, only 0"]
        assert len(chunked) == 11
    else:
        chunked.take(torch.tensor([11]))
        assert torch.equal(chunked.spectral(torch.tensor([11])), expected[:1])  # the next readable: the first
        assert chunked.actual(torch.tensor([11])).tolist() == [0]


@pytest.mark.parametrize("offset", [0, 400])
def test_an_offset_that_is_named_is_the_one_taken_off(chunk_files, offset):
    entry = {"name": "c", "kind": "ssl4eo", "path": "ssl4eo", "size": SIDE, "offset": offset}
    spectral = open_pairs(entry, chunk_files, "train").spectral(torch.tensor([0]))
    assert torch.equal(spectral[0], torch.from_numpy(reflectance(0, 0)).float() + 1000 - offset)


def test_reading_options_hold_for_patches(chunk_files):
    options = ImageOptions(stretch="sentinel2", offset=0)
    for modality, expected in (("S2L2A", reflectance(0, 0) + 1000), ("S2RGB", None)):
        patches = open_data(chunk_files / "ssl4eo", "ssl4eo", modality=modality, options=options).split("train")
        assert patches.image(0).shape == (SIDE, SIDE, 3)
        assert expected is None or np.array_equal(patches.bands(0)["B02"], expected[1])


def test_tar_shards_join_captions_by_the_location_in_them(tar_shards):
    (tar_shards / "captions").mkdir()
    caption_table(tar_shards / "captions" / "train.parquet", [(13, 1), (80717, 3)])
    entry = {"name": "w", "kind": "ssl4eo", "path": "wds", "modality": "S2L2A", "captions": "captions", "size": SIDE}
    tiles = open_set(entry, tar_shards, "train")
    assert {k: c for k, c in zip(tiles.keys, tiles.captions, strict=True) if c} == {
        "ssl4eos12_train_seasonal_data_0000001_3": ["at 80717 3"],
        "ssl4eos12_train_seasonal_data_0000003_1": ["at 13 1"],
    }
    assert tiles.take(torch.tensor([0]))[0, 2, 0, 0] == round((reflectance(0, 0)[1, 0, 0]) * 255 / 2750)
    caption_table(tar_shards / "captions" / "train.parquet", [(1, 1)])
    with pytest.raises(InputError, match="captions: none of 1 captions is of any of the 12 patches"):
        open_set(entry, tar_shards, "train")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modality": "S2L1C"}, "path: .*no shard .* of S2L1C"),
        ({"modality": "S1GRD"}, "modality='S1GRD': pass 'S2L1C', 'S2L2A' or 'S2RGB'"),
        ({"times": [4]}, r"times: \[4\]; pass some of 0, 1, 2, 3"),
        ({"captions": "wrong.csv"}, r"wrong\.csv: no column 'sample_id'; it has a, b"),
    ],
)
def test_ssl4eo_entries_that_do_not_fit(chunk_files, change, said):
    (chunk_files / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=said):
        open_set({"name": "s", "kind": "ssl4eo", "path": "ssl4eo", "size": SIDE, **change}, chunk_files, "train")


def test_without_zarr_the_extra_is_named(chunk_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'sattxt[train]'")):
        open_set({"name": "s", "kind": "ssl4eo", "path": "ssl4eo"}, chunk_files, "train")
