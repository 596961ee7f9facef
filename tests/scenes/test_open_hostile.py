"""Files that are damaged, replaced, packed or named in ways that mislead: each is read right, or refused by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from rasterio import Affine
from rasterio.shutil import copy
from rasterio.windows import Window
from rasters import METRES, NORTH, WEST, write_raster
from test_open import everything, make_safe, reflectance

from sattxt.errors import InputError, SceneError
from sattxt.scenes import chips as chips_module
from sattxt.scenes import handles
from sattxt.scenes.address import hide_credentials
from sattxt.scenes.chips import read_chips
from sattxt.scenes.grids import plan_chips
from sattxt.scenes.open import open_scenes

NOISE = np.random.default_rng(0).integers(1, 255, (3, 128, 128)).astype(np.uint8)
TILED = {"compress": "deflate", "tiled": True, "blockxsize": 32, "blockysize": 32}


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "_PAUSE", 0.0)


def damage(path: Path) -> Path:
    content = path.read_bytes()
    third = len(content) // 3
    path.write_bytes(content[:third] + bytes(third) + content[2 * third :])
    return path


@pytest.mark.parametrize(
    ("driver", "bands"), [*((driver, n) for driver in ("PNG", "JPEG", "BMP", "COG") for n in (1, 3)), ("WEBP", 3)]
)
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_what_a_truncated_picture_lacks_is_not_black(driver: str, bands: int, share: float, tmp_path: Path) -> None:
    raw = write_raster(tmp_path / "raw.tif", pixels=NOISE[:bands], crs=None, transform=Affine.identity())
    copy(str(raw), str(tmp_path / "p"), driver=driver)
    whole = (tmp_path / "p").read_bytes()
    (tmp_path / "p").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SceneError, match="p: cannot be read"):
        everything(open_scenes(tmp_path / "p")[0])
    (tmp_path / "p").write_bytes(whole)
    values, valid, _ = everything(open_scenes(tmp_path / "p")[0])
    assert valid.all()
    assert driver in ("JPEG", "WEBP") or np.array_equal(values, NOISE.transpose(1, 2, 0) if bands == 3 else values)


def test_damage_in_a_mosaic_a_mask_or_beneath_a_warp_is_an_error(tmp_path: Path) -> None:
    east = Affine(METRES, 0, WEST + 1280, 0, -METRES, NORTH)
    askew = Affine.translation(WEST, NORTH) @ Affine.rotation(30) @ Affine.scale(METRES, -METRES)
    left = write_raster(tmp_path / "left.tif", pixels=NOISE, **TILED)
    right = damage(write_raster(tmp_path / "right.tif", pixels=NOISE, transform=east, **TILED))
    turned = damage(write_raster(tmp_path / "turned.tif", pixels=NOISE, transform=askew, **TILED))
    mask = damage(write_raster(tmp_path / "clouds.tif", pixels=NOISE[:1] % 2, **TILED))
    for source, options in (([left, right], {}), (turned, {}), (left, {"mask": mask})):
        (scene,) = open_scenes([source], **options)
        with pytest.raises(SceneError, match="cannot be read"):
            everything(scene)
    assert everything(open_scenes(left)[0])[1].all()


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "s.tif", pixels=NOISE)
    (first,) = open_scenes(path)
    everything(first)
    write_raster(path, pixels=NOISE[:, ::-1], descriptions=("red", "green", "blue"))
    (second,) = open_scenes(path)
    assert second.signature != first.signature
    assert np.array_equal(everything(second)[0], NOISE[:, ::-1].transpose(1, 2, 0))


def test_a_virtual_raster_changes_with_its_sources(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", pixels=NOISE)
    virtual = tmp_path / "v.vrt"
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{i}"><SimpleSource><SourceFilename relativeToVRT="1">a.tif'
        f"</SourceFilename><SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>"
        for i in (1, 2, 3)
    )
    place = f"<SRS>EPSG:32633</SRS><GeoTransform>{WEST}, 10, 0, {NORTH}, 0, -10</GeoTransform>"
    virtual.write_text(f'<VRTDataset rasterXSize="128" rasterYSize="128">{place}{bands}</VRTDataset>')
    (before,) = open_scenes(virtual)
    assert np.array_equal(everything(before)[0], NOISE.transpose(1, 2, 0))
    write_raster(source, pixels=NOISE[:, ::-1], descriptions=("red", "green", "blue"))
    assert open_scenes(virtual)[0].signature != before.signature
    source.unlink()
    handles.close_files()
    with pytest.raises(SceneError, match=r"v\.vrt"):
        everything(before)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_and_their_members_are_opened_in_place(kind: str, tmp_path: Path) -> None:
    inside = [write_raster(tmp_path / "in" / name, pixels=NOISE) for name in ("a.tif", "below/b.tif")]
    archive = tmp_path / f"all.{kind}"
    names = [path.relative_to(tmp_path / "in").as_posix() for path in inside]
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path, name in zip(inside, names, strict=True):
                packed.write(path, name)
    else:
        with tarfile.open(archive, "w") as taped:
            for path, name in zip(inside, names, strict=True):
                taped.add(path, f"./{name}")
    scenes = open_scenes(archive)
    assert [scene.id for scene in scenes] == ["a", "b"]
    (one,) = open_scenes(archive / "below" / "b.tif")
    for scene in (*scenes, one):
        assert np.array_equal(everything(scene)[0], NOISE.transpose(1, 2, 0))
    for member in ("below/none.tif", "below"):
        with pytest.raises(SceneError, match="has no such file in it"):
            open_scenes(archive / member)
    archive.write_bytes(b"x" * 700)
    with pytest.raises(SceneError, match=f"cannot be read as a {kind}"):
        open_scenes(archive)


def test_a_folder_of_downloads_gives_each_item_once(tmp_path: Path) -> None:
    safe = make_safe(tmp_path / "made")
    folder = tmp_path / "downloads"
    folder.mkdir()
    with zipfile.ZipFile(folder / "product.zip", "w") as archive:
        for file in safe.rglob("*"):
            archive.write(file, file.relative_to(safe.parent))
    with zipfile.ZipFile(folder / "documents.zip", "w") as archive:
        archive.writestr("readme.txt", "no scene")
    assets = {}
    for band, name in (("B04", "red"), ("B03", "green"), ("B02", "blue")):
        write_raster(folder / "item" / f"{band}.tif", pixels=reflectance(300))
        assets[name] = {"href": f"./{band}.tif", "eo:bands": [{"name": band, "common_name": name}]}
    item = {"type": "Feature", "stac_version": "1.1.0", "id": "the-item", "assets": assets, "properties": {}}
    (folder / "item" / "item.json").write_text(json.dumps(item))
    (folder / "item" / "notes.json").write_text('{"type": "FeatureCollection"}')
    write_raster(folder / "plain.tif", pixels=NOISE)
    assert sorted(scene.id for scene in open_scenes(folder)) == [
        "S2B_MSIL2A_20240601T101031_N0510_R022_T33UUB_20240601T120000",
        "plain",
        "the-item",
    ]
    assert open_scenes(safe / "MTD_MSIL2A.xml")[0].id == safe.name.removesuffix(".SAFE")


def test_bands_of_two_dates_in_one_folder_are_two_scenes(tmp_path: Path) -> None:
    for day, value in (("20240601", 100), ("20240611", 500)):
        for band in ("B02", "B03", "B04"):
            write_raster(tmp_path / f"T33UUB_{day}T101031_{band}_10m.tif", pixels=reflectance(value))
        coarse = reflectance(value, 48)
        at = Affine(20, 0, WEST, 0, -20, NORTH)
        write_raster(tmp_path / f"T33UUB_{day}T101031_B02_20m.tif", pixels=coarse, transform=at)
        scl = np.where(np.arange(48) < 10, 9, 4) * np.ones((1, 48, 1))
        write_raster(tmp_path / f"T33UUB_{day}T101031_SCL_20m.tif", pixels=scl.astype(np.uint8), transform=at)
    scenes = open_scenes(tmp_path)
    assert [scene.id for scene in scenes] == ["T33UUB_20240601T101031", "T33UUB_20240611T101031"]
    assert scenes[1].start == datetime(2024, 6, 11, 10, 10, 31, tzinfo=timezone.utc)
    for scene, value in zip(scenes, (100, 500), strict=True):
        values, _, cloud = everything(scene)
        assert np.array_equal(values[..., 2], reflectance(value)[0])
        assert cloud is not None
        assert 0.1 < cloud.mean() < 0.3


def test_bands_that_may_be_another_sensors_are_not_guessed(tmp_path: Path) -> None:
    for band in ("B2", "B3", "B4"):
        write_raster(tmp_path / f"LT05_L2SP_SR_{band}.TIF", pixels=reflectance(100))
    with pytest.raises(SceneError, match=r"of which sensor is not said; pass bands=\('B04', 'B03', 'B02'\)"):
        open_scenes(tmp_path)
    (scene,) = open_scenes(tmp_path, bands=("B3", "B2", "B4"))
    assert (scene.id, scene.bands, scene.sentinel2) == ("LT05_L2SP_SR", ("B03", "B02", "B04"), False)


def test_a_mask_beside_a_raster_is_its_and_no_scene(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", pixels=NOISE)
    write_raster(tmp_path / "b.tif", pixels=NOISE)
    write_raster(tmp_path / "a_cloud_mask.tif", pixels=np.ones((1, 128, 128), np.uint8))
    scenes = {scene.id: scene for scene in open_scenes(tmp_path)}
    assert scenes.keys() == {"a", "b"}
    assert everything(scenes["a"])[2].all()
    assert everything(scenes["b"])[2] is None


def test_black_in_one_colour_is_no_missing_data(tmp_path: Path) -> None:
    pixels = np.full((3, 64, 64), 90, np.uint8)
    pixels[0, :, :40] = 0
    pixels[:, :8] = 0
    (scene,) = open_scenes(write_raster(tmp_path / "s.tif", pixels=pixels, nodata=0))
    assert np.array_equal(everything(scene)[1], (pixels > 0).any(axis=0))
    values = pixels.astype(np.int16)
    values[0, :, :40] = -999
    (scene,) = open_scenes(write_raster(tmp_path / "n.tif", pixels=values, nodata=-999))
    assert np.array_equal(everything(scene)[1], values[0] != -999)


def test_a_picture_that_was_given_a_place_is_warped_from_there(tmp_path: Path) -> None:
    columns = np.arange(400)[None] * np.ones((400, 1))
    smooth = np.stack([columns / 2, columns.T / 2, 0 * columns]).astype(np.uint8)
    path = write_raster(tmp_path / "p.png", pixels=smooth, crs=None, transform=Affine.identity(), driver="PNG")
    (scene,) = open_scenes(path, crs="EPSG:4326", bounds=(10, 40, 10.4, 40.4))
    chips = plan_chips(scene, "quadkey", 64, 64)
    seen = 0
    for indices, rgb, _, _ in read_chips(scene, chips):
        for index, picture in zip(indices, rgb, strict=True):
            longitude, latitude = chips.corners[index, :4].mean(axis=0)
            told = [(longitude - 10) * 500, (40.4 - latitude) * 500]
            assert np.allclose(picture[31:33, 31:33, :2].mean((0, 1)), told, atol=2)
            seen += 1
    assert seen > 10


def test_arguments_that_mean_nothing_are_named(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "s.tif", pixels=NOISE)
    picture = write_raster(tmp_path / "p.png", pixels=NOISE, crs=None, transform=Affine.identity(), driver="PNG")
    for options in (
        {"bands": []}, {"bands": (1, 2)}, {"bands": "B04"}, {"bands": (0, 1, 2)}, {"offset": "x"},
        {"offset": float("nan")}, {"crs": "EPSG:4326", "bounds": ("a", 2, 3, 4)}, {"crs": "EPSG:4326", "bounds": 7},
        {"crs": "EPSG:4326", "bounds": (0, 0, float("inf"), 1)},
    ):  # fmt: skip
        with pytest.raises(InputError, match=next(reversed(options))):
            open_scenes(path, **options)
    with pytest.raises(SceneError, match="a georeference of its own, in EPSG:32633; leave crs= and bounds= out"):
        open_scenes(path, crs="EPSG:4326", bounds=(0, 0, 1, 1))
    with pytest.raises(SceneError, match="pass bounds= with crs="):
        open_scenes(picture, crs="EPSG:4326")
    with pytest.raises(SceneError, match=r"clouds\.tif: no such file"):
        open_scenes(path, mask=tmp_path / "clouds.tif")
    assert open_scenes(path, crs="EPSG:32633")[0].crs.to_epsg() == 32633


def test_a_large_scene_is_looked_at_in_places_and_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.full((3, 300, 2400), 1000, np.uint16) + np.arange(2400, dtype=np.uint16)
    path = write_raster(tmp_path / "N0510.tif", pixels=values, descriptions=("B04", "B03", "B02"), **TILED)
    (scene,) = open_scenes(path, offset=1000)
    assert len(scene.sample) < values[0].size
    assert scene.sample.min() == 0
    assert scene.sample.max() == 2399
    scene.check_offset()
    chips = plan_chips(scene, "pixels", 64, 50)
    found = _by_index(scene, chips)
    monkeypatch.setattr(chips_module, "_STRIP", 1 << 18)
    assert len(list(chips_module._strips(scene, chips))) > 20
    parts = _by_index(scene, chips)
    assert found.keys() == parts.keys() == set(range(len(chips)))
    assert all(np.array_equal(found[index], parts[index]) for index in found)


def _by_index(scene, chips) -> dict[int, np.ndarray]:
    batches = read_chips(scene, chips, stretch="sentinel2")
    return {int(i): picture for indices, rgb, _, _ in batches for i, picture in zip(indices, rgb, strict=True)}


_SERVER = """
import http.server, re, sys
data, asked = open(sys.argv[1], "rb").read(), [0]
class Server(http.server.BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_HEAD(self): self.do_GET()
    def do_GET(self):
        if not self.path.startswith("/s.tif"): return self.send_error(404)
        asked[0] += 1
        if asked[0] % 3 == 0 or (sys.argv[2] == "fails" and asked[0] > 4): return self.send_error(503)
        first, last = 0, len(data) - 1
        if found := re.match(r"bytes=(\\d+)-(\\d*)", self.headers.get("Range", "")):
            first, last = int(found[1]), min(int(found[2] or last), last)
        self.send_response(206 if found else 200)
        if found: self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("ETag", '"one"')
        self.end_headers()
        if self.command == "GET": self.wfile.write(data[first:last + 1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@pytest.fixture
def serve() -> Iterator:
    """Starts a server that fails every third request, in a process of its own: GDAL waits with Python's lock held."""
    started = []

    def start(path: Path, how: str) -> str:
        server = subprocess.Popen([sys.executable, "-c", _SERVER, str(path), how], stdout=subprocess.PIPE, text=True)
        started.append(server)
        return f"127.0.0.1:{server.stdout.readline().strip()}/s.tif"

    yield start
    for server in started:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("how", ["recovers", "fails"])
def test_a_server_that_drops_requests_gives_no_black_chips(how: str, serve, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(1, 255, (3, 1024, 1024)).astype(np.uint8)
    path = write_raster(tmp_path / "s.tif", pixels=noise, **{**TILED, "blockxsize": 128, "blockysize": 128})
    address = serve(path, how)

    def embedded() -> dict[int, np.ndarray]:
        (scene,) = open_scenes(f"http://user:secret@{address}?signature=hush")
        assert scene.source == f"http://{address}"
        batches = read_chips(scene, chips)
        return {int(i): picture for indices, rgb, _, _ in batches for i, picture in zip(indices, rgb, strict=True)}

    chips = plan_chips(open_scenes(path)[0], "pixels", 128, 128)
    if how == "fails":
        with pytest.raises(SceneError, match=address) as caught:
            embedded()
        assert not any(word in str(caught.value) for word in ("secret", "hush"))
        return
    found = embedded()
    assert len(found) == 64
    for index, picture in found.items():
        x0, y0, x1, y1 = chips.pixel_bbox[index]
        assert np.array_equal(picture, noise[:, y0:y1, x0:x1].transpose(1, 2, 0))


def test_credentials_are_in_no_text() -> None:
    for text, shown in (
        ("https://u:p@h/x.tif?sig=1", "https://h/x.tif"),
        ("/vsicurl/https://u:p@h/x.tif?sig=1: HTTP 403", "/vsicurl/https://h/x.tif HTTP 403"),
        ("s3://bucket/key.tif", "s3://bucket/key.tif"),
        ("data/what?.tif", "data/what?.tif"),
    ):
        assert hide_credentials(text) == shown
    assert hide_credentials("x.tif?sig=1: 403", "https://h/x.tif?sig=1") == "x.tif: 403"


def test_a_window_is_read_the_same_whatever_the_file_beneath(tmp_path: Path) -> None:
    window = Window(17, 40, 50, 33)
    whole = write_raster(tmp_path / "whole.tif", pixels=NOISE)
    expected = open_scenes(whole)[0].read(window)[0]
    for name, options in (
        ("png", {"driver": "PNG"}),
        ("jp2", {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}),
    ):
        path = write_raster(tmp_path / f"p.{name}", pixels=NOISE, **options)
        assert np.array_equal(open_scenes(path)[0].read(window)[0], expected)
    shutil.copy(whole, tmp_path / "name [1].tif")
    assert np.array_equal(open_scenes(tmp_path / "name [1].tif")[0].read(window)[0], expected)
