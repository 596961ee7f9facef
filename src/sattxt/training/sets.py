"""The data sets that a recipe names, as tiles: RGB with texts for stage 2, RGB beside all bands for stage 1."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
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
from sattxt.data.multispectral import Bands, BandSamples, index_captions, picture, with_bands
from sattxt.data.registry import DATASETS, Entry, find_entry, open_data
from sattxt.errors import ImageError, InputError, near
from sattxt.images.options import ImageOptions
from sattxt.training.fields import draw_fields
from sattxt.training.schema import Config, Count, Whole
from sattxt.training.start import find_path
from sattxt.training.teachers.dynamicworld import DynamicWorldSource, DynamicWorldTeacher
from sattxt.training.tiles import Tiles

#: Places a side of a teacher's map of land cover.
_MAP_SIDE = 16
#: Share of a tile's places that one land cover has where it is the tile's class.
_PURE = 0.8
#: How image files are to be read, see :class:`sattxt.images.options.ImageOptions`.
_READING = ("stretch", "bands", "band_names", "value_range", "offset")


class SetEntry(Config):
    """What every data set of a recipe may say."""

    kind: str  # a data set of sattxt.data.registry, or "fields"
    name: Annotated[str, Field(pattern=r"^[^.]+$")]  # without a dot: it is part of keys such as align.sets.NAME.count
    count: Count  # its tiles in a batch, for each device
    dataset: str | None = None  # what leave_out knows it by beside its name

    def open(self, root: Path, split: str) -> Tiles:
        """The tiles of one split: RGB with labels and captions for stage 2; with all their bands for stage 1.

        Args:
            root: the data folder, which paths are relative to.
            split: ``train`` or ``val``.

        Raises:
            InputError: the data do not fit the entry, or nothing is in the split; the message names the data set.
            MissingExtraError: a package is needed that is not installed.
        """
        try:
            return self._open(root, split)
        except InputError as error:
            raise InputError(f"data set {self.name!r}: {error}") from error

    @abstractmethod
    def _open(self, root: Path, split: str) -> Tiles:
        """As :meth:`open`, for one kind of entry."""


class FieldsEntry(SetEntry):
    """Drawn colour fields with captions, no imagery."""

    tiles: Count  # how many; for validation a tenth as many others
    size: Annotated[int, Field(ge=32)] = 64  # side in pixels
    seed: Whole = 0

    def _open(self, root: Path, split: str) -> Tiles:
        count, seed = (self.tiles, self.seed) if split == "train" else (max(1, self.tiles // 10), self.seed + 1)
        return draw_fields(count, seed=seed, size=self.size, name=self.name)


class FilesEntry(SetEntry):
    """Tiles read from files; the kind's reader adds its own keys."""

    path: str  # relative to the data folder
    size: Annotated[int, Field(ge=8)] | None = None  # side in pixels; None: multispectral tiles keep the first one's
    memory: Literal["auto"] | bool = "auto"  # whether all tiles are held in memory; auto: below 4 GB
    val_share: Annotated[float, Field(ge=0, le=0.9)] | None = None  # held out where nothing is val; default 0.1

    def _read(self, root: Path, split: str) -> tuple[Samples, list[tuple[str, str]]]:
        """The samples of a split, and what cannot be used with the reason."""
        arguments = find_entry(self.kind)[1].arguments
        stated = {key: value for key in (*arguments, *_READING) if (value := getattr(self, key)) is not None}
        reading = {key: stated.pop(key) for key in list(stated) if key not in arguments}
        given = {key: root / value if _is_path(arguments[key]) else value for key, value in stated.items()}
        options = ImageOptions(**reading) if reading else None
        data = open_data(root / self.path, self.kind, options=options, strict=False, **given)
        unsplit = set(data.splits) == {""}
        stray = [] if unsplit else [(sample.id, "is in no split") for sample in data.splits.get("", ())]
        if unsplit or (self.val_share is not None and "val" not in data.splits):
            data = data.hold_out(0.1 if self.val_share is None else self.val_share)
        try:
            return data.split(split), [*data.skipped, *stray]
        except InputError as error:
            hint = "; pass val_share: 0.1 to hold out a part of train"
            raise InputError(f"{error}{hint if split == 'val' and 'val' not in data.splits else ''}") from error

    def _hold(self, tiles: Tiles, nbytes: int) -> Tiles:
        """The tiles, in memory if the entry says so, or leaves it open and they are few enough."""
        few = len(tiles) * nbytes < 4_000_000_000
        return tiles.in_memory() if self.memory is True or (self.memory == "auto" and few) else tiles


class TilesEntry(FilesEntry):
    """RGB tiles with classes, captions or both."""

    vocabulary: str | None = None  # of align.vocabulary: phrases for its classes; None: their names
    teacher: DynamicWorldSource | None = None  # of kind s2: says which land cover lies where, and what the classes are

    def _open(self, root: Path, split: str) -> Tiles:
        samples, skipped = self._read(root, split)
        if self.size is None and not isinstance(samples, BandSamples):
            raise InputError("size: missing; pass the side in pixels that tiles are resized to, 8 or more")
        size = self.size or _side(_first_bands(samples))
        one_class = not samples.multi_label
        labels = torch.tensor([each.labels[0] if each.labels and one_class else -1 for each in samples.samples])
        tiles = Tiles(
            self.name,
            [sample.id for sample in samples.samples],
            partial(_read_rgb, samples, size),
            labels,
            samples.classes if bool((labels >= 0).any()) else (),
            [list(sample.captions) for sample in samples.samples],
            skipped=skipped,
        )
        if self.kind == "s2":
            teacher = None if self.teacher is None else _open_teacher(self.teacher, root)
            return _describe_bands(tiles, samples, size, teacher)
        if self.teacher is not None:
            raise InputError(f"teacher: needs multispectral tiles; pass kind: s2, not {self.kind}")
        return self._hold(tiles, 3 * size**2)


