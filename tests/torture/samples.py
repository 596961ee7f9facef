"""Sound files of every kind the library opens, and how each is opened through the public surface."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Samples = tuple[list[Path], Callable[[Path], None]]


def _picture(side: int = 48) -> np.ndarray:
    """A smooth (side, side, 3) uint8 picture."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def images(folder: Path) -> Samples:
    """A file of every image format, TIFFs of many layouts among them."""
    import rasterio

    from sattxt import ImageOptions, SatTxt

    picture = Image.fromarray(_picture())
    formats: list[tuple[str, dict[str, Any]]] = [
        ("a.jpg", {"quality": 90}),
        ("progressive.jpg", {"quality": 80, "progressive": True}),
        ("a.png", {}),
        ("a.webp", {"quality": 80}),
        ("lossless.webp", {"lossless": True}),
        ("a.avif", {"quality": 70}),
        ("a.jp2", {}),
        ("a.bmp", {}),
        ("pillow.tif", {"compression": "tiff_deflate"}),
        ("pillow_lzw.tif", {"compression": "tiff_lzw"}),
        ("a.gif", {}),
    ]
    for name, options in formats:
        picture.save(folder / name, **options)
    picture.convert("P").save(folder / "palette.png")
    picture.convert("RGBA").save(folder / "alpha.png")
    values = _picture().transpose(2, 0, 1)
    many = np.repeat(values, 5, axis=0)[:13].astype(np.uint16) * 20
    layouts: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        ("striped.tif", values, {}),
        ("tiled.tif", values, {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}),
        ("pixel.tif", values, {"interleave": "pixel", "compress": "lzw", "predictor": 2}),
        ("jpeg.tif", values, {"compress": "jpeg"}),
        ("uint16.tif", many, {"compress": "zstd"}),
        ("float.tif", values.astype(np.float32) / 255, {"compress": "deflate", "predictor": 3}),
        ("big.tif", values, {"BIGTIFF": "YES"}),
    ]
    for name, array, options in layouts:
        shape = {"count": len(array), "height": array.shape[1], "width": array.shape[2], "dtype": array.dtype}
        place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
        with rasterio.open(folder / name, "w", driver="GTiff", **shape, **place, **options) as out:
            out.write(array)
            out.descriptions = [f"B{i + 1:02d}" for i in range(len(array))]
    model = SatTxt.from_pretrained(dtype="float32", text_cache=False)
    reflectance = ImageOptions(bands=(4, 3, 2), stretch="sentinel2")
    unit = ImageOptions(value_range="0-1")
    special = {"uint16.tif": reflectance, "float.tif": unit}

    def use(path: Path) -> None:
        vector = model.encode_image(path, options=special.get(path.name))
        assert np.isfinite(np.asarray(vector)).all(), "an embedding that is not finite"

    return sorted(p for p in folder.iterdir() if p.is_file()), use


def _model_directory(folder: Path) -> Path:
    from release_files import convert_golden

    return convert_golden(folder / "model")


def _open_directory(folder: Path) -> Callable[[Path], None]:
    """Open the model with one changed file; its checksum is taken anew, as one who forges it would."""
    import hashlib

    from sattxt import SatTxt

    picture = _picture()
    sums = folder / "SHA256SUMS"
    recorded = sums.read_text()

    def use(path: Path) -> None:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(folder).as_posix()
        lines = [f"{digest}  {name}" if line.endswith(f" {name}") else line for line in recorded.splitlines()]
        sums.write_text("\n".join(lines) + "\n")
        model = SatTxt.from_pretrained(folder, dtype="float32", text_cache=False)
        assert np.isfinite(np.asarray(model.encode_image(picture))).all(), "an embedding that is not finite"

    return use


def tensors(folder: Path) -> Samples:
    """The safetensors files of a model directory."""
    model = _model_directory(folder)
    return sorted(model.glob("*.safetensors")), _open_directory(model)


def configs(folder: Path) -> Samples:
    """The config of a model directory."""
    model = _model_directory(folder)
    return [model / "config.json"], _open_directory(model)


def sums(folder: Path) -> Samples:
    """The checksums of a model directory."""
    from sattxt import SatTxt

    model = _model_directory(folder)
    return [model / "SHA256SUMS"], lambda _: SatTxt.from_pretrained(model, text_cache=False) and None


def banks(folder: Path) -> Samples:
    """A label bank."""
    from sattxt import SatTxt

    model = SatTxt.from_pretrained(dtype="float32", text_cache=False)
    path = folder / "labels.safetensors"
    model.export_labels(path, ["forest", "river", "city"])

    def use(path: Path) -> None:
        opened = SatTxt.from_pretrained(dtype="float32", text_cache=False)
        opened.import_labels(path)

    return [path], use


def caches(folder: Path) -> Samples:
    """A text cache of a few hundred rows, without its log."""
    from sattxt import TextCache

    path = folder / "text.sqlite3"
    texts = [f"text {i}" for i in range(300)]
    vectors = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    known = dict(zip(texts, vectors, strict=True))
    with TextCache(path) as cache:
        cache.put_many("space", texts, vectors)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()

    def use(path: Path) -> None:
        for log in ("-wal", "-shm"):
            path.with_name(path.name + log).unlink(missing_ok=True)
        with TextCache(path) as cache:
            for text, vector in cache.get_many("space", texts).items():
                assert np.array_equal(vector, known[text]), "a damaged vector was given"
            cache.put_many("space", ["a new one"], vectors[:1])

    return [path], use


def recipes(folder: Path) -> Samples:
    """The recipes of the package, and one small one."""
    from sattxt.training import recipe

    for source in Path(recipe.__file__).parent.joinpath("recipes").glob("*.yaml"):
        shutil.copy(source, folder / source.name)
    return sorted(folder.glob("*.yaml")), lambda path: recipe.read_recipe(path) and None


def label_files(folder: Path) -> Samples:
    """Lists of labels: text and JSON."""
    from sattxt.cli.inputs import read_texts

    (folder / "labels.txt").write_text("forest\nriver\nbuilt-up area\n")
    (folder / "labels.json").write_text('{"water": ["river", "lake"], "built": ["houses"]}')
    return sorted(folder.glob("labels.*")), lambda path: read_texts(str(path)) and None


SAMPLES: dict[str, Callable[[Path], Samples]] = {
    "images": images,
    "tensors": tensors,
    "configs": configs,
    "sums": sums,
    "banks": banks,
    "caches": caches,
    "recipes": recipes,
    "label_files": label_files,
}
