"""How well one column alone foretells the label: what finds leaks, and columns of numbers that are codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.label import Task

MEASURES: dict[Task, str] = {"binary": "AUC", "multiclass": "accuracy", "regression": "R2"}
MAX_ROWS = 20_000  # of the sample that are looked at
MAX_BINS = 200
_ROWS_A_BIN = 20


@dataclass(frozen=True)
class Target:
    """The label of the sampled rows.

    Attributes:
        task: what it sets.
        values: float64 [rows], a regression's value, else the index of the class; nan where there is none.
        classes: how many classes.
    """

    task: Task
    values: np.ndarray
    classes: int = 0

    @property
    def blind(self) -> float:
        """The measure of a guess that looks at nothing."""
        if self.task != "multiclass":
            return 0.5 if self.task == "binary" else 0.0
        known = self.values[~np.isnan(self.values)].astype(np.int64)
        return float(np.bincount(known).max() / len(known))


def power(values: Any, target: Target, as_category: bool) -> float:
    """The measure (`MEASURES`) that a column reaches alone on the half of the rows that it did not see.

    Args:
        values: one a row; null where missing.
        target: of the same rows.
        as_category: each value for itself; else numbers, in equally full bins - which see what is likely -
            and by the nearest row - which sees what is certain, whatever bins would cut through.

    Returns:
        0.5..1 for AUC, 0..1 for accuracy and R2.
    """
    if len(values) > MAX_ROWS:  # spread over all rows, which may be in an order
        chosen = np.linspace(0, len(values) - 1, MAX_ROWS).astype(np.int64)
        values, target = values.take(chosen), Target(target.task, target.values[chosen], target.classes)
    known = ~np.isnan(target.values)
    values, label = values.filter(pa.array(known)), target.values[known]
    order = np.random.default_rng(0).permutation(len(label))
    seen, held = np.sort(order[::2]), np.sort(order[1::2])
    if not len(held):
        return target.blind
    if as_category:
        return _score(_codes(values), label, seen, held, target)
    numbers = values.cast(pa.float64(), safe=False)
    binned = _score(_bins(numbers), label, seen, held, target)
    return max(binned, _score_guess(label[held], _nearest(numbers, label, seen, held), target))


def straight(values: Any, target: Target) -> float:
    """As `power` for numbers, but by a straight line alone, or in order: what a linear model would see."""
    known = ~np.isnan(target.values) & values.is_valid().to_numpy(zero_copy_only=False)
    numbers = values.filter(pa.array(known)).cast(pa.float64(), safe=False)
    label = target.values[known]
    if target.task == "binary":
        return _auc(label, numbers.to_numpy(zero_copy_only=False))
    order = np.random.default_rng(0).permutation(len(label))
    return _line(numbers, label, order[::2], order[1::2])


def _codes(values: Any) -> np.ndarray:
    """A group's number for each row; what is missing is a group, too."""
    indices = pc.dictionary_encode(values).indices
    return pc.fill_null(indices, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1


def _bins(numbers: Any) -> np.ndarray:
    there = numbers.is_valid().to_numpy(zero_copy_only=False)
    x = pc.fill_null(numbers, 0.0).to_numpy(zero_copy_only=False)
    if not there.any():
        return np.zeros(len(x), dtype=np.int64)
    bins = int(np.clip(there.sum() // (2 * _ROWS_A_BIN), 2, MAX_BINS))
    edges = np.unique(np.quantile(x[there], np.linspace(0, 1, bins + 1)[1:-1]))
    return np.where(there, np.searchsorted(edges, x, side="right") + 1, 0)


def _score(
    groups: np.ndarray, label: np.ndarray, seen: np.ndarray, held: np.ndarray, target: Target
) -> float:
    size = int(groups.max()) + 1
    counts = np.bincount(groups[seen], minlength=size)
    if target.task == "multiclass":
        known = label[seen].astype(np.int64)
        common = np.bincount(known, minlength=target.classes).argmax()
        pairs = np.bincount(groups[seen] * target.classes + known, minlength=size * target.classes)
        best = np.where(counts > 0, pairs.reshape(size, target.classes).argmax(axis=1), common)
        return _score_guess(label[held], best[groups[held]], target)
    mean = label[seen].mean()
    # A value seen once says little: it counts as if the mean had been seen with it.
    means = (np.bincount(groups[seen], label[seen], minlength=size) + mean) / (counts + 1)
    return _score_guess(label[held], means[groups[held]], target)


def _nearest(numbers: Any, label: np.ndarray, seen: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Of each row that was held out the label of the seen row with the nearest number."""
    span = pc.min_max(numbers)
    low, high = span["min"].as_py() or 0.0, span["max"].as_py() or 0.0
    far = high + 10 * (high - low) + 1  # what is missing is nearest to what is missing
    x = pc.fill_null(numbers, far).to_numpy(zero_copy_only=False)
    seen = seen[np.argsort(x[seen], kind="stable")]
    above = np.clip(np.searchsorted(x[seen], x[held]), 1, len(seen) - 1)
    nearer = x[held] - x[seen[above - 1]] < x[seen[above]] - x[held]
    return label[seen[np.where(nearer, above - 1, above)]]


def _score_guess(label: np.ndarray, guess: np.ndarray, target: Target) -> float:
    if target.task == "multiclass":
        return float(np.mean(guess == label))
    return _auc(label, guess) if target.task == "binary" else _r2(label, guess)


def _line(numbers: Any, label: np.ndarray, seen: np.ndarray, held: np.ndarray) -> float:
    x = pc.fill_null(numbers, pc.mean(numbers).as_py() or 0.0).to_numpy(zero_copy_only=False)
    spread = x[seen].std()
    if not spread:
        return 0.0
    z = (x - x[seen].mean()) / spread
    slope = float(np.mean(z[seen] * (label[seen] - label[seen].mean())))
    return _r2(label[held], label[seen].mean() + slope * z[held])


def _r2(label: np.ndarray, guess: np.ndarray) -> float:
    variance = float(np.var(label))
    return max(1.0 - float(np.mean((label - guess) ** 2)) / variance, 0.0) if variance else 0.0


def _auc(label: np.ndarray, guess: np.ndarray) -> float:
    """Either way round: a column that is high where the label is 0 says as much."""
    _, ranks, ties = np.unique(guess, return_inverse=True, return_counts=True)
    rank = (np.cumsum(ties) - (ties - 1) / 2)[ranks]
    ones = label == 1
    positive, negative = int(ones.sum()), int((~ones).sum())
    if not positive or not negative:
        return 0.5
    auc = (rank[ones].sum() - positive * (positive + 1) / 2) / (positive * negative)
    return float(max(auc, 1.0 - auc))
