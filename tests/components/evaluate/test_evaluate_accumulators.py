"""What examples add up to, against scikit-learn and Keras."""

import math

import keras
import numpy as np
import pytest
from sklearn import metrics as sk

from components.evaluate import accumulators
from components.evaluate.accumulators import MOST_SCORES, Moments, Outcomes, Probabilities


def variance(values, weights):
    return np.average((values - np.average(values, weights=weights)) ** 2, weights=weights)


def moments(labels, predictions, weights):
    made = Moments()
    for parts in zip(labels, predictions, weights, strict=True):
        made.add(*parts)
    return made


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_moments_do_not_depend_on_the_parts_that_they_are_merged_of(parts):
    rng = np.random.default_rng(parts)
    labels = 1e9 + rng.normal(size=70)
    found, weights = labels + 0.5 * rng.normal(size=70), rng.integers(0, 3, 70).astype(float)
    merged = Moments()
    for part in np.split(np.arange(70), parts):
        merged.merge(moments(labels[part], found[part], weights[part]))
    assert merged.r2() == pytest.approx(sk.r2_score(labels, found, sample_weight=weights), abs=1e-6)
    assert merged.label_variance() == pytest.approx(variance(labels, weights), rel=1e-6)
    assert merged.mae() == pytest.approx(sk.mean_absolute_error(labels, found, sample_weight=weights))


def test_equal_labels_have_no_variance_and_no_r2():
    made = moments([0.1] * 9, [0.2] * 9, [0.3] * 9)
    made.merge(moments([0.1] * 5, [0.2] * 5, [7.0] * 5))
    assert made.label_variance() == 0.0 and math.isnan(made.r2()) and made.mae() == pytest.approx(0.1)


def test_a_prediction_that_is_no_number_makes_no_number():
    made = moments([1.0, 2.0], [math.nan, 2.0], [1.0, 1.0])
    assert math.isnan(made.mae()) and math.isnan(made.rmse()) and math.isnan(made.r2())
    outcomes = Outcomes()
    outcomes.add(b"a", np.array([b"a", b"b"], object), np.array([math.nan, math.nan]), 1.0)
    assert math.isnan(outcomes.log_loss()) and outcomes.accuracy() == 0.0


def test_without_examples_or_with_weights_of_0_nothing_is_measured():
    outcomes = Outcomes()
    outcomes.add(b"a", np.array([b"a"], object), np.array([1.0]), 0.0)
    for made in (Moments(), moments([1.0, 2.0], [1.0, 2.0], [0.0, 0.0])):
        assert all(math.isnan(v) for v in (made.mae(), made.rmse(), made.r2(), made.label_variance()))
    for made in (Outcomes(), outcomes):
        assert all(math.isnan(v) for v in (made.accuracy(), made.balanced_accuracy(), made.log_loss()))


def test_a_class_that_the_model_does_not_know_is_never_right_and_costs_what_an_impossible_one_does():
    classes = np.array([b"only"], object)
    unknown, known = Outcomes(), Outcomes()
    unknown.add(b"other", classes, np.array([1.0]), 1.0)
    known.add(b"only", classes, np.array([1.0]), 3.0)
    assert unknown.accuracy() == 0.0 and unknown.log_loss() == pytest.approx(-math.log(1e-7))
    known.merge(unknown)
    assert (known.accuracy(), known.balanced_accuracy()) == (0.75, 0.5)
    assert known.log_loss() == pytest.approx(-math.log(1e-7) / 4)


def probabilities(labels, scores, weights=None):
    made = Probabilities()
    for parts in zip(labels, scores, np.ones(len(labels)) if weights is None else weights, strict=True):
        made.add(*map(float, parts))
    return made


def keras_pr_auc(labels, scores, weights):
    between = np.unique(scores)
    metric = keras.metrics.AUC(curve="PR", thresholds=((between[1:] + between[:-1]) / 2).tolist())
    metric.update_state(labels, scores, weights)
    return float(metric.result())


