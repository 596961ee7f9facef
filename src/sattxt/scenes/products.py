"""An item as its files and metadata tell, before its pixels are looked at: its bands, date, offsets and clouds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import PurePosixPath

from sattxt.scenes.raster import Band, CloudMask

#: The bands of true colour.
RGB = ("B04", "B03", "B02")
#: Values of Sentinel-2's scene classification that are clouds or their shadows.
SCL_CLOUDS = (3, 8, 9, 10)
#: A file that tells of clouds, by its name's end.
MASK_FILE = re.compile(r"(?:^|[_-])(SCL|cloud_?mask)(?:_\d0m)?$", re.IGNORECASE)
_MOMENT = re.compile(r"(?<!\d)(\d{8}T\d{6})(?!\d)")
_MOMENT_TAGS = ("datetime", "DATATAKE_1_DATATAKE_SENSING_START", "PRODUCT_START_TIME")


@dataclass(frozen=True)
class Product:
    """An item: what a scene is made of.

    files: what its signature is made of. path: one raster with all bands; or ``bands``, each band by its name.
    known: whether the bands' names tell red, green and blue: Landsat has a B4, B3 and B2 of other colours.
    added: what metadata say was added to reflectance x 10,000, by band or, under "", to all; empty: they do not say.
    """

    id: str
    source: str
    files: tuple[str, ...]
    path: str | None = None
    bands: Mapping[str, Band] = field(default_factory=dict)
    known: bool = True
    start: datetime | None = None
    end: datetime | None = None
    added: Mapping[str, float] = field(default_factory=dict)
    sentinel2: bool = False
    clouds: CloudMask | None = None


def read_clouds(path: str) -> CloudMask:
    """Where a mask file has clouds, by its name."""
    match = MASK_FILE.search(PurePosixPath(path).stem)
    return CloudMask(Band(path), SCL_CLOUDS if match and match[1].upper() == "SCL" else ())


def find_moment(name: str, tags: Mapping[str, str]) -> datetime | None:
    """When a scene was taken, in UTC: by its tags, else its name, else TIFF's own date, which may be the file's."""
    match = _MOMENT.search(name)
    told = [tags.get(key, "") for key in _MOMENT_TAGS]
    for text in (*told, match[1] if match else "", tags.get("TIFFTAG_DATETIME", "")):
        if (moment := parse_moment(text)) is not None:
            return moment
    return None


def parse_moment(text: str) -> datetime | None:
    """A moment as metadata write it, in UTC; ``None`` where it is none."""
    text = re.sub(r"(\.\d{6})\d+", r"\1", text.strip())
    for form in (None, "%Y%m%dT%H%M%S", "%Y:%m:%d %H:%M:%S"):
        try:
            moment = datetime.fromisoformat(text) if form is None else datetime.strptime(text, form)
        except ValueError:
            continue
        return moment.replace(tzinfo=moment.tzinfo or timezone.utc).astimezone(timezone.utc)
    return None
