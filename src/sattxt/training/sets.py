"""The data sets that a recipe names, as tiles: RGB with texts for stage 2, RGB beside all bands for stage 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, create_model

from sattxt.data.dataset import Samples
from sattxt.data.multispectral import RGB_BANDS, Bands, BandSamples, picture, with_bands
from sattxt.data.registry import DATASETS, find_entry, open_data
from sattxt.errors import ImageError, InputError
from sattxt.images.options import ImageOptions
from sattxt.labels.sets import near
from sattxt.training.fields import draw_fields
from sattxt.training.schema import Config, Count, Whole
from sattxt.training.spectral import index_captions
from sattxt.training.tiles import Tiles, check_rgb

#: Tiles that take fewer bytes than this are held in memory unless an entry says otherwise.
MEMORY_LIMIT = 4_000_000_000
#: How image files are to be read, see :class:`sattxt.images.options.ImageOptions`.
_READING = ("stretch", "bands", "band_names", "value_range", "offset")


class SetEntry(Config):
    """What every entry of a recipe may say."""

    kind: str  # a data set of sattxt.data.registry, or "fields"; for stage 1 also "rgb"
    name: str = ""  # what results call it
    count: Count = 1  # its tiles in a batch, for each device
    dataset: str | None = None  # what leave_out knows it by beside its name


class FieldsEntry(SetEntry):
    """Drawn colour fields with captions, no imagery."""

    tiles: Count  # how many; for validation a tenth as many others
    size: Annotated[int, Field(ge=32)] = 64  # side in pixels
    seed: Whole = 0


class FilesEntry(SetEntry):
    """Tiles read from files; the kind's reader adds its own keys."""

    path: str  # relative to the data folder
    size: Annotated[int, Field(ge=8)] | None = None  # side in pixels; None: multispectral tiles keep the first one's
    memory: Literal["auto"] | bool = "auto"  # whether all tiles are held in memory; auto: below 4 GB
    val_share: Annotated[float, Field(ge=0, le=0.9)] | None = None  # held out where nothing is val; default 0.1
    names: dict[str, str] = Field({})  # what classes are called instead


def entry_config(kind: str, *, pairs: bool = False) -> type[FilesEntry | FieldsEntry]:
    """The config of an entry of a kind.

    Args:
        pairs: an entry of stage 1, where there is ``rgb`` (class folders of RGB tiles) and no ``fields``.

    Raises:
        InputError: there is no such kind; the message has near matches.
    """
    if kind == "fields" and not pairs:
        return FieldsEntry
    try:
        _, reader = find_entry("folder" if kind == "rgb" and pairs else kind)
    except InputError as error:
        known = [*DATASETS, "s2", "eurosat_ms", "zip", "rgb" if pairs else "fields"]
        hint = near(kind, known) or f"; there are {', '.join(known)}"
        raise InputError(f"kind={kind!r}: no such kind{hint}") from error
    keys: dict[str, Any] = dict.fromkeys(_READING, (Any, None))
    for key, parameter in reader.arguments.items():
        annotation = str | None if _is_path(parameter) else parameter.annotation
        keys[key] = (annotation, ... if parameter.default is parameter.empty else parameter.default)
    if not pairs:
        keys["vocabulary"] = (str | None, None)  # of align.vocabulary: phrases for its classes; None: their names
    elif "modality" in keys:
        keys["modality"] = (keys["modality"][0], "S2L2A")  # pictures have no bands
    return cast("type[FilesEntry]", create_model("FilesEntry", __base__=FilesEntry, **keys))


