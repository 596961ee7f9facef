"""Captioned images: the ``dataset_*.json`` in which caption sets are published, and ``.jsonl``."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from sattxt.data.archive import Store
from sattxt.data.dataset import Dataset, Sample, by_split, data_name
from sattxt.data.tables import ImageIndex, jsonl_captions, published_captions, split_name, split_of, text_of
from sattxt.errors import InputError
from sattxt.images.read import ImageOptions


def read_captions(
    store: Store, captions: Path | None = None, *, name: str | None = None, options: ImageOptions | None = None
) -> Dataset:
    """Images with the captions that a file gives them.

    Args:
        store: the images.
        captions: ``.json`` as published (see :func:`sattxt.data.tables.published_captions`) or ``.jsonl``
            (``{"image", "captions"}`` a line; ``split`` optional, else from the path; rows whose image is null are left
            out). ``None``: the one ``dataset*.json`` among the images.

    Raises:
        InputError: no such file, not of that form, or it names images that are not there.
    """
    if captions is None:
        found = [n for n in store.names() if PurePosixPath(n).name.startswith("dataset") and n.endswith(".json")]
        if len(found) != 1:
            raise InputError(
                f"{store.path}: {len(found) or 'no'} caption files (dataset*.json) in it; name one with --captions FILE"
            )
        where, text = f"{store.path}/{found[0]}", store.read(found[0]).decode("utf-8-sig")
    else:
        where, text = str(captions), text_of(captions)
    rows = jsonl_captions(text, where) if where.endswith(".jsonl") else published_captions(text, where)
    files = ImageIndex(store.names())
    samples: list[tuple[str, Sample]] = []
    missing: list[str] = []
    for row in rows:
        file = files.find(row.image, where)
        if file is None:
            missing.append(row.image)
        elif row.captions:
            split = split_name(row.split) if row.split else split_of(file)
            samples.append((split, Sample((file,), (), row.captions)))
    if missing:
        raise InputError(
            f"{where}: {len(missing)} of {len(missing) + len(samples)} images are not in {store.path}, "
            f"first {missing[0]!r}"
        )
    if not samples:
        raise InputError(f"{where}: no image with captions in it")
    return Dataset(name or data_name(store), store, by_split(samples), options=options or ImageOptions())
