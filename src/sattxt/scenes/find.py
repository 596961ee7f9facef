"""Which items lie where a user points: products, STAC items, sets of single bands, archives, mosaics, rasters."""

from __future__ import annotations

import glob
import os
import re
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from sattxt.errors import InputError, SceneError
from sattxt.images.bands import canonical, is_sentinel2, is_sentinel2_product, reflectance_offset
from sattxt.images.load import is_image
from sattxt.io import first_line
from sattxt.scenes.address import local_file
from sattxt.scenes.mosaic import mosaic_vrt
from sattxt.scenes.products import MASK_FILE, Product, find_moment, read_clouds
from sattxt.scenes.raster import Band
from sattxt.scenes.safe import METADATA, read_safe
from sattxt.scenes.stac import is_item, read_item

#: A file that holds one band, named by its end: ``T32TQM_..._B04_10m``, ``B4``, ``red``.
_BAND_FILE = re.compile(r"(?:^|[._-])(B(?:0?[1-9]|1[0-2]|8A)|red|green|blue)(?:_(\d0)m)?$", re.IGNORECASE)
_ARCHIVES = {".zip": "/vsizip/", ".tar": "/vsitar/"}


def find_products(source: Any) -> list[Product]:
    """The items that a source means."""
    if isinstance(source, (list, tuple)):
        return [_mosaic([os.fsdecode(path) for path in source])]
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"{type(source).__name__} is no scene; pass the path of a file or folder, or a list of them")
    name = os.fsdecode(source)
    if name.startswith("file://"):
        name = local_file(name) or name
    if "://" in name or name.startswith("/vsi"):
        return [_single(name)]
    if glob.has_magic(name) and not os.path.lexists(name):
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            raise SceneError(f"{name}: no file matches this pattern")
        return [product for match in matches for product in find_products(match)]
    path = Path(name)
    if path.is_dir():
        return _folder(path)
    if METADATA.fullmatch(path.name):
        return _folder(path.parent)
    if not os.path.lexists(path):
        archive = next((each for each in path.parents if each.suffix.lower() in _ARCHIVES and each.is_file()), None)
        if archive is None:
            raise SceneError(f"{name}: no such file or folder")
        member = path.relative_to(archive).as_posix()
        if member not in _members(archive):
            raise SceneError(f"{name}: {archive.name} has no such file in it")
        return [Product(path.stem, name, (str(archive),), f"{_inside(archive)}/{member}")]
    if path.suffix.lower() == ".json":
        return [read_item(path)]
    if path.suffix.lower() in _ARCHIVES:
        return _group(_members(path), _inside(path), name, (str(path),))
    return [_single(name)]


def _inside(archive: Path) -> str:
    """An archive's content, as GDAL names it."""
    return f"{_ARCHIVES[archive.suffix.lower()]}{archive.absolute()}"


def _members(archive: Path) -> list[str]:
    """The files in a zip or tar."""
    try:
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as packed:
                return [name for name in packed.namelist() if not name.endswith("/")]
        with tarfile.open(archive, "r:") as taped:
            return [member.name.removeprefix("./") for member in taped if member.isfile()]
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        kind = archive.suffix.lower().removeprefix(".")
        raise SceneError(f"{archive}: cannot be read as a {kind} ({first_line(error)})") from error


def _folder(path: Path) -> list[Product]:
    """The items below a folder; of archives in it, those that are products."""
    files = sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    items = [read_item(path / name) for name in files if name.endswith(".json") and is_item(path / name)]
    held = {os.path.abspath(file) for item in items for file in item.files}
    products = _group([name for name in files if os.path.abspath(path / name) not in held], str(path), str(path), None)
    for archive in (path / name for name in files if name.lower().endswith(tuple(_ARCHIVES))):
        members = _members(archive)
        if any(METADATA.fullmatch(PurePosixPath(name).name) for name in members):
            products += _group(members, _inside(archive), str(archive), (str(archive),))
    return [*items, *products]


