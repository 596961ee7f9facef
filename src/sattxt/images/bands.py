"""Which bands of an image are red, green and blue: selection by index or name, Sentinel-2 naming, its +1000 offset."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

from sattxt.errors import ImageError

log = logging.getLogger(__name__)

#: Band orders to pass as ``band_names=`` for files and arrays that carry none.
SENTINEL2_L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
SENTINEL2_L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
EUROSAT_MS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")

#: What ``band_names=`` takes for an order of all bands.
BAND_ORDERS = {"l1c": SENTINEL2_L1C, "l2a": SENTINEL2_L2A, "eurosat": EUROSAT_MS}

_RGB = ("B04", "B03", "B02")
_COMMON_NAMES = {
    "coastal": "B01", "aerosol": "B01", "coastalaerosol": "B01", "blue": "B02", "green": "B03", "red": "B04",
    "rededge": "B05", "rededge1": "B05", "rededge2": "B06", "rededge3": "B07", "nir": "B08", "nir08": "B8A",
    "narrownir": "B8A", "nirnarrow": "B8A", "watervapour": "B09", "watervapor": "B09", "cirrus": "B10",
    "swir1": "B11", "swir16": "B11", "swir2": "B12", "swir22": "B12",
}  # fmt: skip
_BAND = re.compile(r"b0*(1[0-2]|8a|[1-9])(?=$|[\s,:;_(-])")
_BASELINE = re.compile(r"(?:^|[_/\\])N(?!9999)(\d{2})(\d{2})(?=[_./\\]|$)")  # N9999: no baseline, in BigEarthNet v2
_ADDED_SINCE_0400 = 1000.0
# Landsat numbers its bands too, with one digit: there B4, B3, B2 may be near infrared, red and green.
_SENTINEL2_NAME = re.compile(r"\s*b(0[1-9]|1[0-2]|8a|[1-9])(?:\s*,?\s*central wavelength.*|\s*)$", re.IGNORECASE)
_PRODUCT = re.compile(r"S2[A-D]_(?:OPER_)?MSI|\bSentinel-2[A-D]?\b", re.IGNORECASE)
_PRODUCT_FILE = re.compile(r"S2[A-D]_MSIL(?:1C|2A)_\w*\.tiff?$")
_BAND_FILE = re.compile(r"_B(?:0[1-9]|1[0-2]|8A)(?:_\d0m)?\.(?:jp2|tiff?)$")
_GRANULE_FILE = re.compile(r"(?:^|[/\\])T\d{2}[C-X][A-Z]{2}_\d{8}T\d{6}_B[^/\\]*$")


@lru_cache(maxsize=1024)
def canonical(name: str) -> str:
    """The Sentinel-2 name of a band (``B4``, ``b04``, ``red``, ``B4, central wavelength 665 nm`` are ``B04``).

    A name that is no Sentinel-2 one comes back in lower case.
    """
    text = name.strip().lower()
    if match := _BAND.match(text):
        return f"B{match[1].upper():0>2}"
    return _COMMON_NAMES.get(re.sub(r"[\s_-]", "", text), text)


def pick_bands(
    bands: Sequence[int | str] | None,
    count: int,
    names: Sequence[str | None] | None,
    *,
    where: str,
    declared_rgb: bool = False,
) -> tuple[int, int, int]:
    """The positions (from 0) of red, green and blue among ``count`` bands.

    Args:
        bands: one (grey) or three bands, as numbers counted from 1 or as names; ``None`` where the image is plain
            grey or RGB.
        count: how many bands there are.
        names: the bands' names, ``None`` where they have none.
        where: what error messages call the image.
        declared_rgb: the file itself says that its first three bands are red, green and blue.

    Raises:
        ImageError: the bands asked for are not there, or none were asked for where that takes a guess.
    """
    if names is not None and len(names) != count:
        raise ImageError(f"{where}: has {count} bands, band_names= has {len(names)}")
    if bands is None:
        return _default_bands(count, names, where, declared_rgb)
    found = [_position(band, count, names, where) for band in bands]
    red, green, blue = found * 3 if len(found) == 1 else found
    return red, green, blue


def _position(band: int | str, count: int, names: Sequence[str | None] | None, where: str) -> int:
    if not isinstance(band, str):
        if not 1 <= band <= count:
            raise ImageError(f"{where}: has {count} band{'s' * (count != 1)}, bands= asks for {band} (counted from 1)")
        return int(band) - 1
    if names is None or not any(names):
        raise ImageError(
            f"{where}: its {count} band{'s' * (count != 1)} have no names, so bands={band!r} cannot be found; "
            "pass numbers counted from 1, such as bands=(4, 3, 2), or name all bands in order with band_names="
        )
    for form in (str.lower, canonical):
        hits = [i for i, name in enumerate(names) if name and form(name.strip()) == form(band.strip())]
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise ImageError(f"{where}: {len(hits)} bands are named {band!r}; pass numbers counted from 1 in bands=")
    raise ImageError(f"{where}: has no band {band!r}; its bands are {', '.join(str(name) for name in names)}")


def _default_bands(
    count: int, names: Sequence[str | None] | None, where: str, declared_rgb: bool
) -> tuple[int, int, int]:
    if count == 1:
        return 0, 0, 0
    known = [canonical(name) if name else None for name in names or ()]
    sentinel = [band for band in known[:3] if band is not None and re.fullmatch(r"B(\d\d|8A)", band)]
    if (count == 3 or declared_rgb) and (len(sentinel) < 3 or tuple(sentinel) == _RGB):
        return 0, 1, 2
    hint = "pass bands=(red, green, blue), counted from 1"
    if names and all(known.count(band) == 1 for band in _RGB):
        red, green, blue = (known.index(band) for band in _RGB)
        if is_sentinel2(names) or all(re.fullmatch(r"\s*[a-z]+\s*", str(names[i]), re.I) for i in (red, green, blue)):
            said = ", ".join(str(names[i]) for i in (red, green, blue))
            log_once("bands %s are taken for red, green and blue; pass bands= for others", said)
            return red, green, blue
        hint = "pass bands=('B04', 'B03', 'B02')"
    elif names and any(names):
        hint += f" or by name among {', '.join(str(name) for name in names)}"
    if count != 3 and not declared_rgb:
        raise ImageError(f"{where}: has {count} bands; {hint}, to say which to look at")
    raise ImageError(f"{where}: its bands are named {', '.join(str(n) for n in names or ())}, not in RGB order; {hint}")


def is_sentinel2(names: Sequence[str | None] | None) -> bool:
    """Whether bands are certainly Sentinel-2's: named as only it names them (B8A, B04, with its wavelength)."""
    if not names or not all(name and _SENTINEL2_NAME.match(name) for name in names):
        return False
    texts = [str(name).strip().lower() for name in names]
    return "B8A" in map(canonical, texts) or all("central wavelength" in text or len(text) == 3 for text in texts)


