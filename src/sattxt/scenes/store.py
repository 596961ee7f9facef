"""`Store`: embedded scenes that are searched by words. It reads like a table of contents; other modules do the work.

store.json        settings (``settings.py``)        parts/ITEM/UNIT.parquet   chips (``parts.py``)
collection.json   STAC Collection                   items/ITEM.json           what commits a scene (``records.py``)
model.json        the model, as an MLM item         failed/ITEM.json          scenes to try again
                                                    index/                    of LanceDB, derived (``index.py``)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sattxt.errors import InputError, StoreError
from sattxt.io import user_cache_dir
from sattxt.scenes.files import Entry, Files, Folder, open_files
from sattxt.scenes.filters import FilterOptions, make_filter
from sattxt.scenes.hits import Hits
from sattxt.scenes.index import IndexReport, update_index
from sattxt.scenes.records import ItemRecord, read_item, write_collection, write_model
from sattxt.scenes.scan import read_blocks
from sattxt.scenes.search import Rows, query_classifier, search_store
from sattxt.scenes.settings import CreateOptions, StoreSettings, make_settings
from sattxt.vision.embeddings import FloatArray

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sattxt.classify.classifier import LabelInput
    from sattxt.images.options import ImageOptions
    from sattxt.model import SatTxt
    from sattxt.scenes.change import Changes, Period
    from sattxt.scenes.check import CheckReport
    from sattxt.scenes.engines import AddReport
    from sattxt.scenes.heatmap import HeatMap
    from sattxt.scenes.labelled import Labelled

_SETTINGS = "store.json"


class Store:
    """Chips of scenes with their embeddings, in GeoParquet files; made by :meth:`create`, opened by :meth:`open`.

    Attributes:
        path: the folder or address. settings: what its rows depend on.
    """

    def __init__(self, files: Files, settings: StoreSettings, model: SatTxt | None = None) -> None:
        self.files = files
        self.settings = settings
        self._model = model
        self._read: dict[str, tuple[Entry, ItemRecord]] = {}

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        model: SatTxt | str | None = None,
        **settings: Unpack[CreateOptions],
    ) -> Store:
        """Make a store, or open the one that is there if it was made so.

        Args:
            path: a folder, or ``s3://``, ``gs://``, ``az://`` (extra ``cloud``).
            model: the model or its name; its precision holds for the store. Default: the bundled one.
            settings: :class:`sattxt.scenes.settings.CreateOptions`: ``grid=``, ``chip=``, ``bands=``, ...

        Raises:
            StoreMismatchError: a store is there that was made otherwise; names each setting with both values.
            InputError: an argument means nothing.
        """
        opened = model
        if opened is None or isinstance(opened, str):
            from sattxt.model import SatTxt

            opened = SatTxt.from_pretrained(opened or "sattxt-mini")
        files = open_files(path)
        wanted = make_settings(opened, **settings)
        if files.size(_SETTINGS) is None:
            if isinstance(files, Folder) and files.root.exists() and not files.root.is_dir():
                raise InputError(f"{files}: is a file; pass the path of a folder")
            files.write("model.json", write_model(wanted, opened))
            files.write("collection.json", write_collection(wanted, []))
            files.write(_SETTINGS, wanted.to_json(), new=True)
        found = cls.open(path)
        found.settings.compare(wanted, str(files))
        return cls(files, found.settings, opened)

    @classmethod
    def open(cls, path: str | os.PathLike[str], model: SatTxt | None = None) -> Store:
        """Open a store.

        Args:
            model: the one that made it, if it is open already. Default: opened when it is first needed, from where it
                was, in the store's precision.

        Raises:
            StoreError: there is none, or its settings are damaged.
            StoreMismatchError: ``model`` gives other vectors than the store's.
        """
        files = open_files(path)
        try:
            content = files.read(_SETTINGS)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreError(f"{files}: no store there; make one with Store.create or 'sattxt store create'") from error
        store = cls(files, StoreSettings.from_json(content, f"{files}/{_SETTINGS}"))
        if model is not None:
            store.settings.check_model(model, str(files))
            store._model = model
        return store

    @property
    def path(self) -> str:
        """The folder, or the address without credentials."""
        return str(self.files)

    @property
    def model(self) -> SatTxt:
        """The model that made the store, opened when it is first needed.

        Raises:
            StoreMismatchError: it cannot be had any more: the store can be read, not searched by words nor added to.
        """
        if self._model is None:
            self._model = self.settings.open_model(str(self))
        return self._model

    def __str__(self) -> str:
        return str(self.files)

    def __repr__(self) -> str:
        return f"Store({self}, {self.settings.model}, grid={self.settings.grid}, chip={self.settings.chip})"

    def __len__(self) -> int:
        """Chips."""
        return sum(item.rows for item in self.items)

    @property
    def items(self) -> list[ItemRecord]:
        """The scenes that are committed, by their file names; read anew where one has changed.

        Raises:
            StoreError: a record is damaged.
        """
        read = {}
        for entry in self.files.list("items"):
            if entry.name.endswith(".json") and "/." not in entry.name:
                read[entry.name] = (entry, self.read_record(entry))
        self._read = read
        return [item for _, item in read.values()]

    def read_record(self, entry: Entry) -> ItemRecord:
        """The item in a file below ``items/``.

        Raises:
            StoreError: the record is damaged.
        """
        known = self._read.get(entry.name)
        if known is not None and known[0] == entry:
            return known[1]
        return read_item(self.files.read(entry.name), f"{self}/{entry.name}")

    def add(
        self,
        sources: Any,
        *,
        offset: float | Literal["auto"] | None = "auto",
        mask: Any = None,
        crs: Any = None,
        bounds: Any = None,
        item_id: str | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        engine: str = "local",
        dry_run: bool = False,
        progress: bool = False,
    ) -> AddReport:
        """Embed scenes; those that are in the store already, unchanged, cost nothing, so a stopped run just goes on.

        Args:
            sources: what :func:`sattxt.scenes.open_scenes` takes: files, folders, globs, ``.SAFE``, STAC items.
            offset, mask, crs, bounds, item_id: as there.
            on_error: ``"skip"`` goes on after a scene that cannot be read; see ``failures`` of the result.
            engine: ``"local"``; ``"task:i/n"``: the i-th of n processes, counted from 0, each given the same sources;
                ``"ray"`` (extra ``ray``): actors on the cluster that Ray finds, each of which must see the sources.
            dry_run: only tell what there is to do.
            progress: show a bar on stderr if that is a terminal.

        Raises:
            SceneError: a scene cannot be opened or read (``on_error="raise"``). InputError: a scene does not fit the
                store, or two sources are one item. DiskFullError: no space is left. In each case what was committed
                before stays.
            StoreMismatchError: the store's model cannot be had.
        """
        from sattxt.scenes.engines import add_scenes
        from sattxt.scenes.open import SceneReading

        reading = SceneReading(self.settings.read_bands, offset, mask, crs, bounds, item_id)
        return add_scenes(self, sources, reading, on_error=on_error, engine=engine, dry_run=dry_run, progress=progress)

    def describe(self) -> None:
        """Write ``collection.json`` anew, as the items are now."""
        items: list[ItemRecord] | None = None
        while items != (items := self.items):  # another process may have committed in between
            self.files.write("collection.json", write_collection(self.settings, items))

    def rows(
        self,
        columns: Sequence[str] | None = None,
        **where: Unpack[FilterOptions],
    ) -> Iterator[tuple[Any, FloatArray]]:
        """The chips part by part: a ``pyarrow.Table`` of ``columns`` (all), and (N, D) float32 embeddings.

        Args:
            where: :class:`sattxt.scenes.filters.FilterOptions`: ``bbox=``, ``within=``, ``after=``, ``before=``.

        Raises:
            StoreError: a part is missing or damaged.
        """
        chosen = make_filter(**where)
        return read_blocks(self.files, self.items, chosen, columns)

    def search(
        self,
        text: str | None = None,
        *,
        image: Any = None,
        like: str | Sequence[str] | None = None,
        unlike: str | Sequence[str] | None = None,
        k: int = 20,
        one_per_cell: bool = False,
        templates: str | Sequence[str] | None = None,
        options: ImageOptions | None = None,
        **where: Unpack[FilterOptions],
    ) -> Hits:
        """The chips that match best: by words, an image, examples, or several of these together.

        Args:
            text: what chips should show. templates: as in :meth:`sattxt.SatTxt.classifier`; ``"{}"`` for sentences.
            image: one, as :meth:`sattxt.SatTxt.encode_image` takes it. options: how to read it.
            like, unlike: ids of chips that are (not) what is looked for; they are no hits themselves.
            k: hits at most; fewer only where the filter leaves fewer.
            where: which chips count: ``bbox=``, ``within=``, ``after=``, ``before=``, see
                :class:`sattxt.scenes.filters.FilterOptions`.
            one_per_cell: of the chips of one grid cell, at several dates, only the best.

        Raises:
            InputError: an argument means nothing, or a like is no chip of the store.
            StoreMismatchError: the store's model cannot be had (``text``, ``image``).
            StoreError: a part or the index is damaged.
        """
        return search_store(
            self, text, image=image, like=like, unlike=unlike, k=k, one_per_cell=one_per_cell, templates=templates,
            options=options, chosen=make_filter(**where),
        )  # fmt: skip

    def heatmap(
        self, text: str, *, templates: str | Sequence[str] | None = None, **where: Unpack[FilterOptions]
    ) -> HeatMap:
        """How probable it is that each chip shows what a text says: rasters in the CRS of the grid, a pixel a stride.

        Where several chips cover a pixel, at several dates say, it is their mean.

        Args:
            text: what is looked for, contrasted with "none of these". templates, where: as in :meth:`search`.

        Raises:
            InputError: an argument means nothing, no chips are left, or they lie too far apart for one raster.
            StoreMismatchError: the store's model cannot be had. StoreError: a part is damaged.
        """
        from sattxt.scenes.heatmap import heatmap_store

        rows, chosen = Rows(self.files, self.items, None), make_filter(**where)
        return heatmap_store(rows, self.settings, self.model, text, chosen, templates=templates)

    def change(
        self,
        text: str | None = None,
        *,
        before: Period,
        after: Period,
        season: float | None = 45,
        templates: str | Sequence[str] | None = None,
        bbox: Sequence[float] | None = None,
        within: Any = None,
    ) -> Changes:
        """Where the ground changed between two periods: the same grid cells, each at its clearest.

        A cell counts as changed where it differs by more than three deviations from what its pair of scenes has in
        common, and the probability of the text crosses 0.5. One with three earlier dates or more is held against these.

        Args:
            text: of what may have come or gone. Default: any change of the embeddings.
            before, after: ``"2019"``, ``"2019-05"``, or from the start of one to the start of another,
                ``("2019-05", "2019-09")``.
            season: days of the year that the two dates of a cell may be apart; ``None``: any.
            templates, bbox, within: as in :meth:`search`.

        Raises:
            InputError: an argument means nothing, or no cell can be compared. StoreError: a part is damaged.
            StoreMismatchError: the store's model cannot be had (``text``).
        """
        from sattxt.scenes.change import find_changes

        place, rows = make_filter(bbox=bbox, within=within), Rows(self.files, self.items, None)
        classifier = None if text is None else query_classifier(self.model, text, templates)
        return find_changes(rows, classifier, before, after, season, place)

    @property
    def index_folder(self) -> Path:
        """Where the index lies: in the store, or for one in a bucket in the user's cache directory."""
        if isinstance(self.files, Folder):
            return self.files.root / "index"
        return user_cache_dir() / "stores" / hashlib.sha256(str(self).encode()).hexdigest()[:16]

    def index(self, *, progress: bool = False) -> IndexReport:
        """Bring the index (extra ``search``) up to date: searches of many chips then take milliseconds.

        Raises:
            MissingExtraError: lancedb is not installed. StoreError: a part or the index is damaged.
            DiskFullError: no space is left; what was there still serves.
        """
        return update_index(self.index_folder, self.files, self.items, self.settings.dimensions, progress=progress)

    def check(self, *, prune: bool = False) -> CheckReport:
        """Read every part and compare it with its record. A scene whose part is damaged is embedded anew by ``add``.

        Args:
            prune: remove files that no item names and that are older than a day: what stopped runs and changed sources
                left.
        """
        from sattxt.scenes.check import check_store

        return check_store(self, prune=prune)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        names: Literal["sattxt", "majortom"] = "sattxt",
        overwrite: bool = False,
        progress: bool = False,
    ) -> list[Path]:
        """Write the chips for publishing: GeoParquet files of 128 MB in the order of a Hilbert curve, and a Collection.

        Args:
            path: a new folder. names: of the columns: ours, or those of Major TOM's embeddings.
            overwrite: replace the folder that is there.

        Raises:
            InputError: the folder is there. StoreError: a part is damaged. DiskFullError: no space is left; nothing is
                left behind.
        """
        from sattxt.scenes.export import export_store

        return export_store(self, Path(path), names=names, overwrite=overwrite, progress=progress)

    def classify(
        self,
        labels: LabelInput | None = None,
        *,
        label_set: str | None = None,
        templates: str | Sequence[str] | None = None,
        multi_label: bool = False,
        **where: Unpack[FilterOptions],
    ) -> Labelled:
        """Every chip by labels: a table, from embeddings alone.

        Args:
            labels, label_set, templates, multi_label: as in :meth:`sattxt.SatTxt.classifier`.
            where: :class:`sattxt.scenes.filters.FilterOptions`: ``bbox=``, ``within=``, ``after=``, ``before=``.

        Raises:
            LabelError, InputError: an argument means nothing. StoreError: a part is damaged.
            StoreMismatchError: the store's model cannot be had.
        """
        from sattxt.scenes.labelled import label_rows

        chosen = make_filter(**where)
        classifier = self.model.classifier(labels, label_set=label_set, templates=templates, multi_label=multi_label)
        return label_rows(read_blocks(self.files, self.items, chosen), classifier)

    def info(self) -> dict[str, Any]:
        """Facts, JSON-ready: settings, scenes, chips, bytes, bounds, period, failed scenes, rows of the index."""
        from sattxt.scenes.check import describe_store

        return describe_store(self)


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a store lies there, and no scene: a folder with settings, or an address without a file's ending."""
    text = os.fspath(path)
    if "://" in text:
        return not text.startswith("http") and not Path(text).suffix
    return (Path(text) / _SETTINGS).is_file()
