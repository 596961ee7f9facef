"""Class folders: ``Class/image``, with or without ``train/``, ``val/``, ``test/`` above."""

from __future__ import annotations

from pathlib import Path

from sattxt.data.archive import is_image, open_store
from sattxt.data.dataset import SPLITS, Dataset
from sattxt.data.tables import Row, listed_dataset, read_rows
from sattxt.errors import InputError
from sattxt.images.bands import EUROSAT_MS
from sattxt.images.options import ImageOptions

_LOOSE = "lies in no class folder"
#: How EuroSAT's multispectral tiles are seen as its RGB tiles are.
_EUROSAT_MS = ImageOptions(stretch="sentinel2", bands=("B04", "B03", "B02"), band_names=EUROSAT_MS)


def read_folders(
    path: Path, *, known: str | None = None, captions: Path | None = None, options: ImageOptions | None = None
) -> Dataset:
    """Images whose parent folder is their class.

    A folder above the class named ``train``, ``val`` or ``test`` (or a spelling of these) is the split.

    Args:
        known: the label set whose keys the class folders are; its order and all of its classes are kept. Without it
            the classes are the folders', sorted, the same in every split.
        captions: a table of captions whose ``image`` is the path in the folder or archive, see
            :func:`sattxt.data.tables.read_rows`.

    Raises:
        InputError: no image in a class folder, a class that is none of ``known``'s, or captions of none of the images.
    """
    store = open_store(path)
    images = [file for file in store.names() if is_image(file)]
    if not images:
        raise InputError(f"{path}: holds no image")
    folders = {file: folder for file in images if (folder := _class_folder(file))}
    if not folders:
        raise InputError(
            f"{path}: {images[0]} lies in no class folder; expected CLASS/{images[0].rsplit('/')[-1]} (or "
            "train/CLASS/..., val/CLASS/...); images and a file of captions or labels are another kind of data (table)"
        )
    skipped = [(file, _LOOSE) for file in images if file not in folders]
    rows = [Row(file, (), (folder,)) for file, folder in folders.items()]
    if captions is not None:
        told, unusable, _ = read_rows(captions, label_column=())
        if not any(row.image in folders for row in told):
            raise InputError(
                f"captions: {captions}: none of its images is there; it names {told[0].image if told else 'nothing'}, "
                f"there is {rows[0].image}"
            )
        skipped += unusable
        rows += [Row(row.image, row.captions) for row in told if (row.image, _LOOSE) not in skipped]
    if known == "eurosat" and options is None and images[0].endswith(".tif"):
        options = _EUROSAT_MS
    return listed_dataset(store, rows, skipped, path, known=known, options=options)


def _class_folder(file: str) -> str | None:
    """The class of an image by its folder; ``None`` where it lies in no class folder."""
    *parents, _ = file.split("/")
    return None if not parents or (len(parents) == 1 and parents[0].lower() in SPLITS) else parents[-1]