def is_sentinel2_product(tags: Mapping[str, str], path: str | None) -> bool:
    """Whether pixels are certainly a Sentinel-2 product's, by a tag that names product or spacecraft, or by the file's
    name (``S2A_MSIL2A_....tif``, or that of one band: ``T32TQM_20200701T101031_B04_10m.jp2``).
    """
    if any(_PRODUCT.search(text) for key, text in tags.items() if re.search("PRODUCT|SPACECRAFT", key.upper())):
        return True
    named = path or ""
    in_product = _GRANULE_FILE.search(named) or re.search(r"S2[A-D]_MSIL(?:1C|2A)_", named)
    return bool(_PRODUCT_FILE.search(named) or (_BAND_FILE.search(named) and in_product))


@cache
def log_once(text: str, *values: str) -> None:
    """Log what was assumed, once in a process: it is the same for every tile."""
    log.warning(text, *values)


def reflectance_offset(tags: Mapping[str, str], path: str | None) -> float | None:
    """What a Sentinel-2 product adds to reflectance x 10,000, from its metadata or its name; ``None`` if neither says.

    Processing baselines from 04.00 on add 1000. Looked at in this order: ``*ADD_OFFSET`` tags, a processing baseline
    tag, a product name in a tag, and ``_N0400_`` (or later) in the path. ``_N9999_`` says nothing: BigEarthNet v2 names
    its patches so, and they hold reflectance x 10,000 itself.
    """
    for key, value in tags.items():
        if "ADD_OFFSET" in key.upper() and (number := as_number(value)) is not None:
            return -number
    for key, value in tags.items():
        if "PROCESSING_BASELINE" in key.upper() and (number := as_number(value)) is not None:
            return _ADDED_SINCE_0400 if number >= 4 else 0.0
    products = [value for key, value in tags.items() if "PRODUCT" in key.upper()]
    for text in (*products, path or ""):
        if matches := _BASELINE.findall(text):
            return _ADDED_SINCE_0400 if int(matches[-1][0]) >= 4 else 0.0
    return None


def as_number(text: str) -> float | None:
    """The number that a piece of metadata holds, if it is one."""
    try:
        return float(text)
    except ValueError:
        return None
