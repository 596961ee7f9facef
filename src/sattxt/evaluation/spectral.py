"""What frozen RGB features know of the bands that RGB does not hold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.data.dataset import Samples
from sattxt.data.multispectral import Bands, picture, with_bands
from sattxt.errors import InputError
from sattxt.evaluation.bootstrap import Figure
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.metrics import sklearn
from sattxt.evaluation.result import Result
from sattxt.images.load import default_workers

Array = NDArray[Any]
STRENGTHS = np.logspace(-3, 5, 17)  # of the regularisation, to choose from
#: Bands that RGB does not hold, with the names results show.
HELD_OUT = {
    "B05": "red edge B05",
    "B06": "red edge B06",
    "B07": "red edge B07",
    "B08": "NIR B08",
    "B8A": "NIR B8A",
    "B11": "SWIR B11",
    "B12": "SWIR B12",
}


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
    measured = {test.checksum(sample.id) for sample in test.samples}
    fitted = [i for i, sample in enumerate(train.samples) if train.checksum(sample.id) not in measured]
    if len(fitted) < 10 or len(test) < 3:
        raise InputError(f"{train.store.path}: {len(fitted)} training and {len(test)} test tiles are too few")
    seen = [embedder(with_bands(data)) for data in (train.take(fitted), test)]
    parts = [part for part, _ in seen]
    targets, colours = zip(*(_measure_tiles(part) for part in parts), strict=True)
    names = [name for name in targets[0][0] if all(name in tile for part in targets for tile in part)]
    if not names:
        raise InputError(f"{train.store.path}: the tiles hold no band beside RGB")
    known, truth = (np.array([[tile[name] for name in names] for tile in part]) for part in targets)
    features = {
        "features": [vectors for _, vectors in seen],
        "mean_rgb": [part[:, :3] for part in colours],
        "mean_std_rgb": colours,
    }
    settings = {
        "train": len(parts[0]),
        "train_split": train.split,
        "train_repeats_left_out": len(train) - len(fitted),
        "targets": names,
    }
    result = Result("spectral", embedder.encoder, parts[1], settings, embedder.skipped)
    spread = (truth - truth.mean(axis=0)) ** 2
    rows: list[dict[str, Any]] = [{"target": target} for target in names]
    for name, (fit_on, unseen) in features.items():
        residual = (truth - ridge(fit_on, known, unseen)) ** 2
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


def band_means(bands: Bands) -> dict[str, float]:
    """Mean reflectance of a tile's held-out bands, its NDVI and NDWI (McFeeters 1996), as far as the bands are there.

    Args:
        bands: reflectance x 10,000, as :meth:`~sattxt.data.multispectral.BandSamples.bands` gives it.
    """
    found = {shown: float(bands[name].mean()) / 10_000 for name, shown in HELD_OUT.items() if name in bands}
    if "B08" in bands:
        nir, red, green = bands["B08"], bands["B04"], bands["B03"]
        found["NDVI"] = _normalised_difference(nir, red)
        found["NDWI"] = _normalised_difference(green, nir)
    return found


def _measure_tiles(data: Any) -> tuple[list[dict[str, float]], Array]:
    """What is to be predicted of each tile, and (N, 6) mean and standard deviation of its colours."""

    def measure(index: int) -> tuple[dict[str, float], list[float]]:
        bands = data.bands(index)
        rgb = picture(bands, data.samples[index].id).reshape(-1, 3).astype(np.float64)
        return band_means(bands), [*rgb.mean(axis=0), *rgb.std(axis=0)]

    with ThreadPoolExecutor(default_workers()) as pool:
        targets, colours = zip(*pool.map(measure, range(len(data))), strict=True)
    return list(targets), np.array(colours)


def _normalised_difference(a: Array, b: Array) -> float:
    """Mean of (a - b) / (a + b), at the coarser resolution of the two."""
    side = min(len(a), len(b))
    a, b = (x.reshape(side, len(x) // side, -1, len(x) // side).mean(axis=(1, 3)) for x in (a, b))
    return float(((a - b) / np.maximum(a + b, 1)).mean())
