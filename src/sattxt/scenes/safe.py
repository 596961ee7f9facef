"""Sentinel-2 products as ESA ships them: a ``.SAFE`` folder, or its zip."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from sattxt.errors import SceneError
from sattxt.images.bands import SENTINEL2_L1C, canonical
from sattxt.io import first_line
from sattxt.scenes.products import SCL_CLOUDS, Product, parse_moment
from sattxt.scenes.raster import Band, CloudMask

METADATA = re.compile(r"MTD_MSIL(?:1C|2A)\.xml")
_BAND = re.compile(r"_(B\d\d|B8A|SCL)(?:_(\d\d)m)?\.jp2$")
_COARSEST = 60


def read_safe(root: str, metadata: str, names: Sequence[str], source: str, files: tuple[str, ...] | None) -> Product:
    """The item of a product.

    Args:
        root: folder, or archive as GDAL opens it, that ``metadata`` (the product's XML file) and ``names`` (all of its
            files) are relative to. source: what messages call it. files: what its signature is made of.

    Raises:
        SceneError: the metadata cannot be read, or name no bands.
    """
    where = f"{source}/{PurePosixPath(metadata).name}"
    try:
        if root.startswith("/vsizip/"):
            with zipfile.ZipFile(root.removeprefix("/vsizip/")) as archive:
                content = archive.read(metadata)
        else:
            content = (Path(root) / metadata).read_bytes()
        tree = ElementTree.fromstring(content)
    except (OSError, KeyError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise SceneError(f"{where}: cannot be read ({first_line(error)})") from error
    found: dict[str, tuple[int, str]] = {}
    for name in names:
        match = _BAND.search(name)
        if match and "IMG_DATA" in name:
            size = int(match[2] or 10)
            if size < found.get(match[1], (_COARSEST + 1, ""))[0]:
                found[match[1]] = size, name
    paths = {band: f"{root}/{name}" for band, (_, name) in found.items()}
    scl = paths.pop("SCL", None)
    if not paths:
        raise SceneError(f"{source}: holds no bands (GRANULE/*/IMG_DATA/*.jp2); download the whole product")
    added = {}
    for node in tree.iter():
        if node.tag in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET"):
            added[SENTINEL2_L1C[int(node.attrib["band_id"])]] = -float(node.text or 0)
    uri = _text(tree, "PRODUCT_URI") or _text(tree, "PRODUCT_URI_2A") or _text(tree, "PRODUCT_URI_1C")
    item = PurePosixPath(uri or source.rstrip("/")).name
    kept = (metadata, *(name for _, name in found.values()))
    return Product(
        id=item.removesuffix(".zip").removesuffix(".SAFE"),
        source=source,
        files=files or tuple(f"{root}/{name}" for name in kept),
        bands={canonical(band): Band(path) for band, path in paths.items()},
        start=parse_moment(_text(tree, "PRODUCT_START_TIME")),
        end=parse_moment(_text(tree, "PRODUCT_STOP_TIME")),
        added=added or {"": 0.0},
        sentinel2=True,
        clouds=CloudMask(Band(scl), SCL_CLOUDS) if scl else None,
    )


def _text(tree: ElementTree.Element, tag: str) -> str:
    node = next(tree.iter(tag), None)
    return (node.text or "").strip() if node is not None else ""