def open_set(entry: Mapping[str, Any], root: Path, split: str) -> Tiles:
    """The RGB tiles of one split of a recipe's data set, with labels and captions.

    Args:
        entry: ``kind``, ``name`` and the other keys of :func:`entry_config`; paths are relative to ``root``.
        root: the data folder.
        split: ``train`` or ``val``.

    Raises:
        InputError: kind or key unknown (with the near match), a value or the data unfit, nothing in the split.
        MissingExtraError: a package is needed that is not installed.
    """
    with _errors_name(entry) as name:
        config = entry_config(str(entry.get("kind") or "")).parse(entry)
        if isinstance(config, FieldsEntry):
            train, held_out = (config.tiles, config.seed), (max(1, config.tiles // 10), config.seed + 1)
            count, seed = train if split == "train" else held_out
            return draw_fields(count, seed=seed, size=config.size, name=name)
        samples, skipped = _open(config, root, split)
        size = config.size
        if size is None and not isinstance(samples, BandSamples):
            raise InputError("size: missing; pass the side in pixels that tiles are resized to, 8 or more")
        size = size or _side(_first(samples))
        labels, classes = _labels(config, samples)
        keys, captions = _ids(samples), [list(sample.captions) for sample in samples.samples]
    if config.kind == "s2":
        return _described(name, samples, size, skipped)
    tiles = Tiles(name, keys, _Picture(samples, size), labels, classes, captions, skipped=skipped)
    return _held(config, tiles, 3 * size**2)


def open_pairs(entry: Mapping[str, Any], root: Path, split: str) -> Tiles:
    """The tiles of one split with all their bands, for stage 1; arguments and errors as :func:`open_set`.

    The first tile that can be read says which bands, in which order, and of which size the set has. Kind ``rgb``: RGB
    tiles with EuroSAT's stretch, a weaker signal, for teachers that take RGB alone.
    """
    if entry.get("kind") == "rgb":
        return replace(open_set({**entry, "kind": "folder"}, root, split).in_memory(), bands=RGB_BANDS)
    with _errors_name(entry) as name:
        config = cast("FilesEntry", entry_config(str(entry.get("kind") or ""), pairs=True).parse(entry))
        samples, skipped = _open(config, root, split)
        samples = with_bands(samples)
        first = _first(samples)
        bands, size = tuple(first), config.size or _side(first)
        check_rgb(bands, "bands")
    pixels = _BandTile(samples, bands, size, resample=config.size is not None)
    tiles = Tiles(name, _ids(samples), pixels, bands=bands, skipped=skipped)
    return _held(config, tiles, 2 * len(bands) * size**2)


def _is_path(parameter: Parameter) -> bool:
    return Path in (parameter.annotation, *get_args(parameter.annotation))


@contextmanager
def _errors_name(entry: Mapping[str, Any]) -> Iterator[str]:
    """Gives a data set's name, and puts it before errors."""
    name = str(entry.get("name") or entry.get("kind"))
    try:
        yield name
    except InputError as error:
        raise InputError(f"data set {name!r}: {error}") from error


def _open(config: FilesEntry, root: Path, split: str) -> tuple[Samples, list[tuple[str, str]]]:
    """The samples of a split, and what cannot be used with the reason."""
    _, reader = find_entry(config.kind)
    given: dict[str, Any] = {}
    for key, parameter in reader.arguments.items():
        value = getattr(config, key)
        if value is not None:
            given[key] = root / value if _is_path(parameter) else value
    reading = {key: value for key in _READING if key not in given and (value := getattr(config, key)) is not None}
    options = ImageOptions(**reading) if reading else None
    data = open_data(root / config.path, config.kind, options=options, strict=False, **given)
    skipped = list(data.skipped)
    if set(data.splits) == {""}:
        data = data.hold_out(0.1 if config.val_share is None else config.val_share)
    else:
        skipped += [(sample.id, "is in no split") for sample in data.splits.get("", ())]
        if config.val_share is not None and "val" not in data.splits:
            data = data.hold_out(config.val_share)
    try:
        return data.split(split), skipped
    except InputError as error:
        hint = "; pass val_share: 0.1 to hold out a part of train"
        raise InputError(f"{error}{hint if split == 'val' and 'val' not in data.splits else ''}") from error


def _labels(config: FilesEntry, samples: Samples) -> tuple[torch.Tensor, tuple[str, ...]]:
    """(N,) int64 class of each tile, -1 where it has none or may have several; and the classes after ``names``."""
    for folder in config.names:
        if folder not in samples.classes:
            hint = near(folder, samples.classes) or f"; there are {', '.join(samples.classes)}"
            raise InputError(f"names: {folder!r} is none of the classes{hint}")
    called = [config.names.get(name, name) for name in samples.classes]
    classes = list(dict.fromkeys(called))
    one = [sample.labels[:1] if not samples.multi_label else () for sample in samples.samples]
    labels = torch.tensor([classes.index(called[label[0]]) if label else -1 for label in one])
    return labels, tuple(classes) if bool((labels >= 0).any()) else ()


def _ids(samples: Samples) -> list[str]:
    return [sample.id for sample in samples.samples]


def _first(samples: Samples) -> Bands:
    """The bands of the first tile that can be read."""
    first = None
    for index in range(len(samples)):
        try:
            return cast("BandSamples", samples).bands(index)
        except ImageError as error:
            first = first or error
    raise InputError(f"none of {len(samples)} tiles can be read, first {first}")


def _side(bands: Bands) -> int:
    return max(len(band) for band in bands.values())


def _held(config: FilesEntry, tiles: Tiles, nbytes: int) -> Tiles:
    """The tiles, in memory if the entry says so, or leaves it open and they are few enough."""
    wanted = len(tiles) * nbytes < MEMORY_LIMIT if config.memory == "auto" else config.memory
    return tiles.in_memory() if wanted else tiles


@dataclass(frozen=True)
class _Picture:
    """Decodes RGB tiles: (3, size, size) uint8, resized by a Lanczos filter where they differ."""

    samples: Samples
    size: int

    def __call__(self, index: int) -> NDArray[np.uint8]:
        return _fit(self.samples.image(index), self.size)


def _fit(rgb: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """(3, size, size) uint8 of (H, W, 3) pixels in 0..255."""
    if rgb.dtype != np.uint8:
        rgb = rgb.round().astype(np.uint8)
    if rgb.shape[:2] != (size, size):
        rgb = np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(rgb.transpose(2, 0, 1))


def _described(name: str, samples: Samples, size: int, skipped: list[tuple[str, str]]) -> Tiles:
    """RGB tiles in memory, with captions written from their bands."""
    keys, written = _ids(samples), {}

    def decode(index: int) -> NDArray[np.uint8]:
        bands = cast("BandSamples", samples).bands(index)
        written[keys[index]] = index_captions(bands)
        return _fit(picture(bands, keys[index]), size)

    tiles = Tiles(name, keys, decode, skipped=skipped).in_memory()
    return replace(tiles, captions=[written[key] for key in tiles.keys])


@dataclass(frozen=True)
class _BandTile:
    """Decodes (len(bands), size, size) int16, reflectance x 10,000, rounded; bilinear where it is resampled.

    resample: whether a tile of another size is resampled rather than refused.
    """

    samples: BandSamples
    bands: tuple[str, ...]
    size: int
    resample: bool

    def __call__(self, index: int) -> NDArray[np.int16]:
        found = self.samples.bands(index)
        missing = [band for band in self.bands if band not in found]
        if missing:
            raise ImageError(f"lacks the bands {', '.join(missing)}")
        side, size = _side(found), self.size
        if side != size and not self.resample:
            raise ImageError(f"is {side}x{side} pixels instead of {size}x{size}; pass size to resample")
        tile = np.empty((len(self.bands), size, size), np.int16)
        for row, band in enumerate(self.bands):
            values = found[band]
            if values.shape[0] != values.shape[1]:
                raise ImageError("is {}x{} pixels, not square".format(*values.shape))
            if len(values) != size:
                shrinks = size < len(values)
                resized = F.interpolate(
                    torch.from_numpy(values)[None, None], size=(size, size), mode="bilinear", antialias=shrinks
                )
                values = resized[0, 0].numpy()
            tile[row] = np.clip(np.rint(values), -32768, 32767)
        return tile


def describe(tiles: Tiles) -> str:
    """One line: how many tiles, classes and captions, or which bands, and what was skipped so far, with a reason."""
    held = isinstance(tiles.pixels, torch.Tensor)
    texts, captioned = sum(map(len, tiles.captions)), sum(map(bool, tiles.captions))
    share = "" if captioned in (0, len(tiles)) else f" for {captioned:,} of them"
    what = f"{len(tiles.classes) or 'no'} classes, {f'{texts:,}' if texts else 'no'} captions{share}"
    facts = [
        f"{len(tiles):,} tile{'s' * (len(tiles) != 1)}{'' if held else ' read as needed'}",
        f"bands {' '.join(tiles.bands)}" if tiles.bands else what,
        *(f"{len(tiles.skipped):,} skipped, such as {key}: {reason}" for key, reason in tiles.skipped[:1]),
    ]
    return f"{tiles.name}: {', '.join(facts)}"