@pytest.mark.parametrize("different", [3, 20, 400])
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_areas_and_loss_of_probabilities_are_exact_whatever_they_are_merged_of(parts, different):
    rng = np.random.default_rng(parts)
    labels, weights = rng.integers(0, 2, 280), rng.integers(0, 3, 280).astype(float)
    scores = (rng.integers(0, different, 280) + 0.5 + 0.3 * different * labels) / (1.3 * different)
    merged = Probabilities()
    for part in np.split(rng.permutation(280), parts):
        merged.merge(probabilities(labels[part], scores[part], weights[part]))
    assert merged.auc() == pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    assert merged.pr_auc() == pytest.approx(keras_pr_auc(labels, scores, weights), abs=1e-5)
    assert merged.log_loss() == pytest.approx(sk.log_loss(labels, scores, sample_weight=weights))
    assert merged.label_variance() == pytest.approx(variance(labels, weights))


def test_a_perfect_order_and_none():
    labels, scores = [0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]
    assert probabilities(labels, scores).auc() == probabilities(labels, scores).pr_auc() == 1.0
    assert probabilities(labels, scores[::-1]).auc() == 0.0
    alike = probabilities(labels, [0.3] * 4)
    assert (alike.auc(), alike.pr_auc()) == (0.5, 0.5)


SHAPES = {"usual": (-0.8, 1.5), "rare": (-7.5, 1.0), "narrow": (0.0, 0.01), "sure": (0.0, 12.0)}
"""Mean and spread of the logits."""
ORDERS = {
    "as they come": lambda labels, scores: np.arange(len(labels)),
    "ascending": lambda labels, scores: np.argsort(scores),
    "label by label": lambda labels, scores: np.argsort(labels),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", ORDERS)
def test_of_many_probabilities_a_bounded_number_is_kept_and_the_areas_hold(shape, order, monkeypatch):
    rng, (mean, spread) = np.random.default_rng(1), SHAPES[shape]
    truth = rng.normal(0.0, 1.0, 40_000)
    labels = rng.random(40_000) < 1 / (1 + np.exp(-mean - truth))
    scores = 1 / (1 + np.exp(-mean - spread * truth))
    made = Probabilities()
    for part in np.split(ORDERS[order](labels, scores), 2):
        made.merge(probabilities(labels[part], scores[part]))
    assert made.auc() == pytest.approx(sk.roc_auc_score(labels, scores), abs=5e-6)
    assert len(made.scores) <= MOST_SCORES and not made.waiting
    monkeypatch.setattr(accumulators, "MOST_SCORES", len(labels) + 1)
    assert made.pr_auc() == pytest.approx(probabilities(labels, scores).pr_auc(), abs=1e-4)


def test_a_probability_or_a_label_that_is_no_number_makes_no_number():
    rng = np.random.default_rng(2)
    labels, scores = rng.integers(0, 2, 2 * MOST_SCORES), rng.random(2 * MOST_SCORES)
    scores[7] = math.nan
    made = probabilities(labels, scores)  # more than are kept, so it was counted with its neighbours
    assert all(math.isnan(value) for value in (made.auc(), made.pr_auc(), made.log_loss()))
    assert made.label_variance() == pytest.approx(0.25, abs=1e-3)
    made = probabilities([1.0, 0.0, math.nan], [0.4, 0.5, 0.6])
    assert all(math.isnan(value) for value in (made.auc(), made.pr_auc(), made.log_loss()))


def test_labels_of_one_kind_have_no_area_and_a_variance_of_exactly_0():
    for label in (0.0, 1.0):
        made = probabilities([label] * 3, [0.1, 0.5, 0.7], [0.1, 0.2, 0.3])
        assert made.label_variance() == 0.0 and math.isnan(made.auc()) and made.log_loss() > 0.0
    for made in (Probabilities(), probabilities([0, 1], [0.2, 0.4], [0.0, 0.0])):
        values = (made.auc(), made.pr_auc(), made.log_loss(), made.label_variance())
        assert all(math.isnan(value) for value in values)


def test_a_sure_and_wrong_probability_costs_what_an_impossible_one_does():
    assert probabilities([0], [1.0]).log_loss() == pytest.approx(-math.log(1e-7))
    assert probabilities([1], [1.0]).log_loss() == 0.0
