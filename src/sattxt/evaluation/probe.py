"""Probing frozen features: for classes, by all or a few samples; and for bands that RGB does not hold."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sattxt.data.dataset import Dataset, Samples
from sattxt.data.multispectral import Bands, picture, with_bands
from sattxt.errors import InputError
from sattxt.evaluation.embeddings import Embedder
from sattxt.evaluation.metrics import Figure, average_precisions, class_rows, sklearn
from sattxt.evaluation.result import Result
from sattxt.images.load import default_workers

Array = NDArray[Any]
#: Features with (N,) classes, or (N, K) indicators of several labels.
Labelled = tuple[Array, Array]

#: Inverse strengths of regularisation (C of scikit-learn) to choose from, for features of unit variance or so.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
FEW_SHOT_STRENGTH = 0.1
RIDGE_STRENGTHS = np.logspace(-3, 5, 17)  # of ridge regressions
NEIGHBOURS = (1, 5, 10, 20)
TEMPERATURE = 0.07
SHOTS = (1, 2, 4, 8, 16)
_NEVER = -1e9  # the score of a class that no training sample has
_EVERY = 5  # of the samples of a class, every so many are held out
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


def probe(
    embedder: Embedder,
    collection: Dataset,
    *,
    split: str | None = None,
    limit: int | None = None,
    shots: Sequence[int] = SHOTS,
    repeats: int = 10,
) -> Result:
    """How well frozen image embeddings can be classified.

    ``linear`` is logistic regression with its regularisation, ``knn`` a weighted vote of neighbours with their number
    chosen as :func:`three_ways` says. The few-shot table has the mean over ``repeats`` draws of n samples a class (the
    same draws for every model), with a 95 % t interval; the regularisation is fixed there, as there is nothing to
    choose it on. Figures are accuracy, or macro mAP of multi-label data.

    Raises:
        InputError: no training split, or nothing to learn. MissingExtraError: scikit-learn is not installed.
    """
    *parts, note = three_ways(collection, split, limit)
    seen = [embedder(part) for part in parts]
    train, held_out, test = (
        (features, part.indicators if part.multi_label else part.targets) for part, features in seen
    )
    data = seen[2][0]
    classes = len(data.classes)
    tried = {s: 100 * _quality(linear_scores(train, held_out[0], classes, s), held_out[1]) for s in STRENGTHS}
    strength = max(tried, key=lambda s: tried[s])  # of equal ones the most regularised
    neighbours = max(NEIGHBOURS, key=lambda k: _quality(neighbour_scores(train, held_out[0], k, classes), held_out[1]))
    if parts[0].split == parts[1].split:
        train = np.concatenate([train[0], held_out[0]]), np.concatenate([train[1], held_out[1]])
    settings = {
        "train": len(train[0]),
        "strength": strength,
        "tried": {f"{s:g}": round(value, 2) for s, value in tried.items()},
        "neighbours": neighbours,
        "protocol": note,
    }
    result = Result("probe", embedder, data, settings)
    linear = linear_scores(train, test[0], classes, strength)
    nearest = neighbour_scores(train, test[0], neighbours, classes)
    if data.multi_label:
        result.add_precisions(linear, "linear_")
        result.add_precisions(nearest, "knn_")
        found = zip(data.classes, test[1].sum(axis=0), 100 * average_precisions(linear, test[1]), strict=True)
        result.tables["per_class"] = [{"class": key, "n": count, "ap": ap} for key, count, ap in found]
    else:
        hits = linear.argmax(axis=1) == test[1]
        result.add("linear_top1", Figure.mean(hits))
        result.add("knn_top1", Figure.mean(nearest.argmax(axis=1) == test[1]))
        result.figures["linear_balanced_accuracy"] = Figure.group_mean(hits, test[1], classes).value
        rows = class_rows(test[1], linear.argmax(axis=1), data.classes)
        result.tables["per_class"] = [{key: row[key] for key in ("class", "n", "accuracy")} for row in rows]
    draws = ((n, few_shot(train, test, classes, n, repeats)) for n in shots)
    result.tables["few_shot"] = [{"shots": n, **row} for n, row in draws if row]
    return result


def three_ways(collection: Dataset, split: str | None, limit: int | None) -> tuple[Samples, Samples, Samples, str]:
    """What to train on, choose on and measure on, and a word on where they come from.

    Measured is ``split`` (default: test, else val). Chosen is on val where that is another split; else on every fifth
    training sample of each class. Data without splits are divided: every fifth sample of each class is measured on.

    Raises:
        InputError: there is no training split beside the measured one.
    """
    note = "choices made on every fifth training sample of each class, then all are trained on"
    if set(collection.splits) == {""}:
        train, test = _hold_out(collection.split("all", limit))
        note = f"no splits: every fifth sample of each class measured on; {note}"
    else:
        test = collection.split(split or ("test" if "test" in collection.splits else "val"), limit)
        if "train" not in collection.splits or test.split == "train":
            raise InputError(f"{collection.store.path}: probing needs a training split beside {test.split!r}")
        train = collection.split("train", limit)
        if test.split != "val" and "val" in collection.splits:
            return train, collection.split("val", limit), test, "choices made on val"
    return *_hold_out(train), test, note


def linear_scores(train: Labelled, queries: Array, classes: int, strength: float) -> Array:
    """(N, K) scores of ``queries`` by logistic regression, multinomial or for several labels each class by itself.

    Only the order within a row (one label a sample) or column (several) has a meaning. A class that no training sample
    has comes last. Features are centred and divided by their mean standard deviation.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    features, targets = train
    mean, scale = features.mean(axis=0), float(features.std(axis=0).mean()) or 1.0
    features, queries = ((x - mean).astype(np.float32) / scale for x in (features, queries))
    scores = np.full((len(queries), classes), _NEVER)
    if targets.ndim == 1:
        met = np.unique(targets)
        scores[:, met] = _regression(features, targets, strength).predict_log_proba(queries) if len(met) > 1 else 0
        return scores
    for k, labels in enumerate(targets.T):
        if labels.all():
            scores[:, k] = -_NEVER
        elif labels.any():
            scores[:, k] = _regression(features, labels, strength).decision_function(queries)
    return scores