def _group(names: Sequence[str], root: str, source: str, files: tuple[str, ...] | None) -> list[Product]:
    """The items among the files below a folder or in an archive: products, sets of single bands, single rasters.

    Args:
        names: of the files, relative to ``root``. files: what signatures are made of; ``None``: the files themselves.
    """
    products, rest = [], [name for name in names if is_image(name)]
    for name in (name for name in names if METADATA.fullmatch(PurePosixPath(name).name)):
        folder = PurePosixPath(name).parent
        inside = {each for each in names if PurePosixPath(each).is_relative_to(folder)}
        where = source if str(folder) == "." else f"{source}/{folder}"
        products.append(read_safe(root, name, sorted(inside), where, files))
        rest = [each for each in rest if each not in inside]
    folders: dict[PurePosixPath, list[str]] = {}
    for name in rest:
        folders.setdefault(PurePosixPath(name).parent, []).append(name)
    for folder, own in folders.items():
        products += _group_folder(own, root, source if str(folder) == "." else f"{source}/{folder}", files)
    return products


def _group_folder(names: Sequence[str], root: str, folder: str, files: tuple[str, ...] | None) -> list[Product]:
    """The items of one folder: files that differ in the band at their names' end are one, masks belong to others."""
    sets: dict[str, dict[str, tuple[int, str]]] = {}
    masks, singles = {}, []
    for name in names:
        stem = PurePosixPath(name).stem
        if match := MASK_FILE.search(stem):
            masks[stem[: match.start()]] = f"{root}/{name}"
        elif match := _BAND_FILE.search(stem):
            bands = sets.setdefault(stem[: match.start()], {})
            bands[match[1]] = min((int(match[2] or 0), name), bands.get(match[1], (99, "")))  # the finest
        else:
            singles.append(name)
    products = []
    for prefix, found in sets.items():
        if len(found) < len("RGB"):
            singles += [name for _, name in found.values()]
            continue
        where = f"{folder}/{prefix}" if prefix else folder
        item = prefix or PurePosixPath(folder.rstrip("/")).name.removesuffix(".zip").removesuffix(".tar")
        paths = {band: f"{root}/{name}" for band, (_, name) in found.items()}
        mask = masks.get(prefix, masks.get("") if len(sets) == 1 else None)
        added = reflectance_offset({}, f"{where}/")
        sentinel2 = is_sentinel2(list(paths)) or is_sentinel2_product({}, next(iter(paths.values())))
        products.append(
            Product(
                id=item,
                source=where,
                files=files or (*paths.values(), *([mask] if mask else [])),
                bands={canonical(band): Band(path) for band, path in paths.items()},
                known=sentinel2 or {"red", "green", "blue"} <= {band.lower() for band in paths},
                start=find_moment(prefix, {}) or find_moment(PurePosixPath(folder).name, {}),
                added={} if added is None else {"": added},
                sentinel2=sentinel2,
                clouds=read_clouds(mask) if mask else None,
            )
        )
    for name in sorted(singles):
        stem = PurePosixPath(name).stem
        mask = masks.get(stem)
        kept = files or (f"{root}/{name}", *([mask] if mask else []))
        clouds = read_clouds(mask) if mask else None
        products.append(Product(stem, f"{folder}/{PurePosixPath(name).name}", kept, f"{root}/{name}", clouds=clouds))
    return products


def _single(name: str) -> Product:
    return Product(PurePosixPath(urlsplit(name).path if "://" in name else name).stem, name, (name,), name)


def _mosaic(names: Sequence[str]) -> Product:
    """Rasters of one item side by side."""
    if not names:
        raise InputError("an empty list is no mosaic; pass the paths of its rasters")
    paths = [name if local_file(name) != name else os.path.abspath(name) for name in names]
    return Product(Path(names[0]).stem, names[0], tuple(paths), mosaic_vrt(paths))
