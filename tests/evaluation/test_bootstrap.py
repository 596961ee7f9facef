"""Intervals by resampling, against what statistics says they must be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from sattxt.errors import InputError
from sattxt.evaluation.bootstrap import Figure, interval, paired_difference


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def test_figures_give_the_metrics_they_stand_for(random):
    targets, predicted = random.integers(0, 4, 100), random.integers(0, 4, 100)
    hits = targets == predicted
    assert Figure.mean(hits).value == pytest.approx(100 * hits.mean())
    balanced = 100 * sk.balanced_accuracy_score(targets, predicted)
    assert Figure.group_mean(hits, targets, 5).value == pytest.approx(balanced)
    truth, found = random.normal(size=(50, 2)), random.normal(size=(50, 2))
    figure = Figure((truth - found) ** 2, (truth - truth.mean(axis=0)) ** 2, scale=1, complement=True)
    assert figure.value == pytest.approx(sk.r2_score(truth, found))


def test_a_group_without_samples_does_not_count():
    hits, classes = np.array([1, 1, 1, 0, 1, 1]), np.array([0, 0, 0, 0, 2, 2])
    assert Figure.group_mean(hits, classes, 3).value == pytest.approx(100 * (0.75 + 1) / 2)
    assert np.isnan(Figure(np.zeros((2, 1)), np.zeros((2, 1))).value)


def test_figures_read_back_from_json(random):
    hits, groups = random.random(30) < 0.5, random.integers(0, 3, 30)
    ratio = Figure(random.random((30, 2)).round(6), random.integers(0, 4, (30, 2)).astype(float), 1.0, complement=True)
    for figure in (Figure.mean(hits), Figure.group_mean(hits, groups, 4), ratio):
        again = Figure.from_dict(json.loads(json.dumps(figure.to_dict())))
        assert again.value == pytest.approx(figure.value)
        assert interval(again) == pytest.approx(interval(figure))


def test_interval_of_a_share_is_the_binomial_one():
    hits = np.arange(1000) < 700
    low, high = interval(Figure.mean(hits))
    half = 196 * (0.7 * 0.3 / 1000) ** 0.5
    assert (low, high) == pytest.approx((70 - half, 70 + half), abs=0.4)


def test_pairing_sees_a_difference_that_separate_intervals_hide(random):
    a = random.random(400) < 0.5
    b = a.copy()
    b[np.flatnonzero(~a)[:12]] = True  # right wherever A is, and twelve times more
    found = paired_difference(Figure.mean(a), Figure.mean(b))
    assert found["difference"] == pytest.approx(3)
    assert found["low"] > 0
    assert found["p"] < 0.01
    assert interval(Figure.mean(a))[1] > interval(Figure.mean(b))[0]
    same = paired_difference(Figure.mean(a), Figure.mean(a))
    assert list(same.values()) == [0, 0, 0, 1]
    with pytest.raises(InputError, match="400 and 399"):
        paired_difference(Figure.mean(a), Figure.mean(a[1:]))
