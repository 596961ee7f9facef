"""What Pillow does otherwise than we need it: its limit of pixels, and the depth of JPEG 2000."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from PIL import Image

from sattxt.errors import ImageError

_limit = Lock()
_CODESTREAM = b"\xff\x4f\xff\x51"  # how one starts: SOC, then SIZ
_DEPTH_AT = 42  # the first component's, from there


@contextmanager
def _without_limit() -> Iterator[None]:
    with _limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def open_image(file: Any, formats: tuple[str, ...]) -> Image.Image:
    """As ``PIL.Image.open``, without its limit of pixels: ``max_pixels`` is the one limit for every kind of file."""
    with _without_limit():
        return Image.open(file, formats=formats)


def load_large_tiff(image: Image.Image) -> None:
    """Decode a TIFF file beyond Pillow's limit, which Pillow asks about once more when it decodes."""
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        with _without_limit():
            image.load()


def jpeg2000_shift(image: Image.Image, where: str) -> int:
    """By how many bits Pillow shifts the pixels of a JPEG 2000 file of more than 8 bits to the left, to fill 16.

    Sentinel-2 has 15. To be asked before the image is loaded.

    Raises:
        ImageError: it is loaded already, or its file does not say.
    """
    file: Any = getattr(image, "fp", None)
    if file is not None and getattr(image, "tile", None):
        position = file.tell()
        file.seek(0)
        head = file.read(2**20)
        file.seek(position)
        start = head.find(_CODESTREAM)
        if 0 <= start < len(head) - _DEPTH_AT:
            return max(0, 15 - (head[start + _DEPTH_AT] & 0x7F))
    raise ImageError(f"{where}: is JPEG 2000 whose depth is not known any more; pass the file's path, or an array")