class PairsEntry(FilesEntry):
    """RGB beside multispectral tiles.

    The first tile that can be read says which bands, in which order, and of which size the set has.
    """

    def _open(self, root: Path, split: str) -> Tiles:
        found, skipped = self._read(root, split)
        samples = with_bands(found)
        first = _first_bands(samples)
        bands, size = tuple(first), self.size or _side(first)
        pixels = partial(_read_bands, samples, bands, size, self.size is not None)
        tiles = Tiles(self.name, [each.id for each in samples.samples], pixels, bands=bands, skipped=skipped)
        return self._hold(tiles, 2 * len(bands) * size**2)


def parse_entry(values: Any, *, pairs: bool = False) -> Any:
    """An entry of a recipe, a mapping, as its kind's config; anything else comes back as it is.

    Args:
        pairs: it is one of stage 1.

    Raises:
        InputError: there is no such kind. ValidationError: a key or value is unfit.
    """
    if not isinstance(values, Mapping):
        return values
    return entry_config(str(values.get("kind") or ""), pairs=pairs).model_validate(values)


def entry_config(kind: str, *, pairs: bool = False) -> type[SetEntry]:
    """The config of an entry of a kind.

    Args:
        pairs: an entry of stage 1, where there is no ``fields``.

    Raises:
        InputError: there is no such kind; the message has near matches.
    """
    if kind == "fields" and not pairs:
        return FieldsEntry
    try:
        _, reader = find_entry(kind)
    except InputError as error:
        known = [*DATASETS, "s2", "eurosat_ms", "zip", *([] if pairs else ["fields"])]
        hint = near(kind, known) or f"; there are {', '.join(known)}"
        raise InputError(f"kind={kind!r}: no such kind{hint}") from error
    return _make_config(reader, pairs)


@cache
def _make_config(reader: Entry, pairs: bool) -> type[SetEntry]:
    keys: dict[str, Any] = dict.fromkeys(_READING, (Any, None))
    for key, parameter in reader.arguments.items():
        annotation = str | None if _is_path(parameter) else parameter.annotation
        keys[key] = (annotation, ... if parameter.default is parameter.empty else parameter.default)
    if pairs and "modality" in keys:
        keys["modality"] = (keys["modality"][0], "S2L2A")  # pictures have no bands
    return create_model("Entry", __base__=PairsEntry if pairs else TilesEntry, **keys)


def _is_path(parameter: Parameter) -> bool:
    return Path in (parameter.annotation, *get_args(parameter.annotation))


def _first_bands(samples: Samples) -> Bands:
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


def _open_teacher(source: DynamicWorldSource, root: Path) -> DynamicWorldTeacher:
    return DynamicWorldTeacher.from_folder(find_path(source.path, root, "teacher.path"))


def _describe_bands(tiles: Tiles, samples: Samples, size: int, teacher: DynamicWorldTeacher | None) -> Tiles:
    """RGB tiles in memory, with captions written from their bands and, by a teacher, maps of land cover; its classes
    are then the set's, and a tile that is nearly all of one is labelled so.
    """
    written: dict[str, list[str]] = {}
    maps: dict[str, torch.Tensor] = {}

    def decode(index: int) -> NDArray[np.uint8]:
        bands, key = cast("BandSamples", samples).bands(index), tiles.keys[index]
        written[key] = index_captions(bands)
        if teacher is not None:
            maps[key] = (255 * teacher.land_cover(bands, _MAP_SIDE)).round().byte()
        return _fit(picture(bands, key), size)

    held = replace(tiles, pixels=decode).in_memory()
    held = replace(held, captions=[written[key] for key in held.keys])
    if teacher is None:
        return held
    told = torch.stack([maps[key] for key in held.keys])
    shares = F.one_hot(told.argmax(dim=1), len(teacher.classes)).float().mean(dim=(1, 2))
    largest, labels = shares.max(dim=1)
    return replace(
        held, maps=told, classes=teacher.classes, labels=torch.where(largest >= _PURE, labels, torch.tensor(-1))
    )


def _read_rgb(samples: Samples, size: int, index: int) -> NDArray[np.uint8]:
    return _fit(samples.image(index), size)


def _fit(rgb: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """(3, size, size) uint8 of (H, W, 3) pixels in 0..255, resized by a Lanczos filter where they differ."""
    resized = Image.fromarray(rgb.round().astype(np.uint8)).resize((size, size), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def _read_bands(
    samples: BandSamples, bands: tuple[str, ...], size: int, resample: bool, index: int
) -> NDArray[np.int16]:
    """(len(bands), size, size) int16, reflectance x 10,000, rounded; bilinear where bands are of another size.

    Args:
        resample: whether a tile of another size is resampled rather than refused.
    """
    found = samples.bands(index)
    missing = [band for band in bands if band not in found]
    if missing:
        raise ImageError(f"lacks the bands {', '.join(missing)}")
    side = _side(found)
    if side != size and not resample:
        raise ImageError(f"is {side}x{side} pixels instead of {size}x{size}; pass size to resample")
    tile = np.empty((len(bands), size, size), np.int16)
    for row, band in enumerate(bands):
        values = found[band]
        if values.shape[0] != values.shape[1]:
            raise ImageError("is {}x{} pixels, not square".format(*values.shape))
        if len(values) != size:
            plane, shrinks = torch.from_numpy(values)[None, None], size < len(values)
            values = F.interpolate(plane, (size, size), mode="bilinear", antialias=shrinks)[0, 0].numpy()
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
