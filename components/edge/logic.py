"""How a TFLite model is held against the SavedModel that it was made of; NumPy and scikit-learn alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components.names import CLASSES, PREDICTIONS, SCORES

Answers = Mapping[str, np.ndarray]  # output -> [batch, ...]
LOSSES = frozenset({"log_loss", "mae", "rmse"})
"""Metrics that are better the smaller they are."""
QUANTIZATIONS = ("none", "float16", "dynamic", "int8")
"""To float16, of all constants, those of the transform graph, too; to int8, of the layers' weights; to int8,
of these and of what flows through the layers, in the ranges of real examples."""


def mean_difference(answers: Answers, expected: Answers, task: str) -> float:
    """How far answers are from those expected, as a mean over the rows.

    Of probabilities the total variation distance (of a binary task, the difference of the probabilities of
    1), from 0 to 1; of a regression the difference as a share of the expected answers' standard deviation.
    """
    if task == "multiclass":
        return float(np.abs(answers[SCORES] - expected[SCORES]).sum(axis=1).mean() / 2)
    difference = np.abs(answers[PREDICTIONS].astype(np.float64) - expected[PREDICTIONS])
    if task == "binary":
        return float(difference.mean())
    spread = float(np.std(expected[PREDICTIONS].astype(np.float64)))
    return float(difference.mean() / (spread or 1.0))


def measure(metric: str, answers: Answers, labels: Sequence[Any], task: str) -> float:
    """A metric of answers; NaN where the labels leave it undefined. Every row counts alike.

    Args:
        metric: one that a gate may name, of this task.
        answers: the model's.
        labels: of a binary task 0 or 1, of a multiclass one names as bytes, of a regression numbers.
        task: binary, multiclass or regression.
    """
    from sklearn import metrics

    if metric in ("auc", "pr_auc", "r2") and len(set(labels)) < 2:
        return float("nan")
    if task == "regression":
        functions = {
            "r2": metrics.r2_score,
            "mae": metrics.mean_absolute_error,
            "rmse": metrics.root_mean_squared_error,
        }
        return float(functions[metric](np.array(labels, np.float64), answers[PREDICTIONS].astype(np.float64)))
    if metric == "log_loss":
        likelihood = _likelihood(answers, labels, task)
        return float(-np.log(np.maximum(likelihood, 1e-7)).mean())
    if task == "multiclass":
        function = {"accuracy": metrics.accuracy_score, "balanced_accuracy": metrics.balanced_accuracy_score}
        return float(function[metric](list(labels), list(answers[PREDICTIONS])))
    truth, probability = np.array(labels, np.int64), answers[PREDICTIONS].astype(np.float64)
    if metric == "accuracy":
        return float(metrics.accuracy_score(truth, probability > 0.5))
    return float(
        {"auc": metrics.roc_auc_score, "pr_auc": metrics.average_precision_score}[metric](truth, probability)
    )


def _likelihood(answers: Answers, labels: Sequence[Any], task: str) -> np.ndarray:
    """The probability of each row's label; 0 for a class that the model does not know."""
    if task == "binary":
        probability = answers[PREDICTIONS].astype(np.float64)
        return np.where(np.array(labels) > 0.5, probability, 1.0 - probability)
    known = answers[CLASSES] == np.array(labels, object)[:, np.newaxis]
    return np.where(known, answers[SCORES].astype(np.float64), 0.0).sum(axis=1)


def drop(metric: str, value: float, base: float, relative: bool) -> float:
    """How much worse a value is than another one; as a share of it, where `relative`."""
    worse = value - base if metric in LOSSES else base - value
    return worse / abs(base) if relative and base else worse


def problems(found: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    """Why a TFLite model is not to be used.

    Args:
        found: what the process told: `difference`, `metric`, `value`, `base`, `drop`, `not_finite`.
        limits: `max_difference`, `max_drop`.
    """
    wrong = []
    if found["not_finite"]:
        wrong.append(f"{found['not_finite']} of {found['examples']} answers are not finite")
    elif not found["difference"] <= limits["max_difference"]:
        wrong.append(
            f"its answers differ from the SavedModel's by {found['difference']:.3g} in the mean, allowed "
            f"{limits['max_difference']:g} (edge.max_difference)"
        )
    name = found["metric"]
    if found["drop"] is None:
        wrong.append(f"{name} could not be measured on {found['examples']} held-out examples (edge.max_drop)")
    elif not found["drop"] <= limits["max_drop"]:
        wrong.append(
            f"{name} is {found['value']:.4g}, that of the SavedModel {found['base']:.4g} (edge.max_drop "
            f"{limits['max_drop']:g})"
        )
    return wrong
