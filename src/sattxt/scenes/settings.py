"""What a store's rows depend on: fixed when it is made, written to ``store.json``, and held by every later call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import sattxt
from sattxt.config import build
from sattxt.errors import InputError, StoreError, StoreMismatchError, WeightsError
from sattxt.images.options import ImageOptions, check_count
from sattxt.scenes.parts import StoredType

if TYPE_CHECKING:
    from sattxt.model import SatTxt

FORMAT, VERSION = "sattxt-store", 1
Grid = Literal["utm", "majortom", "quadkey", "pixels"]
#: Metres a pixel from which a chip is ``COARSE_CHIP`` pixels wide by default, else ``FINE_CHIP``.
COARSE, COARSE_CHIP, FINE_CHIP = 5.0, 64, 256
#: What names the model, but does not tell its vectors apart.
_NAMES = ("model", "location", "package")


@dataclass(frozen=True)
class StoreSettings:
    """How a store's rows are made.

    model, location, package: the model's name, its directory where it is not bundled, and the version of sattxt that
        made the store. fingerprint, backend, precision: which vectors it gives, D = ``dimensions`` wide.
    grid, grid_km, chip, stride: where chips lie; cells of ``majortom`` are ``grid_km`` apart, chips ``chip`` pixels
        wide and ``stride`` apart. gsd: metres a pixel that scenes must have, within 20 %; ``None``: any.
    bands, stretch: how scenes become RGB in 0-255, as in :class:`sattxt.ImageOptions`; a range is ``"low,high"``.
    stored: of embeddings. min_valid, max_cloud: shares of a chip, in [0, 1], from which and up to which it is kept.
    """

    model: str
    location: str | None
    package: str
    fingerprint: str
    backend: str
    precision: str
    dimensions: int
    grid: Grid = "utm"
    grid_km: float = 10.0
    chip: int = COARSE_CHIP
    stride: int = COARSE_CHIP
    gsd: float | None = None
    bands: tuple[str, ...] | None = None
    stretch: str | None = None
    stored: StoredType = "float16"
    min_valid: float = 0.9
    max_cloud: float = 0.2

    @property
    def key(self) -> str:
        """16 hex digits: equal ones make equal rows of equal scenes."""
        facts = {name: value for name, value in asdict(self).items() if name not in _NAMES}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def read_bands(self) -> tuple[int | str, ...] | None:
        """``bands`` as readers take them: numbers as numbers."""
        return None if self.bands is None else tuple(int(band) if band.isdigit() else band for band in self.bands)

    @property
    def read_stretch(self) -> Any:
        """``stretch`` as readers take it: a range as two numbers."""
        if self.stretch is None or "," not in self.stretch:
            return self.stretch
        return tuple(float(value) for value in self.stretch.split(","))

    def to_json(self) -> bytes:
        """The content of ``store.json``."""
        data = {"format": FORMAT, "format_version": VERSION, **asdict(self)}
        return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> StoreSettings:
        """Read what :meth:`to_json` wrote.

        Raises:
            StoreError: it is damaged, or of a newer format than this package knows.
        """
        try:
            data = json.loads(content)
            found = data.pop("format", None), data.pop("format_version", None)
        except (ValueError, AttributeError) as error:
            raise StoreError(f"{where}: is no store.json ({error}); make the store again") from error
        if found != (FORMAT, VERSION):
            raise StoreError(f"{where}: its format is {found}, this sattxt reads {(FORMAT, VERSION)}; upgrade sattxt")
        try:
            return build(cls, data, where)
        except WeightsError as error:
            raise StoreError(str(error)) from error

    def compare(self, other: StoreSettings, where: str) -> None:
        """Raise :class:`StoreMismatchError` where ``other`` (the call's) would make other rows than these."""
        ours, theirs = asdict(self), asdict(other)
        differing = [
            f"{field.name} is {ours[field.name]!r}, not {theirs[field.name]!r}"
            for field in fields(self)
            if field.name not in _NAMES and ours[field.name] != theirs[field.name]
        ]
        if differing:
            raise StoreMismatchError(
                f"{where}: was made with other settings: {'; '.join(differing)}; pass the store's own, or another path"
            )

    def open_model(self, where: str) -> SatTxt:
        """The model of the store at ``where``, from where it was, on the store's backend and in its precision.

        Raises:
            StoreMismatchError: it gives other vectors by now. UnknownModelError: it is not to be had.
        """
        from sattxt.model import SatTxt

        name = self.location if self.location and Path(self.location).is_dir() else self.model
        backend: Any = self.backend
        model = SatTxt.from_pretrained(name, backend=backend, dtype=self.precision)
        self.check_model(model, where)
        return model

    def check_model(self, model: SatTxt, where: str) -> None:
        """Raise :class:`StoreMismatchError` if ``model`` gives other vectors than those of the store at ``where``."""
        given = model_settings(model)
        differing = [
            f"{name} is {getattr(self, name)!r}, not {given[name]!r}"
            for name in ("precision", "backend")
            if given[name] != getattr(self, name)
        ]
        if differing:
            raise StoreMismatchError(
                f"{where}: {'; '.join(differing)}; open the model with dtype={self.precision!r}, "
                f"backend={self.backend!r}"
            )
        if given["fingerprint"] != self.fingerprint:
            raise StoreMismatchError(
                f"{where}: was made by {self.model} with fingerprint {self.fingerprint}, not {given['fingerprint']} "
                f"({given['model']}); pip install sattxt=={self.package} adds to it and searches it by words; rows, "
                "like= and export work without"
            )


class CreateOptions(TypedDict, total=False):
    """The settings of a new store, as keyword arguments.

    grid: ``"utm"``: squares of the scene's own pixels, the same at every date; scenes in longitude and latitude get
        ``"majortom"``: Major TOM's cells, ``grid_km`` apart. ``"quadkey"``; ``"pixels"``: of any image.
    chip, stride: pixels of a chip and between neighbours. Default: 64 from 5 m up, else 256; no overlap.
    gsd: metres a pixel that scenes must have, within 20 %. Default: any.
    bands, stretch: how scenes become RGB, as for images. Default: B04, B03, B02 and ``"sentinel2"`` where names and
        16-bit reflectance tell.
    store: ``"float16"``, or ``"int8"``, which halves the files for a cosine of 0.999 with what it was.
    min_valid, max_cloud: shares of a chip from which (0.9) and up to which (0.2) it is kept.
    """

    grid: Grid
    grid_km: float
    chip: int | None
    stride: int | None
    gsd: float | None
    bands: Sequence[int | str] | None
    stretch: Any
    store: StoredType
    min_valid: float
    max_cloud: float


def make_settings(
    model: SatTxt,
    *,
    grid: Grid = "utm",
    grid_km: float = 10.0,
    chip: int | None = None,
    stride: int | None = None,
    gsd: float | None = None,
    bands: Sequence[int | str] | None = None,
    stretch: Any = None,
    store: StoredType = "float16",
    min_valid: float = 0.9,
    max_cloud: float = 0.2,
) -> StoreSettings:
    """Checked settings of a new store of a model; arguments as in :class:`CreateOptions`.

    Raises:
        InputError: an argument means nothing.
    """
    _check_choice("grid", grid, ("utm", "majortom", "quadkey", "pixels"))
    _check_choice("store", store, ("float16", "int8"))
    for name, value, top in (("min_valid", min_valid, 1), ("max_cloud", max_cloud, 1), ("grid_km", grid_km, 20_000)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= top:
            raise InputError(f"{name}={value!r}: pass a number in [0, {top}]")
    if gsd is not None and (isinstance(gsd, (bool, str)) or not gsd > 0):
        raise InputError(f"gsd={gsd!r}: pass metres a pixel, above 0")
    options = ImageOptions(bands=bands, stretch=stretch)
    if chip is None:
        chip = COARSE_CHIP if gsd is None or gsd >= COARSE else FINE_CHIP
    check_count("chip", chip, least=8)
    low_high = None if isinstance(options.stretch, (str, type(None))) else options.stretch
    return StoreSettings(
        **model_settings(model),
        package=sattxt.__version__,
        dimensions=model.embed_dim,
        grid=grid,
        grid_km=float(grid_km),
        chip=int(chip),
        stride=check_count("stride", chip if stride is None else stride),
        gsd=None if gsd is None else float(gsd),
        bands=None if options.bands is None else tuple(map(str, options.bands)),
        stretch=f"{low_high[0]:g},{low_high[1]:g}" if low_high else options.stretch,  # type: ignore[arg-type]
        stored=store,
        min_valid=float(min_valid),
        max_cloud=float(max_cloud),
    )


def model_settings(model: SatTxt) -> dict[str, Any]:
    """What a store keeps of a model: which it is, where it lies, and which vectors it gives."""
    stored = model._stored
    bundled = stored is None or stored.path.is_relative_to(Path(sattxt.__file__).parent)
    return {
        "model": model.config.name,
        "location": None if bundled or stored is None else str(stored.path),
        "fingerprint": model.fingerprint,
        "backend": model.backend,
        "precision": model.vision.precision,
    }


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"{name}={value!r}: pass {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}")


def chip_layout(settings: StoreSettings) -> Mapping[str, Any]:
    """``emb:chip_layout`` of the embeddings extension."""
    sizes = {"chip_size": [settings.chip] * 2, "stride": [settings.stride] * 2}
    if settings.grid in ("utm", "pixels"):
        return {"layout_type": "regular_grid", "grid_id": settings.grid, **sizes}
    name = f"majortom-{settings.grid_km:g}km" if settings.grid == "majortom" else "quadkey"
    return {"layout_type": "named_grid", "grid_id": name, **sizes}
