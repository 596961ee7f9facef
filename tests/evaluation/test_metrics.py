"""Figures that scikit-learn does not have, by hand; intervals by resampling, against what statistics says of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from sattxt.errors import InputError
from sattxt.evaluation import metrics
from sattxt.evaluation.metrics import Figure, interval, paired_difference


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def test_rows_of_a_class_without_samples_or_answers():
    targets, predicted = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 2, 1, 1, 1, 0])  # class 2 never occurs
    rows = metrics.class_rows(targets, predicted, ("a", "b", "c"))
    assert [row["n"] for row in rows] == [2, 4, 0]
    assert [row["accuracy"] for row in rows] == [50, 75, None]
    assert [row["precision"] for row in rows] == [50, 100, 0]
    assert rows[1]["f1"] == pytest.approx(100 * 6 / 7)


def test_calibration_error_by_hand():
    # Two samples at confidence 0.9 (one right), two at 0.6 (both right): 0.5 * |0.9 - 0.5| + 0.5 * |0.6 - 1|.
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert metrics.expected_calibration_error(probs, np.array([0, 1, 0, 0]), bins=10) == pytest.approx(0.4)
    assert metrics.expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


@pytest.mark.parametrize("decimals", [8, 1])  # 1: many equal scores
def test_label_ranking_agrees_with_scikit_learn(random, decimals):
    scores, truth = random.random((100, 6)).round(decimals), random.random((100, 6)) < 0.3
    expected = sk.label_ranking_average_precision_score(truth, scores)
    assert metrics.label_ranking_precision(scores, truth).mean() == pytest.approx(expected)


def test_a_class_without_samples_does_not_count_towards_map():
    scores, truth = np.array([[0.9, 0.5], [0.1, 0.5]]), np.array([[True, False], [False, False]])
    found = metrics.average_precisions(scores, truth)
    assert found[0] == 1
    assert np.isnan(found[1])
    assert metrics.percent(found) == 100


def test_best_threshold_is_as_good_as_any(random):
    scores, truth = random.random((40, 4)), random.random((40, 4)) < 0.4
    thresholds = [metrics.best_threshold(scores, truth), *scores.ravel()]
    best, *others = (sk.f1_score(truth, scores >= threshold, average="micro") for threshold in thresholds)
    assert best == pytest.approx(max(others))


def test_retrieval_average_precision_by_hand():
    scores = np.array([[5.0, 4, 3, 2, 1]])
    relevant = np.array([[True, False, True, False, True]])
    first_three = (1 / 1 + 2 / 3) / 3  # three relevant items, two found
    assert metrics.average_precision_at_k(scores, relevant, 3)[0] == pytest.approx(first_three)
    assert metrics.average_precision_at_k(scores, relevant, 3, of_retrieved=True)[0] == pytest.approx(5 / 6)
    assert metrics.average_precision_at_k(scores, relevant, 1)[0] == 1  # no more could be had in one place
    whole = metrics.average_precision_at_k(scores, relevant, 100)[0]
    assert whole == pytest.approx(sk.average_precision_score(relevant[0], scores[0]))
    assert metrics.average_precision_at_k(scores, np.array([[False] * 4 + [True]]), 3)[0] == 0
    assert np.isnan(metrics.average_precision_at_k(scores, np.zeros((1, 5), bool), 3)[0])


def test_recall_counts_any_of_several_captions():
    similarity = np.array([[0.1, 0.9, 0.8, 0.2]])
    relevant = np.array([[True, False, True, False]])
    assert metrics.recall_at_k(similarity, relevant, 1).tolist() == [0]
    assert metrics.recall_at_k(similarity, relevant, 2).tolist() == [1]


def test_recall_of_equal_similarities_is_what_chance_would_give(random):
    relevant = np.array([[True, True, False, False, False, False]])
    assert metrics.recall_at_k(np.zeros((1, 6)), relevant, 1)[0] == pytest.approx(2 / 6)
    assert metrics.recall_at_k(np.zeros((1, 6)), relevant, 2)[0] == pytest.approx(1 - (4 / 6) * (3 / 5))
    assert metrics.recall_at_k(np.zeros((1, 6)), relevant, 10)[0] == 1
    similarity = np.array([[0.5, 0.1, 0.9, 0.5, 0.5, 0.0]])  # one ahead, then three level of which one is right
    drawn = [np.argsort(-similarity[0] + 1e-6 * random.random(6))[:3] for _ in range(4000)]
    simulated = np.mean([relevant[0, first].any() for first in drawn])
    assert metrics.recall_at_k(similarity, relevant, 3)[0] == pytest.approx(2 / 3)
    assert simulated == pytest.approx(2 / 3, abs=0.03)


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
