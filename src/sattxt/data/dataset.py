"""What every reader gives, for evaluation and training alike: the samples of a data set by split, decoded on demand."""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sattxt.data.archive import Store
from sattxt.errors import InputError, LabelError
from sattxt.images.load import default_workers, is_image
from sattxt.images.options import ImageOptions
from sattxt.images.read import to_rgb
from sattxt.labels.sets import label_set

#: How splits are called in folders, files and columns.
SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def split_name(text: str) -> str:
    """``train``, ``val`` or ``test`` for the usual spellings of these; other names come back as they are."""
    return SPLITS.get(text.strip().lower(), text.strip())


def split_of(file: str) -> str:
    """The split that a folder of a path names, the innermost one; "" if none does."""
    return next((SPLITS[folder] for folder in reversed(file.lower().split("/")[:-1]) if folder in SPLITS), "")


class Sample(NamedTuple):
    """One image with what is known of it.

    files: its file, perhaps with its mask, or three single-band files: red, green, blue. labels: positions in the data
    set's classes. at: its place in a file that holds several. name: what it is called, if not by its file.
    """

    files: tuple[str, ...]
    labels: tuple[int, ...] = ()
    captions: tuple[str, ...] = ()
    at: tuple[int, ...] = ()
    name: str = ""

    @property
    def id(self) -> str:
        """What results call it: its name, else its (first) file."""
        return self.name or self.files[0]