def neighbour_scores(train: Labelled, queries: Array, k: int, classes: int) -> Array:
    """(N, K) votes of the ``k`` nearest training samples by cosine, weighted by exp(cosine / temperature).

    Args:
        train, queries: their features are unit vectors.
    """
    features, targets = train
    votes = targets.astype(np.float32) if targets.ndim == 2 else np.eye(classes, dtype=np.float32)[targets]
    model = sklearn("neighbors").KNeighborsRegressor(
        min(k, len(features)),
        metric="sqeuclidean",  # of unit vectors: 2 - 2 cosine
        algorithm="brute",
        weights=lambda distance: np.exp(-distance / (2 * TEMPERATURE)),
    )
    return np.asarray(model.fit(features, votes).predict(queries))


def few_shot(train: Labelled, test: Labelled, classes: int, shots: int, repeats: int) -> dict[str, Any]:
    """Accuracy (or macro mAP) in percent from ``shots`` samples a class: mean, 95 % t interval and spread over draws.

    Empty where a class that occurs has fewer samples than ``shots``.
    """
    from scipy import stats  # type: ignore[import-untyped, unused-ignore] # which scikit-learn brings

    features, targets = train
    indicators = targets if targets.ndim == 2 else np.eye(classes, dtype=bool)[targets]
    members = [np.flatnonzero(column) for column in indicators.T if column.any()]
    if min(map(len, members)) < shots:
        return {}
    figures = []
    for repeat in range(repeats):
        generator = np.random.default_rng([0, shots, repeat])
        chosen = np.unique(np.concatenate([generator.choice(m, shots, replace=False) for m in members]))
        scores = linear_scores((features[chosen], targets[chosen]), test[0], classes, FEW_SHOT_STRENGTH)
        figures.append(100 * _quality(scores, test[1]))
    mean, spread = np.mean(figures), np.std(figures, ddof=1) if repeats > 1 else 0.0
    half = stats.t.ppf(0.975, repeats - 1) * spread / repeats**0.5 if repeats > 1 else np.nan
    return {"mean": mean, "low": mean - half, "high": mean + half, "std": spread, "draws": repeats}


def _regression(features: Array, targets: Array, strength: float) -> Any:
    linear_model, exceptions = sklearn("linear_model"), sklearn("exceptions")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes")  # few samples a class are meant
        return linear_model.LogisticRegression(C=strength, max_iter=1000).fit(features, targets)


def _quality(scores: Array, targets: Array) -> float:
    """Accuracy, or macro mAP of several labels; in [0, 1]."""
    if targets.ndim == 2:
        return float(np.nanmean(average_precisions(scores, targets)))
    return float((scores.argmax(axis=1) == targets).mean())


def _hold_out(data: Samples) -> tuple[Samples, Samples]:
    """Four fifths and one: every fifth sample of each (first) label goes into the second part."""
    members: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, sample in enumerate(data.samples):
        members[sample.labels[:1]].append(index)
    held_out = {index for rows in members.values() for index in rows[_EVERY - 1 :: _EVERY]}
    if not held_out:
        raise InputError(f"{data.store.path}: {len(data)} samples are too few to hold out a fifth of each class")
    return data.take([i for i in range(len(data)) if i not in held_out]), data.take(sorted(held_out))


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
    measured = {test.store.checksum(sample.files[0]) for sample in test.samples}
    fitted = [i for i, sample in enumerate(train.samples) if train.store.checksum(sample.files[0]) not in measured]
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
    result = Result("spectral", embedder, parts[1], settings)
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
    regression = sklearn("linear_model").RidgeCV(alphas=RIDGE_STRENGTHS, alpha_per_target=True)
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
