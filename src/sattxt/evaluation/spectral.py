"""What frozen RGB features know of the bands that RGB does not hold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.data.dataset import Samples
from sattxt.errors import InputError
from sattxt.evaluation.bootstrap import Figure
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.encoder import Image
from sattxt.evaluation.metrics import sklearn
from sattxt.evaluation.multispectral import RenderedData, Tile, rendered
from sattxt.evaluation.result import Result
from sattxt.images.load import default_workers

Array = NDArray[Any]
STRENGTHS = np.logspace(-3, 5, 17)
_VARIANT = "ms-rgb"


def spectral(embedder: Embedder, train: Samples, test: Samples) -> Result:
    """R2 on ``test`` of ridge regressions fitted on ``train``: from a tile's frozen embedding to its mean reflectance
    in held-out bands, NDVI and NDWI.

    The model sees the tile's RGB rendering only. Baselines: the rendering's mean colour (``mean_rgb``, three numbers),
    and mean and standard deviation (``mean_std_rgb``, six). The regularisation is chosen for every target by
    leave-one-out on ``train``. Training tiles whose content is also in ``test`` are left out.

    Raises:
        InputError: too few tiles. ImageError: a tile is no multispectral TIFF of known bands.
        MissingExtraError: scikit-learn or rasterio is not installed.
    """
    own = {test.checksum(s.id) for s in test.samples}
    kept = [i for i, s in enumerate(train.samples) if train.checksum(s.id) not in own]
    repeats = len(train) - len(kept)
    if len(kept) < 10 or len(test) < 3:
        raise InputError(f"{train.store.path}: {len(kept)} training and {len(test)} test tiles are too few")
    seen, unseen = (
        rendered(embedder.readable(rendered(data), _unchanged, _VARIANT)) for data in (train.take(kept), test)
    )
    tiles = _tiles(seen), _tiles(unseen)
    names = [name for name in tiles[0][0].targets if all(name in t.targets for part in tiles for t in part)]
    if not names:
        raise InputError(f"{train.store.path}: the tiles hold no band beside RGB")
    truth = [np.array([[tile.targets[name] for name in names] for tile in part]) for part in tiles]
    colours = [np.array([_colour(tile) for tile in part]) for part in tiles]
    features = {
        "features": [embedder(data, _unchanged, _VARIANT) for data in (seen, unseen)],
        "mean_rgb": [c[:, :3] for c in colours],
        "mean_std_rgb": colours,
    }
    settings = {"train": len(seen), "train_split": train.split, "train_repeats_left_out": repeats, "targets": names}
    result = Result("spectral", embedder.encoder, unseen, settings, embedder.skipped)
    spread = (truth[1] - truth[1].mean(axis=0)) ** 2
    rows: list[dict[str, Any]] = [{"target": target} for target in names]
    for name, (fitted, measured) in features.items():
        predicted = ridge(fitted, truth[0], measured)
        residual = (truth[1] - predicted) ** 2
        result.add("r2" if name == "features" else f"r2_{name}", Figure(residual, spread, 1.0, complement=True))
        for t, row in enumerate(rows):
            row[name] = Figure(residual[:, [t]], spread[:, [t]], 1.0, complement=True).value
    result.tables["per_target"] = rows
    return result


def ridge(features: Array, targets: Array, unseen: Array) -> Array:
    """(M, T) predictions for ``unseen`` (M, D) from ridge regressions of (N, T) ``targets`` on (N, D) ``features``.

    Features are standardised; each target has its own regularisation, by leave-one-out.
    """
    regression = sklearn("linear_model").RidgeCV(alphas=STRENGTHS, alpha_per_target=True)
    model = sklearn("pipeline").make_pipeline(sklearn("preprocessing").StandardScaler(), regression)
    model.fit(features.astype(np.float64), targets)
    return np.asarray(model.predict(unseen.astype(np.float64)).reshape(len(unseen), -1))


def _unchanged(image: Image) -> Image:
    return image


def _tiles(data: RenderedData) -> list[Tile]:
    with ThreadPoolExecutor(default_workers()) as pool:
        return list(pool.map(data.tile, range(len(data))))


def _colour(tile: Tile) -> list[float]:
    rgb = tile.rgb.reshape(-1, 3).astype(np.float64)
    return [*rgb.mean(axis=0), *rgb.std(axis=0)]