@dataclass(frozen=True)
class Samples:
    """The samples of one split.

    name: the data set's. split: "" where the data have none. classes: the data set's own spellings;
    ``label_set`` the named set that they are, if one. options: how its images are to be read.
    """

    name: str
    split: str
    store: Store
    samples: tuple[Sample, ...]
    classes: tuple[str, ...] = ()
    multi_label: bool = False
    label_set: str | None = None
    options: ImageOptions = field(default_factory=ImageOptions)

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, index: int) -> NDArray[Any]:
        """(H, W, 3) pixels in 0..255 of a sample.

        Raises:
            ImageError: it cannot be read; names the file.
        """
        files = self.samples[index].files
        if len(files) < len("RGB"):
            return self._decode(files[0], self.options)
        single = replace(self.options, bands=None, band_names=None)
        return np.stack([self._decode(file, single)[..., 0] for file in files], axis=-1)

    def _decode(self, name: str, options: ImageOptions) -> NDArray[Any]:
        return to_rgb(io.BytesIO(self.store.read(name)), options, name=f"{self.store.path}/{name}")

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """(N,) class of each sample (single-label data)."""
        if self.multi_label or any(len(s.labels) != 1 for s in self.samples):
            raise InputError(f"{self.store.path}: one label an image is needed here, some have none or several")
        return np.array([s.labels[0] for s in self.samples], dtype=np.int64)

    @cached_property
    def indicators(self) -> NDArray[np.bool_]:
        """(N, K) whether a sample has a label."""
        found = np.zeros((len(self.samples), len(self.classes)), dtype=bool)
        for row, sample in enumerate(self.samples):
            found[row, list(sample.labels)] = True
        return found

    @cached_property
    def pixels_fingerprint(self) -> str:
        """sha256 over the files' content and how they are read; the same in a folder and in an archive."""
        names = list(dict.fromkeys(file for sample in self.samples for file in sample.files))
        with ThreadPoolExecutor(default_workers()) as pool:
            sums = dict(zip(names, pool.map(self.store.checksum, names), strict=True))
        lines = [f"{sums[file]:08x}" for sample in self.samples for file in sample.files]
        lines += [str(sample.at) for sample in self.samples if sample.at]
        lines.append(json.dumps(asdict(self.options), default=str))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over images, labels, captions and classes: equal for equal measurements."""
        facts = [[list(s.labels), list(s.captions)] for s in self.samples]
        text = json.dumps([self.pixels_fingerprint, list(self.classes), facts], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def take(self, indices: Sequence[int]) -> Samples:
        """These samples only, in this order."""
        return replace(self, samples=tuple(self.samples[i] for i in indices))

    def describe(self) -> dict[str, Any]:
        """What a result says of its data."""
        return {
            "name": self.name,
            "path": self.store.path.name,
            "split": self.split or None,
            "n": len(self),
            "classes": len(self.classes),
            "multi_label": self.multi_label,
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True)
class Dataset:
    """A data set with all of its splits; ``splits`` has the one key "" where it has none, and no empty one.

    skipped: name of what cannot be used, and why, as in ``a.png`` "lies in no class folder". view: the kind of samples
    that a split is seen as. For the other fields see :class:`Samples`.
    """

    name: str
    store: Store
    splits: Mapping[str, tuple[Sample, ...]]
    classes: tuple[str, ...] = ()
    multi_label: bool = False
    label_set: str | None = None
    options: ImageOptions = field(default_factory=ImageOptions)
    skipped: tuple[tuple[str, str], ...] = ()
    view: Callable[..., Samples] = Samples

    def split(self, wanted: str | None = None, limit: int | None = None) -> Samples:
        """The samples of a split.

        Args:
            wanted: its name, or "all"; ``None`` takes "val" if there is one, else "test", else all there is.
            limit: at most so many, evenly spaced over the split, so that every class is met.

        Raises:
            InputError: there is no such split, or nothing in it.
        """
        key = split_name(wanted or next((name for name in ("val", "test") if name in self.splits), "all"))
        if key in self.splits:
            samples = self.splits[key]
        elif key == "all":
            samples = tuple(sample for part in self.splits.values() for sample in part)
            key = wanted or "+".join(self.splits)
        else:
            known = ", ".join(repr(name) for name in self.splits if name)
            has = f"it has {known}" if known else "it has no splits, leave --split out"
            raise InputError(f"{self.store.path}: has no split {wanted!r}; {has}")
        if not samples:
            raise InputError(f"{self.store.path}: split {key!r} holds no image")
        if limit is not None and limit < len(samples):
            chosen = np.linspace(0, len(samples) - 1, limit).round().astype(int)
            samples = tuple(samples[i] for i in chosen)
        return self.view(
            self.name, key, self.store, samples, self.classes, self.multi_label, self.label_set, self.options
        )

    def hold_out(self, share: float) -> Dataset:
        """The data set with ``share`` of the samples without a split, or else of those of train, as its val split.

        Which ones depends on their names alone (file and folder), so it is the same on every machine, in any order,
        and in a folder as in an archive.
        """
        whole = "" if set(self.splits) == {""} else "train"
        divided = []
        for sample in self.splits.get(whole, ()):
            key = sample.name or "/".join(PurePosixPath(sample.id).parts[-2:])
            drawn = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
            divided.append(("val" if drawn < share * 2**64 else "train", sample))
        return replace(self, splits={**{k: v for k, v in self.splits.items() if k != whole}, **by_split(divided)})


def by_split(samples: Sequence[tuple[str, Sample]]) -> dict[str, tuple[Sample, ...]]:
    """(split, sample) pairs grouped, train before val before test; samples without a split beside these go under ""."""
    order = {"": 0, "train": 1, "val": 2, "test": 3}
    groups: dict[str, list[Sample]] = {}
    for split, sample in samples:
        groups.setdefault(split, []).append(sample)
    return {name: tuple(groups[name]) for name in sorted(groups, key=lambda name: (order.get(name, 9), name))}


class Row(NamedTuple):
    """One image of a list. split: as written, "" where it is not said. more: further files of the image."""

    image: str
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    split: str = ""
    more: tuple[str, ...] = ()


def listed_dataset(
    store: Store,
    rows: Sequence[Row],
    skipped: Iterable[tuple[str, str]],
    where: object,
    *,
    name: str | None = None,
    known: str | None = None,
    several: bool = False,
    by_name: bool = False,
    options: ImageOptions | None = None,
) -> Dataset:
    """The images among ``store`` that rows name.

    Rows of one image are one sample with all of their captions; one said twice counts twice, as in the published
    retrieval figures. What is not there, or has neither caption nor label, goes to ``skipped``.

    Args:
        where: the rows' file, for messages.
        known: the label set that the labels are of; its order and all of its classes are kept.
        several: whether a sample may have several labels.
        by_name: whether an image that is not at its path is found by its file name, where that is unique.

    Raises:
        InputError: an image could be any of several, is in two splits, has two labels where it may have one or a label
            that is not of ``known``; no row can be used.
    """
    everything = set(store.names())
    called: dict[str, list[str]] = defaultdict(list)
    for file_name in filter(is_image, everything if by_name else ()):
        called[PurePosixPath(file_name).name].append(file_name)
    left_out = list(skipped)
    gathered: dict[str, list[Row]] = {}
    for row in rows:
        file = row.image if row.image in everything else _by_file_name(row, called, where)
        if file is None:
            left_out.append((row.image, f"is not in {store.path.name}"))
        elif not row.captions and not row.labels and not several:
            left_out.append((row.image, "has neither caption nor label"))
        else:
            gathered.setdefault(file, []).append(row)
    if not gathered:
        found = "such as {}: {}".format(*left_out[0]) if left_out else "it names none"
        raise InputError(f"{where}: none of its {len(left_out)} images can be used, {found}")
    classes, position = _class_positions({label for row in rows for label in row.labels}, known, where)
    samples = []
    for file, group in gathered.items():
        splits = {split_name(row.split) for row in group if row.split} or {split_of(file)}
        labels = tuple(sorted({position[label] for row in group for label in row.labels}))
        if len(splits) > 1:
            raise InputError(f"{where}: {file} is in split {' and '.join(map(repr, sorted(splits)))}")
        if len(labels) > 1 and not several:
            raise InputError(f"{where}: {file} has several labels: {', '.join(classes[label] for label in labels)}")
        texts = tuple(text for row in group for text in row.captions)
        samples.append((splits.pop(), Sample((file, *group[0].more), labels, texts)))
    return Dataset(
        name or store.name, store, by_split(samples), classes, several,
        label_set=known, options=options or ImageOptions(), skipped=tuple(left_out),
    )  # fmt: skip


def _by_file_name(row: Row, called: Mapping[str, list[str]], where: object) -> str | None:
    """The image of a row among those ``called`` by their file name; an error where it could be several."""
    hits = called.get(PurePosixPath(row.image).name, [])
    for place in (*(f"{label}/{row.image}" for label in row.labels), row.image):
        hits = [hit for hit in hits if f"/{hit}".endswith(f"/{place}")] or hits
    if len(hits) > 1:
        raise InputError(f"{where}: {row.image!r} could be any of {', '.join(sorted(hits)[:3])}")
    return hits[0] if hits else None


def _class_positions(labels: Iterable[str], known: str | None, where: object) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes of a data set, and each label's position among them: sorted, or in the order of a label set.

    Raises:
        InputError: a label is none of the label set ``known``.
    """
    found = sorted(labels)
    if known is None:
        return tuple(found), {label: i for i, label in enumerate(found)}
    keys = label_set(known).keys
    try:
        return tuple(keys), {label: keys.index(label_set(known).find(label).key) for label in found}
    except LabelError as error:
        raise InputError(f"{where}: {error}; pass --dataset folder for class folders of any name") from error
