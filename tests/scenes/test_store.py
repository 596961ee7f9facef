"""Stores: what is added once stays, what changed is made anew, what fails is told and tried again."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import geopandas
import geoparquet_validator
import numpy as np
import pytest
from s3_standin import S3StandIn
from store_files import add_item, all_rows, make_store, squares, unit_vectors, write_scene

from sattxt import SatTxt
from sattxt.errors import DiskFullError, InputError, SceneError, StoreError, StoreMismatchError
from sattxt.io import os as io_os
from sattxt.scenes import Store, ingest

CHIP = 32


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("scenes")
    return [str(write_scene(folder / f"s{n}.tif", seed=n, east=n * 2000)) for n in range(3)]


@pytest.fixture
def store(tmp_path: Path, model: SatTxt) -> Store:
    return Store.create(tmp_path / "store", model, chip=CHIP)


def test_scenes_are_added_once(store: Store, scenes: list[str], model: SatTxt) -> None:
    assert store.items == []
    told = store.add(scenes, dry_run=True)
    assert (told.scenes, told.done, told.dry_run, told.rows) == (3, 0, True, told.chips)
    assert len(store) == 0
    assert told.seconds > 0
    report = store.add(scenes)
    assert (report.scenes, report.done, report.failures) == (3, 0, [])
    assert report.chips == told.chips
    assert 0 < report.rows == len(store) <= report.chips  # chips that lie half beyond the scene are left out
    assert report.bytes == sum(path.stat().st_size for path in Path(store.path).glob("parts/*/*"))
    again = store.add(scenes)
    assert (again.done, again.chips, again.rows) == (3, 0, 0)
    assert store.add(scenes, dry_run=True).done == 3


def test_rows_are_the_embeddings_of_the_chips(store: Store, scenes: list[str], model: SatTxt) -> None:
    import rasterio
    from rasterio.windows import Window

    store.add(scenes[0])
    ((table, vectors),) = list(store.rows())
    assert (np.diff(table["hilbert"].to_numpy()) >= 0).all()
    with rasterio.open(scenes[0]) as file:
        for row, vector in zip(table.to_pylist(), vectors, strict=True):
            left, top, right, bottom = row["pixel_bbox"]
            window = Window(left, top, right - left, bottom - top)
            chip = file.read(window=window, boundless=True).transpose(1, 2, 0)
            inside = left >= 0 and top >= 0 and right <= file.width and bottom <= file.height
            if inside:
                assert np.abs(model.encode_image(chip) - vector).max() < 2e-3
            assert row["id"] == f"s0#{row['grid_cell']}"
            assert str(row["start_datetime"]).startswith("2024-05-17 10:30:00")
            assert (row["crs"], row["gsd"], row["source"]) == ("EPSG:32633", 10.0, scenes[0])


def test_a_changed_source_replaces_its_item(store: Store, tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene.tif", seed=1)
    store.add(path)
    before = all_rows(store)
    (old,) = Path(store.path).glob("parts/scene/*.parquet")
    write_scene(path, seed=2)
    assert store.add(path).done == 0
    after = all_rows(store)
    assert before.keys() == after.keys()
    assert before != after
    assert old.exists()  # until it is pruned: a reader may be at it
    fresh = store.check(prune=True)
    assert (fresh.removed, len(fresh.orphans), fresh.damaged) == ([], 1, [])
    os.utime(old, (0, 0))
    assert store.check(prune=True).removed == [f"parts/scene/{old.name}"]
    assert all_rows(store) == after


def test_other_settings_are_refused_with_both_values(tmp_path: Path, model: SatTxt, mini: SatTxt) -> None:
    Store.create(tmp_path / "store", model, chip=CHIP)
    assert Store.create(tmp_path / "store", model, chip=CHIP).settings.chip == CHIP
    with pytest.raises(StoreMismatchError, match=r"chip is 32, not 64.*stored is 'float16', not 'int8'"):
        Store.create(tmp_path / "store", model, store="int8")
    with pytest.raises(StoreMismatchError, match=r"stretch is None, not 'sentinel2'"):
        Store.create(tmp_path / "store", model, chip=CHIP, stretch="sentinel2")
    with pytest.raises(StoreMismatchError, match=f"fingerprint {model.fingerprint}, not {mini.fingerprint}"):
        Store.open(tmp_path / "store", mini)
    other = SatTxt.from_pretrained(model._stored.path, dtype="bfloat16", text_cache=False)  # type: ignore[union-attr]
    with pytest.raises(StoreMismatchError, match="precision is 'float32', not 'bfloat16'"):
        Store.open(tmp_path / "store", other)


def test_a_store_opens_its_own_model(store: Store, scenes: list[str], model: SatTxt) -> None:
    store.add(scenes[0])
    opened = Store.open(store.path)
    assert opened.model.fingerprint == model.fingerprint
    assert opened.model.dtype == model.dtype
    assert opened.search("river", k=3).to_rows() == store.search("river", k=3).to_rows()
    assert opened.add(scenes).done == 1


def test_a_store_of_weights_that_are_gone_opens_for_reading(store: Store, scenes: list[str]) -> None:
    store.add(scenes[0])
    path = Path(store.path) / "store.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "fingerprint": "f" * 16, "location": None, "model": "sattxt-mini"}))
    opened = Store.open(store.path)
    ids = list(all_rows(opened))
    assert len(opened.search(like=ids[0], k=2)) == 2
    with pytest.raises(StoreMismatchError, match=r"pip install sattxt==\d+\.\d+"):
        opened.search("river")
    with pytest.raises(StoreMismatchError, match="adds to it"):
        opened.add(scenes)


def test_what_cannot_be_read_is_told_and_tried_again(store: Store, scenes: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for scene in scenes:
        shutil.copy2(scene, folder)
    packed = write_scene(folder / "s1.tif", seed=1, east=2000, compress="deflate")
    content = packed.read_bytes()
    packed.write_bytes(content[:20] + bytes(1000) + content[1020:])  # its header is there, its pixels are not
    (folder / "text.tif").write_text("no picture")
    report = store.add(folder, on_error="skip")
    assert (report.scenes, len(report.failures), len(store.items)) == (4, 2, 2)
    assert {Path(failure.source).name for failure in report.failures} == {"s1.tif", "text.tif"}
    assert sorted(path.name for path in Path(store.path).glob("failed/*")) == ["s1.json", "text.json"]
    assert json.loads((Path(store.path) / "failed/s1.json").read_text())["error"] == next(
        failure.error for failure in report.failures if "s1" in failure.source
    )
    with pytest.raises(SceneError, match=r"text\.tif: cannot be read"):
        store.add(folder)
    shutil.copy2(scenes[1], folder)
    (folder / "text.tif").unlink()
    report = store.add(folder)
    assert (report.done, report.failures, len(store.items)) == (2, [], 3)
    assert [path.name for path in Path(store.path).glob("failed/*")] == ["text.json"]


def test_two_sources_of_one_name_ask_for_item_id(store: Store, scenes: list[str], tmp_path: Path) -> None:
    other = write_scene(tmp_path / "other" / "s0.tif", seed=7)
    with pytest.raises(InputError, match=r"are both item 's0'; pass item_id="):
        store.add([scenes[0], other])
    store.add(scenes[0])
    with pytest.raises(InputError, match=r"are both item 's0'; pass item_id="):
        store.add(other)
    store.add(other, item_id="a/b: ünïcode")
    assert {item.id for item in store.items} == {"s0", "a/b: ünïcode"}
    moved = shutil.copy2(scenes[0], tmp_path)
    assert store.add(moved).done == 1
    with pytest.raises(InputError, match="names one scene"):
        store.add(scenes, item_id="x")


def test_scenes_that_do_not_fit(tmp_path: Path, scenes: list[str], model: SatTxt) -> None:
    with pytest.raises(SceneError, match=r"has 10 m a pixel, the store is for 0\.5 m"):
        Store.create(tmp_path / "fine", model, gsd=0.5, chip=CHIP).add(scenes[0])
    with pytest.raises(SceneError, match="smaller than a chip of 64"):
        Store.create(tmp_path / "coarse", model).add(write_scene(tmp_path / "small.tif", size=(50, 50)))
    with pytest.raises(InputError, match="no scenes"):
        Store.create(tmp_path / "coarse", model).add([])
    with pytest.raises(StoreError, match="no store there; make one with"):
        Store.open(tmp_path / "nothing")


@pytest.mark.parametrize(
    "given", [{"grid": "hex"}, {"store": "int4"}, {"min_valid": 2}, {"gsd": -1}, {"chip": 1}, {"stretch": "much"}]
)
def test_settings_that_mean_nothing(tmp_path: Path, model: SatTxt, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(given))}="):
        Store.create(tmp_path / "store", model, **given)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("step", range(1, 9))
def test_a_full_disk_leaves_the_store_as_it_was(
    store: Store, scenes: list[str], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    store.add(scenes[0])
    before, flush, count = all_rows(store), os.fsync, 0

    def full(file: int) -> None:
        nonlocal count
        count += 1
        if count == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    with monkeypatch.context() as patched:
        patched.setattr(io_os, "fsync", full)
        with pytest.raises(DiskFullError, match="no space left"):
            store.add(scenes)
    left = all_rows(Store.open(store.path))
    assert {key: left[key] for key in before} == before
    assert not list(Path(store.path).rglob("*.tmp"))
    assert not (Path(store.path) / "failed").exists()
    store.add(scenes)
    assert len(store.items) == 3


def test_damage_is_named_and_mended(store: Store, scenes: list[str]) -> None:
    store.add(scenes)
    before = all_rows(store)
    assert store.check().damaged == []
    (one,) = Path(store.path).glob("parts/s1/*.parquet")
    content = bytearray(one.read_bytes())
    content[len(content) // 3] ^= 0xFF
    one.write_bytes(content)
    (gone,) = Path(store.path).glob("parts/s2/*.parquet")
    gone.unlink()
    report = store.check()
    assert (report.items, len(report.damaged), report.failed) == (1, 2, ["s1", "s2"])
    assert any(one.name in line and "is damaged" in line for line in report.damaged)
    assert any(gone.name in line and "is missing" in line for line in report.damaged)
    assert store.add(scenes).done == 1
    assert store.check().damaged == []
    assert all_rows(store) == before
    (Path(store.path) / "items" / "s0.json").write_text("{}")
    assert "s0.json: is a damaged record" in store.check().damaged[0]
    with pytest.raises(StoreError, match="remove it and add its scene again"):
        store.items  # noqa: B018


def test_clouded_scenes_are_not_tried_again(store: Store, scenes: list[str], tmp_path: Path) -> None:
    import rasterio

    with rasterio.open(scenes[0]) as scene:
        profile = scene.profile | {"count": 1}
    mask = tmp_path / "clouds.tif"
    with rasterio.open(mask, "w", **profile) as file:
        file.write(np.ones((1, file.height, file.width), np.uint8))
    report = store.add(scenes[0], mask=mask)
    assert (report.rows, len(store.items), len(store)) == (0, 1, 0)
    assert report.chips > 0
    assert store.add(scenes[0], mask=mask).done == 1
    assert store.search("river").note == "the store holds no chips; add scenes to it"
    assert store.add(scenes[0]).done == 0  # read otherwise, it is another
    assert len(store) > 0


def test_images_without_georeference(tmp_path: Path, model: SatTxt) -> None:
    from PIL import Image

    image = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(image)
    store = Store.create(tmp_path / "store", model, grid="pixels", chip=CHIP)
    assert store.add(image).rows == len(store) > 0
    hit = store.search("river", k=1)[0]
    assert (hit.bbox, hit.geometry, hit.crs, hit.gsd) == (None, None, None, None)
    item = json.loads((tmp_path / "store/items/picture.json").read_text())
    assert item["geometry"] is None
    assert "NaN" not in json.dumps(item)
    assert store.search("river", bbox=(-180, -90, 180, 90)).note is not None


def test_export_is_sorted_and_whole(store: Store, scenes: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    store.add(scenes)
    from sattxt.scenes import export

    monkeypatch.setattr(export, "FILE_BYTES", 10 * store.settings.dimensions * 2)
    files = store.export(tmp_path / "out")
    parts = [path for path in files if path.suffix == ".parquet"]
    assert len(parts) > 1
    frames = [geopandas.read_parquet(path) for path in parts]
    assert sorted(key for frame in frames for key in frame["id"]) == sorted(all_rows(store))
    curve = [int(place) for frame in frames for place in frame["hilbert"]]
    assert curve == sorted(curve)
    assert geoparquet_validator.failed(geoparquet_validator.check(str(parts[0]))) == []
    collection = json.loads((tmp_path / "out/collection.json").read_text())
    assert {asset["href"] for asset in collection["assets"].values()} == {f"./{path.name}" for path in parts}
    with pytest.raises(InputError, match="overwrite=True"):
        store.export(tmp_path / "out")
    named = geopandas.read_parquet(store.export(tmp_path / "out", names="majortom", overwrite=True)[0])
    assert {"unique_id", "grid_cell", "product_id", "timestamp", "centre_lat", "utm_crs"} <= set(named.columns)
    assert named["timestamp"].iloc[0] == "20240517T103000"


def test_a_store_classifies_its_chips(store: Store, scenes: list[str], model: SatTxt, tmp_path: Path) -> None:
    store.add(scenes)
    found = store.classify(["river", "forest", "city"])
    expected = model.classifier(["river", "forest", "city"])
    vectors = np.concatenate([rows for _, rows in store.rows()])
    assert found.labels == ("river", "forest", "city")
    assert [row["label"] for row in found.to_rows()] == expected(vectors).labels
    assert np.allclose(found.probs, expected(vectors).probs, atol=1e-5)
    assert sum(found.shares.values()) == pytest.approx(1)
    several = store.classify(["river", "forest"], multi_label=True, after="2024-05", bbox=(14, 40, 16, 50))
    assert several.multi_label
    assert len(several) == len(found)
    frame = geopandas.read_parquet(several.save(tmp_path / "labels.parquet"))
    assert frame["p:river"].between(0, 1).all()
    assert len(store.classify(["river", "forest"], after="2030")) == 0


def test_info(store: Store, scenes: list[str]) -> None:
    empty = store.info()
    assert (empty["rows"], empty["bounds"], empty["start"]) == (0, None, None)
    store.add(scenes)
    facts = store.info()
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["items"], facts["rows"], facts["indexed"]) == (3, len(store), 0)
    west, south, east, north = facts["bounds"]
    assert 14.9 < west < east < 15.2
    assert 45 < south < north < 46
    assert facts["start"].startswith("2024-05-17T10:30")
    store.index()
    assert store.info()["indexed"] == len(store)


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_a_bucket_is_a_store_too(tmp_path: Path, scenes: list[str], model: SatTxt, stored: Any) -> None:
    address = f"file://{tmp_path}/bucket/store"
    store = Store.create(address, model, chip=CHIP, store=stored)
    local = Store.create(tmp_path / "local", model, chip=CHIP, store=stored)
    for each in (store, local):
        assert each.add(scenes[:2]).rows > 0
    assert all_rows(store) == all_rows(local)
    again = Store.open(address, model)
    assert again.add(scenes).done == 2
    local.add(scenes)
    assert again.search("river", k=5).to_rows() == local.search("river", k=5).to_rows()
    again.index()
    assert again.search("river", k=5).to_rows() == local.search("river", k=5).to_rows()
    assert again.check(prune=True).damaged == []
    with pytest.raises(StoreError, match="no store there"):
        Store.open(f"file://{tmp_path}/bucket/other")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store.open("nowhere://bucket")


@pytest.mark.parametrize("engine", ["spark", "task:3/3", "task:a/b", "task:1"])
def test_engines_that_are_none(store: Store, scenes: list[str], engine: str) -> None:
    with pytest.raises(InputError, match="pass 'local', 'ray', or 'task:i/n'"):
        store.add(scenes, engine=engine)


def test_large_scenes_are_several_units(store: Store, scenes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(scenes[0])
    whole = {key: row[1:] for key, row in all_rows(store).items()}
    monkeypatch.setattr(ingest, "UNIT", 2)
    split = Store.create(f"{store.path}-split", store.model, chip=CHIP)
    split.add(scenes[0])
    (item,) = split.items
    assert len(item.parts) == -(-len(split) // 2)
    assert all_rows(split).keys() == whole.keys()
    assert split.check().damaged == []
    record = json.loads((Path(split.path) / "items/s0.json").read_text())
    assert list(record["assets"])[:2] == ["embeddings", "embeddings-2"]


def test_a_wide_store_reads_only_the_items_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store", items=0)
    for place in range(4):
        rings = squares(10, seed=place, west=place * 20, east=place * 20 + 5)
        add_item(store, f"i{place}", unit_vectors(10, seed=place), rings, None)
    opened: list[str] = []
    read = type(store.files).open
    monkeypatch.setattr(type(store.files), "open", lambda self, name: opened.append(name) or read(self, name))
    assert sum(table.num_rows for table, _ in store.rows(["id"], bbox=(39, -90, 46, 90))) == 10
    assert len(opened) == 1


def test_a_store_in_s3(tmp_path: Path, scenes: list[str], model: SatTxt, monkeypatch: pytest.MonkeyPatch) -> None:
    local = Store.create(tmp_path / "local", model, chip=CHIP)
    local.add(scenes)
    with S3StandIn() as cloud:
        settings = {"ENDPOINT": cloud.url, "ALLOW_HTTP": "true", "REGION": "here", "ACCESS_KEY_ID": "a"}
        for name, value in {**settings, "SECRET_ACCESS_KEY": "b"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        store = Store.create("s3://bucket/places", model, chip=CHIP)
        store.add(scenes[:2])
        parts = {key: content for key, content in cloud.objects.items() if "/parts/" in key}
        cloud.failing.update({"PUT": 1, "GET": 1})  # a server that is busy is asked again
        assert store.add(scenes).done == 2
        assert all(cloud.objects[key] is content for key, content in parts.items())
        assert all_rows(store) == all_rows(local)
        opened = Store.open("s3://bucket/places", model)
        assert opened.search("river", k=5).to_rows() == local.search("river", k=5).to_rows()
        assert "s3://bucket/places" in repr(opened)
        del cloud.objects["/bucket/places/items/s0.json"]
        assert opened.add(scenes).done == 2  # the part is there, and stays
        assert all_rows(opened) == all_rows(local)
        key = next(key for key in cloud.objects if "/parts/s1/" in key)
        cloud.objects[key] = cloud.objects[key][:-50]
        assert len(opened.check().damaged) == 1
        assert opened.add(scenes).done == 2
        assert opened.check().damaged == []
