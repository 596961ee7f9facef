"""What a user passes in the place of images: one of them, a collection, a folder or a pattern of names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from typing import Any

from sattxt.errors import ImageError, InputError

IMAGE_SUFFIXES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def is_image(name: str) -> bool:
    """Whether a file name ends like an image's."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_single(images: Any) -> bool:
    """Whether ``images`` is one image, not several: a collection of them, a folder, or a glob.

    Raises:
        InputError: it is neither.
    """
    if isinstance(images, (str, os.PathLike)):
        return not _is_several(os.fsdecode(images))
    if hasattr(images, "read") or hasattr(images, "getbands"):
        return True
    if hasattr(images, "ndim"):
        if images.ndim == 1 and getattr(images.dtype, "kind", "") in "OUST":  # paths, in an array or a pandas Series
            return False
        if images.ndim not in (2, 3, 4):
            raise InputError(f"an array of {images.ndim} axes is no tile; pass (H, W, 3), (3, H, W) or (N, H, W, 3)")
        return bool(images.ndim < 4)
    if isinstance(images, Iterable) and not isinstance(images, (bytes, Mapping)):
        return False
    raise InputError(
        f"{type(images).__name__} is no image; pass a path, an open file, a PIL image, an array, or a list of these"
    )


def sources_of(images: Any) -> Any:
    """The images to go through, one or several: an iterable of what :func:`sattxt.images.read.to_rgb` takes.

    Raises:
        InputError: they are no images. ImageError: a folder or glob holds none.
    """
    if is_single(images):
        return [images]
    return expand(os.fsdecode(images)) if isinstance(images, (str, os.PathLike)) else images


def expand(name: str) -> list[str]:
    """The files that a name means: those of a folder (all below it), those that match a glob, or the one.

    Raises:
        ImageError: a folder holds no image, or nothing matches the glob.
    """
    if not _is_several(name):
        return [name]
    if os.path.isdir(name):
        return _in_folder(name)
    matches = sorted(path for path in glob.iglob(name, recursive=True) if not os.path.isdir(path))
    if not matches:
        raise ImageError(f"{name}: no file matches this pattern")
    return matches


def _is_several(name: str) -> bool:
    if "\0" in name or "://" in name:
        return False
    return os.path.isdir(name) or (glob.has_magic(name) and not os.path.lexists(name))


def _in_folder(folder: str) -> list[str]:
    """Image files below ``folder``, sorted; hidden files and folders are left out."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(parent, name) for name in sorted(files) if is_image(name) and not name.startswith(".")]
    if not found:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise ImageError(f"{folder}: this folder holds no image (files ending in {suffixes})")
    return found
