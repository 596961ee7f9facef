"""Which items lie where a user points: products, folders of single bands, archives, mosaics, single rasters."""

from __future__ import annotations

import glob
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from sattxt.errors import InputError, SceneError
from sattxt.images.bands import canonical, reflectance_offset
from sattxt.images.load import is_image
from sattxt.io import first_line
from sattxt.scenes.mosaic import mosaic_vrt
from sattxt.scenes.products import MASK_FILE, RGB, Product, find_moment, read_clouds
from sattxt.scenes.raster import Band
from sattxt.scenes.safe import METADATA, read_safe
from sattxt.scenes.stac import read_item

#: A file that holds one band, named by its end: ``T32TQM_..._B04_10m``, ``B4``, ``red``.
_BAND_FILE = re.compile(r"(?:^|[_-])(B(?:0?[1-9]|1[0-2]|8A)|red|green|blue)(?:_\d0m)?$", re.IGNORECASE)


def find_products(source: Any) -> list[Product]:
    """The items that a source means."""
    if isinstance(source, (list, tuple)):
        return [_mosaic([os.fsdecode(path) for path in source])]
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"{type(source).__name__} is no scene; pass the path of a file or folder, or a list of them")
    name = os.fsdecode(source)
    if "://" in name or name.startswith("/vsi"):
        return [_single(name)]
    if glob.has_magic(name) and not os.path.lexists(name):
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            raise SceneError(f"{name}: no file matches this pattern")
        return [product for match in matches for product in find_products(match)]
    path = Path(name)
    if not path.exists():
        raise SceneError(f"{name}: no such file or folder")
    if path.suffix.lower() == ".json":
        return [read_item(path)]
    if path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                names = [entry for entry in archive.namelist() if not entry.endswith("/")]
        except (OSError, zipfile.BadZipFile) as error:
            raise SceneError(f"{name}: cannot be read as a zip ({first_line(error)})") from error
        return _group(names, f"/vsizip/{path.absolute()}", name, (str(path),))
    if path.is_dir():
        files = sorted(
            file.relative_to(path).as_posix()
            for file in path.rglob("*")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        return _group(files, str(path), name, None)
    return [_single(name)]


def _group(names: Sequence[str], root: str, source: str, files: tuple[str, ...] | None) -> list[Product]:
    """The items among the files below a folder or in an archive: products, folders of single bands, single rasters.

    Args:
        names: of the files, relative to ``root``. files: what signatures are made of; ``None``: the files themselves.
    """
    products, rest = [], [name for name in names if is_image(name)]
    metadata = [name for name in names if METADATA.fullmatch(PurePosixPath(name).name)]
    for name in metadata:
        folder = PurePosixPath(name).parent
        inside = [each for each in names if PurePosixPath(each).is_relative_to(folder)]
        where = source if str(folder) == "." else f"{source}/{folder}"
        products.append(read_safe(root, name, inside, where, files))
        rest = [each for each in rest if each not in inside]
    folders: dict[PurePosixPath, list[str]] = {}
    for name in rest:
        folders.setdefault(PurePosixPath(name).parent, []).append(name)
    for folder, own in folders.items():
        single = {name: match[1] for name in own if (match := _BAND_FILE.search(PurePosixPath(name).stem))}
        masks = [name for name in own if MASK_FILE.search(PurePosixPath(name).stem)]
        if len(single) >= len("RGB"):
            where = source if str(folder) == "." else f"{source}/{folder}"
            item = PurePosixPath(where.rstrip("/")).name.removesuffix(".zip")
            used = [*single, *masks]
            bands = {canonical(band): Band(f"{root}/{name}") for name, band in single.items()}
            clouds = read_clouds(f"{root}/{masks[0]}") if masks else None
            moment = find_moment(item, {})
            kept = files or tuple(f"{root}/{name}" for name in used)
            added = reflectance_offset({}, f"{where}/")
            products.append(
                Product(
                    item, where, kept, None, bands, moment, None, {} if added is None else {"": added},
                    set(RGB) <= set(bands) and not any(name in ("red", "green", "blue") for name in bands), clouds,
                )
            )  # fmt: skip
            own = [name for name in own if name not in used]
        for name in own:
            where = f"{source}/{name}"
            stem = PurePosixPath(name).stem
            products.append(Product(stem, where, files or (f"{root}/{name}",), f"{root}/{name}"))
    return products


def _single(name: str) -> Product:
    return Product(PurePosixPath(urlsplit(name).path if "://" in name else name).stem, name, (name,), name)


def _mosaic(names: Sequence[str]) -> Product:
    """Rasters of one item side by side."""
    if not names:
        raise InputError("an empty list is no mosaic; pass the paths of its rasters")
    return Product(Path(names[0]).stem, names[0], tuple(names), mosaic_vrt(names))
