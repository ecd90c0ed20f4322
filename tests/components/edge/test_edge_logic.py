"""What is measured of a TFLite model, and what is too much, on literal numbers."""

import math

import numpy as np
import pytest

from components.edge.logic import drop, mean_difference, measure, problems

BINARY = {"predictions": np.array([0.9, 0.2, 0.6, 0.4], np.float32)}
SCORES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], np.float32)
MULTICLASS = {
    "scores": SCORES,
    "classes": np.array([[b"a", b"b", b"c"]] * 2, object),
    "predictions": np.array([b"a", b"b"], object),
}
VALUES = {"predictions": np.array([10.0, 20.0, 30.0], np.float32)}


def test_the_difference_of_probabilities():
    other = {"predictions": BINARY["predictions"] + np.array([0.1, -0.1, 0.0, 0.2], np.float32)}
    assert mean_difference(other, BINARY, "binary") == pytest.approx(0.1, rel=1e-5)
    moved = {**MULTICLASS, "scores": SCORES + np.array([[-0.2, 0.2, 0.0], [0.0, 0.0, 0.0]], np.float32)}
    assert mean_difference(moved, MULTICLASS, "multiclass") == pytest.approx(0.1, rel=1e-5)


def test_the_difference_of_numbers_is_a_share_of_their_spread():
    other = {"predictions": VALUES["predictions"] + 1.0}
    assert mean_difference(other, VALUES, "regression") == pytest.approx(1 / math.sqrt(200 / 3))
    constant = {"predictions": np.full(3, 5.0)}
    assert mean_difference({"predictions": np.full(3, 5.5)}, constant, "regression") == 0.5


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("auc", 0.75),
        ("accuracy", 0.5),
        ("log_loss", -np.log([0.9, 0.8, 0.4, 0.4]).mean()),
        ("pr_auc", 5 / 6),
    ],
)
def test_metrics_of_a_binary_task(metric, value):
    assert measure(metric, BINARY, [1.0, 0.0, 0.0, 1.0], "binary") == pytest.approx(value, rel=1e-5)


def test_metrics_of_classes():
    labels = [b"a", b"c"]
    assert measure("accuracy", MULTICLASS, labels, "multiclass") == 0.5
    assert measure("balanced_accuracy", MULTICLASS, labels, "multiclass") == 0.5
    assert measure("log_loss", MULTICLASS, labels, "multiclass") == pytest.approx(-np.log([0.7, 0.1]).mean())
    unknown = measure("log_loss", MULTICLASS, [b"a", b"z"], "multiclass")
    assert unknown == pytest.approx(-np.log([0.7, 1e-7]).mean())


def test_metrics_of_numbers():
    labels = [12.0, 20.0, 27.0]
    assert measure("mae", VALUES, labels, "regression") == pytest.approx(5 / 3)
    assert measure("rmse", VALUES, labels, "regression") == pytest.approx(math.sqrt(13 / 3))
    assert measure("r2", VALUES, labels, "regression") == pytest.approx(1 - 13 / np.var(labels) / 3)


def test_what_compares_labels_needs_two_of_them():
    assert math.isnan(measure("auc", BINARY, [1.0] * 4, "binary"))
    assert math.isnan(measure("r2", VALUES, [1.0] * 3, "regression"))


def test_a_drop_is_what_got_worse():
    assert drop("auc", 0.8, 0.9, relative=False) == pytest.approx(0.1)
    assert drop("auc", 0.95, 0.9, relative=False) == pytest.approx(-0.05)
    assert drop("rmse", 11.0, 10.0, relative=False) == pytest.approx(1.0)
    assert drop("rmse", 11.0, 10.0, relative=True) == pytest.approx(0.1)
    assert drop("r2", -2.2, -2.0, relative=True) == pytest.approx(0.1)


LIMITS = {"max_difference": 0.02, "max_drop": 0.01}
GOOD = {
    "examples": 500,
    "not_finite": 0,
    "difference": 0.02,
    "metric": "auc",
    "value": 0.89,
    "base": 0.9,
    "drop": 0.01,
}


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        ({}, []),
        (
            {"difference": 0.0301},
            [
                "its answers differ from the SavedModel's by 0.0301 in the mean, allowed 0.02 "
                "(edge.max_difference)"
            ],
        ),
        (
            {"drop": 0.02, "value": 0.88},
            ["auc is 0.88, that of the SavedModel 0.9 (edge.max_drop 0.01)"],
        ),
        (
            {"drop": None, "value": None, "base": None},
            ["auc could not be measured on 500 held-out examples (edge.max_drop)"],
        ),
        (
            {"not_finite": 3, "difference": None, "drop": None},
            [
                "3 of 500 answers are not finite",
                "auc could not be measured on 500 held-out examples (edge.max_drop)",
            ],
        ),
    ],
    ids=["good", "far", "worse", "undefined", "NaN"],
)
def test_problems(found, wrong):
    assert problems({**GOOD, **found}, LIMITS) == wrong
