"""Every figure against scikit-learn, or against a case small enough to compute by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from sattxt.errors import InputError
from sattxt.evaluation import linear, metrics
from sattxt.evaluation.metrics import Confusion, Figure
from sattxt.evaluation.spectral import ridge


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def test_top_k_agrees_with_scikit_learn(random):
    scores, targets = random.normal(size=(200, 7)), random.integers(0, 7, 200)
    for k in (1, 3, 6):
        ours = metrics.top_k_hits(scores, targets, k).mean()
        assert ours == pytest.approx(sk.top_k_accuracy_score(targets, scores, k=k, labels=range(7)))


def test_of_equal_scores_the_first_class_wins_as_in_argmax():
    hits = metrics.top_k_hits(np.zeros((3, 3)), np.array([0, 1, 2]), 1)
    assert hits.tolist() == [True, False, False]


def test_confusion_and_what_follows_agree_with_scikit_learn(random):
    targets, predicted = random.integers(0, 5, 300), random.integers(0, 4, 300)  # class 4 is never predicted
    matrix = metrics.confusion_matrix(targets, predicted, 5)
    assert (matrix == sk.confusion_matrix(targets, predicted, labels=range(5))).all()
    assert metrics.balanced_accuracy(matrix) == pytest.approx(sk.balanced_accuracy_score(targets, predicted))
    precision, recall, f1, n = sk.precision_recall_fscore_support(targets, predicted, labels=range(5), zero_division=0)
    ours = Confusion(matrix)
    assert np.allclose(ours.precision, precision)
    assert np.allclose(ours.recall, recall)
    assert np.allclose(ours.f1, f1)
    assert (ours.n == n).all()


def test_balanced_accuracy_leaves_out_classes_that_do_not_occur():
    assert metrics.balanced_accuracy(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 4]])) == pytest.approx((0.75 + 1) / 2)


def test_calibration_error_by_hand():
    # Two samples at confidence 0.9 (one right), two at 0.6 (both right): 0.5 * |0.9 - 0.5| + 0.5 * |0.6 - 1|.
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert metrics.expected_calibration_error(probs, np.array([0, 1, 0, 0]), bins=10) == pytest.approx(0.4)
    assert metrics.expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


@pytest.mark.parametrize("decimals", [8, 1])  # 1: many equal scores
def test_average_precision_agrees_with_scikit_learn(random, decimals):
    scores, truth = random.random((100, 6)).round(decimals), random.random((100, 6)) < 0.3
    for k in range(6):
        expected = sk.average_precision_score(truth[:, k], scores[:, k])
        assert metrics.average_precision(scores[:, k], truth[:, k]) == pytest.approx(expected)
    for average in ("macro", "micro"):
        expected = sk.average_precision_score(truth, scores, average=average)
        assert metrics.mean_average_precision(scores, truth, average) == pytest.approx(expected)
    expected = sk.label_ranking_average_precision_score(truth, scores)
    assert metrics.label_ranking_precision(scores, truth).mean() == pytest.approx(expected)


def test_a_class_without_samples_does_not_count_towards_map():
    scores, truth = np.array([[0.9, 0.5], [0.1, 0.5]]), np.array([[True, False], [False, False]])
    assert metrics.mean_average_precision(scores, truth) == 1
    assert np.isnan(metrics.average_precision(scores[:, 1], truth[:, 1]))


def test_f1_agrees_with_scikit_learn(random):
    predicted, truth = random.random((80, 5)) < 0.4, random.random((80, 5)) < 0.3
    ours = metrics.f1_scores(predicted, truth)
    assert ours["micro"] == pytest.approx(sk.f1_score(truth, predicted, average="micro"))
    assert ours["macro"] == pytest.approx(sk.f1_score(truth, predicted, average="macro"))


def test_best_threshold_is_as_good_as_any(random):
    scores, truth = random.random((40, 4)), random.random((40, 4)) < 0.4
    best = metrics.f1_scores(scores >= metrics.best_threshold(scores, truth), truth)["micro"]
    assert best == pytest.approx(max(metrics.f1_scores(scores >= t, truth)["micro"] for t in scores.ravel()))


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


def test_mean_iou_ignores_unlabelled_pixels_and_agrees_with_scikit_learn(random):
    truth, predicted = random.integers(-1, 3, (20, 20)), random.integers(0, 3, (20, 20))
    both, either = metrics.intersection_union(truth, predicted, 3)
    seen = truth >= 0
    expected = sk.jaccard_score(truth[seen], predicted[seen], average=None)
    assert np.allclose(both / either, expected)
    assert metrics.mean_iou(both, either) == pytest.approx(expected.mean())
    alone = metrics.intersection_union(np.zeros((2, 2), int), np.zeros((2, 2), int), 3)
    assert metrics.mean_iou(*alone) == 1  # classes without a pixel are left out


def test_r2_agrees_with_scikit_learn(random):
    truth, predicted = random.normal(size=(50, 3)), random.normal(size=(50, 3))
    expected = sk.r2_score(truth, predicted, multioutput="raw_values")
    assert np.allclose(metrics.r2_score(truth, predicted), expected)
    assert np.isnan(metrics.r2_score(np.ones((4, 1)), np.zeros((4, 1)))[0])


def test_figures_give_the_metrics_they_stand_for(random):
    targets, predicted = random.integers(0, 4, 100), random.integers(0, 4, 100)
    hits = targets == predicted
    assert Figure.mean(hits).value == pytest.approx(100 * hits.mean())
    balanced = 100 * sk.balanced_accuracy_score(targets, predicted)
    assert Figure.group_mean(hits, targets, 5).value == pytest.approx(balanced)
    truth, found = random.normal(size=(50, 2)), random.normal(size=(50, 2))
    figure = Figure((truth - found) ** 2, (truth - truth.mean(axis=0)) ** 2, scale=1, complement=True)
    assert figure.value == pytest.approx(metrics.r2_score(truth, found).mean())


def test_interval_of_a_share_is_the_binomial_one():
    hits = np.arange(1000) < 700
    low, high = metrics.interval(Figure.mean(hits), rounds=2000)
    half = 196 * (0.7 * 0.3 / 1000) ** 0.5
    assert (low, high) == pytest.approx((70 - half, 70 + half), abs=0.4)


def test_pairing_sees_a_difference_that_separate_intervals_hide(random):
    a = random.random(400) < 0.5
    b = a.copy()
    b[np.flatnonzero(~a)[:12]] = True  # right wherever A is, and twelve times more
    found = metrics.paired_difference(Figure.mean(a), Figure.mean(b))
    assert found.value == pytest.approx(3)
    assert found.low > 0
    assert found.p < 0.01
    assert metrics.interval(Figure.mean(a))[1] > metrics.interval(Figure.mean(b))[0]
    same = metrics.paired_difference(Figure.mean(a), Figure.mean(a))
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(InputError, match="400 and 399"):
        metrics.paired_difference(Figure.mean(a), Figure.mean(a[1:]))


def test_linear_probe_is_scikit_learns_regression(random):
    features = random.normal(size=(120, 6)).astype(np.float32)
    for classes in (2, 4):
        targets = (features @ random.normal(size=(6, classes))).argmax(axis=1)
        probe = linear.fit(features, targets, classes, 1.0)
        scaled = linear.Scaler.fit(features)(features)
        expected = LogisticRegression(C=1.0, max_iter=1000).fit(scaled, targets).predict(scaled)
        assert (probe.scores(features).argmax(axis=1) == expected).all()


def test_linear_probe_never_answers_a_class_it_has_not_seen(random):
    features = random.normal(size=(60, 4)).astype(np.float32)
    targets = np.where(features[:, 0] > 0, 1, 3)
    assert set(linear.fit(features, targets, 5, 10.0).scores(features).argmax(axis=1)) == {1, 3}
    assert set(linear.fit(features, targets, 5, 1e-6).scores(features).argmax(axis=1)) <= {1, 3}
    alone = linear.fit(features, np.full(60, 2), 5, 1.0)
    assert set(alone.scores(features).argmax(axis=1)) == {2}


def test_multi_label_probe_ranks_each_class_by_itself(random):
    features = random.normal(size=(200, 5)).astype(np.float32)
    truth = features[:, :3] > 0.3
    probe = linear.fit(features, truth, 3, 1.0)
    assert linear.quality(probe.scores(features), truth) > 0.98


def test_strength_is_the_one_that_does_best_on_held_out_samples(random):
    features = random.normal(size=(60, 40)).astype(np.float32)
    targets = (features[:, 0] > 0).astype(int)
    strength, tried = linear.choose_strength((features[:30], targets[:30]), (features[30:], targets[30:]), 2)
    assert tried[strength] == max(tried.values())


def test_neighbours_vote_by_nearness():
    train = np.array([[1.0, 0], [0.99, 0.141], [0, 1]], dtype=np.float32), np.array([0, 1, 1])
    query = np.array([[1.0, 0.0]], dtype=np.float32)
    assert linear.neighbour_scores(train, query, 1, 2, 0.07).argmax() == 0
    both = linear.neighbour_scores(train, query, 2, 2, 0.07)[0]
    weight = np.exp((0.99 - 1) / 0.07)
    assert both == pytest.approx([1 / (1 + weight), weight / (1 + weight)], abs=1e-3)


def test_ridge_recovers_a_linear_relation_on_unseen_samples(random):
    features, unseen = random.normal(size=(80, 5)), random.normal(size=(40, 5))
    mix = random.normal(size=(5, 2))
    found = ridge(features, features @ mix + 3, unseen)
    assert metrics.r2_score(unseen @ mix + 3, found).min() > 0.999
