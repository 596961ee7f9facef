"""Class folders, split or not, in a folder, zip or tar."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from sattxt.data.archive import is_image
from sattxt.data.tables import class_folder
from sattxt.errors import InputError
from sattxt.training.data import LazyTiles, TileSet, read_captions
from sattxt.training.sources.archives import Files, chosen, image_tiles, renamed
from sattxt.training.sources.entry import IMAGE_KEYS, Entry

FOLDER_KEYS = frozenset({"path", "size", "memory", "captions", "names", "val_share"}) | IMAGE_KEYS


def open_folder(entry: Entry, split: str) -> TileSet | LazyTiles:
    """``{split}/{class}/{image}`` or ``{class}/{image}``, with further folders above or without.

    Labels are the same in every split: the classes are those of all of them. ``captions``: a jsonl file whose
    ``image`` is the path in the folder or archive. Images outside a class folder are skipped.

    Raises:
        InputError: no image in the split, or no caption is of any image.
    """
    path = entry.path("path")
    files = Files(path)
    images = [name for name in files.names() if is_image(name)]
    if not images:
        raise InputError(f"data set {entry.name!r}: {path}: holds no image")
    placed = {name: where for name in images if (where := class_folder(name)) is not None}
    if not placed:
        raise InputError(
            f"data set {entry.name!r}: {path}: no image lies in a class folder, such as {images[0]}; expected "
            "{split}/{class}/{image} or {class}/{image}; for images and a file of captions or labels, pass kind: table"
        )
    outside = [(name, "lies in no class folder") for name in images if name not in placed]
    keys = {_key(name): name for name in placed}
    if len(keys) < len(placed):
        keys = {name: name for name in placed}
    found, unknown = chosen(entry, {key: placed[name][0] for key, name in keys.items()}, split, where=path)
    names = [keys[key] for key in found]
    classes = renamed(entry, sorted({folder for _, folder in placed.values()}))
    called = list(dict.fromkeys(classes.values()))
    captions, lost = _captions(entry, placed, names)
    return image_tiles(
        entry,
        files,
        names,
        labels=[called.index(classes[placed[name][1]]) for name in names],
        classes=called,
        captions=captions,
        skipped=[*outside, *((keys[key], reason) for key, reason in unknown), *lost],
    )


def _key(name: str) -> str:
    """What the held-out share is drawn by: the same whether a data set lies in a folder or packed with that folder."""
    return "/".join(PurePosixPath(name).parts[-2:])


def _captions(
    entry: Entry, placed: dict[str, tuple[str, str]], names: list[str]
) -> tuple[list[list[str]] | None, list[tuple[str, str]]]:
    """The captions of ``names``, and the images with captions that are not there."""
    path: Path | None = entry.optional_path("captions")
    if path is None:
        return None, []
    captions = read_captions(path)
    if not any(name in captions for name in placed):
        sample = next(iter(captions), "nothing")
        raise entry.error("captions", f"{path}: none of its images is there; it names {sample}, there is {names[0]}")
    lost = [(name, f"has captions in {path.name}, is not there") for name in captions if name not in placed]
    return [captions.get(name, []) for name in names], lost
